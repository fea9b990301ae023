"""The WITNESS receipts that this agent holds: the newest is named by every head that is signed from then on (not before).

A receipt is durable before a head can name it, and is kept until the segment whose close head names it is in the book, which then keeps it
with its run. `KEPT` is far more than arrive between the signing of a close head and its entry in the book.
"""

from __future__ import annotations

import hashlib

from edge_agent.record.session import Newest
from edge_agent.seal import cose
from edge_agent.seal.receipt import parse_witness
from edge_agent.spool.state import State

PREFIX = "receipt/"
NEWEST = "newest-receipt"
KEPT = 1000
SLACK = 100


class Held:
    """In the spool's state, by SHA-256. ``newest`` is what the sessions of this process look at."""

    def __init__(self, state: State, newest: Newest, agent_id: bytes) -> None:
        """Go on with the newest receipt of the process before, if it is one of this agent."""
        self._state = state
        self._newest = newest
        digest = state.get(NEWEST)
        data = None if digest is None else receipt(state, digest)
        if data is not None and parse_witness(cose.payload_of(data)).agent_id == agent_id:
            newest.receipt = digest

    def take(self, data: bytes) -> None:
        """Keep a receipt (COSE) that was verified; durable when heads begin to name it."""
        digest = hashlib.sha256(data).digest()
        if digest == self._newest.receipt:
            return
        self._state.put(f"{PREFIX}{digest.hex()}", data)
        self._state.put(NEWEST, digest)
        self._newest.receipt = digest
        self._forget(digest)

    def _forget(self, newest: bytes) -> None:
        held = self._state.under(PREFIX)
        if len(held) > KEPT + SLACK:
            by_time = sorted(held, key=lambda key: parse_witness(cose.payload_of(held[key])).t_ns)
            for key in by_time[:-KEPT]:
                if key != f"{PREFIX}{newest.hex()}":
                    self._state.delete(key)


def receipt(state: State, digest: bytes) -> bytes | None:
    """The receipt with that SHA-256; None when it is not held."""
    return state.get(f"{PREFIX}{digest.hex()}")
