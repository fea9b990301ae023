"""What crosses the network between the agent and a landing service; both sides import these modules and nothing else of each other.

Invariants: every message is one item of deterministic CBOR (or `piece.MAGIC` and such an item, then raw bytes) and is
refused when it is anything else; names that become topics or paths are checked here, before a byte is written
anywhere; a refusal always carries a stable code.
"""
