"""HSC/1: leaves, trees, heads, keys, receipts (docs/signed-chunks.md).

Pure: bytes in, bytes out. No files, no network, no clock of its own. Everything that cannot be parsed raises `SealError`, whatever the
bytes; nothing here trusts a length, a type or an order that it did not check.
"""
