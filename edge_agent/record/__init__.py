"""Blocks and frames become chunks, chunks become signed segments; a journal makes them durable as they arrive (docs/recording.md)."""
