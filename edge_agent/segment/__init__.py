"""The layout of a segment, its reader, its verifier, the master file. The one place that knows where things are in the file (docs/layout.md)."""
