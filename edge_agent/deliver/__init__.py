"""Sending: one file per target behind one small Protocol, and the engine that keeps order, retries and keeps the proofs.

A target is asked for a proof that it holds the bytes, never for a status code: what it returns is a `Receipt`.
"""
