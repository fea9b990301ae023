"""Runs: which data belongs together, when it begins and ends, and what is made of it at the end (docs/runs.md)."""
