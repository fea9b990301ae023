"""Tree heads: what is signed instead of each chunk (docs/signed-chunks.md, Heads)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from edge_agent.seal.cbor import SealError, dumps, fields, loads
from edge_agent.seal.clock import Clock, parse_clock

NAME = "HSC/1/head"
SHA256_ID = 1


class State(IntEnum):
    """State of the tree when the head was signed."""

    OPEN = 0
    CLOSED = 1
    RECOVERED = 2
    DAMAGED = 3


@dataclass(frozen=True, slots=True)
class Head:
    """One head. ``previous`` is the hash of the previous anchor head's payload; times are ns (UTC, and since boot).

    ``not_before`` is the SHA-256 of the newest WITNESS receipt (COSE) that the signer held: the head is younger than that receipt.
    """

    agent_id: bytes
    tree_id: bytes
    size: int
    root: bytes
    head_seq: int
    previous: bytes | None
    t_utc_ns: int
    t_boot_ns: int
    boot_id: bytes
    clock: Clock
    state: State
    not_before: bytes | None = None

    def payload(self) -> bytes:
        """The bytes that COSE signs."""
        return dumps(
            {
                1: NAME, 2: self.agent_id, 3: self.tree_id, 4: self.size, 5: self.root, 6: self.head_seq, 7: self.previous,
                8: self.t_utc_ns, 9: self.t_boot_ns, 10: self.boot_id, 11: self.clock.value(), 12: self.not_before, 13: int(self.state),
                14: SHA256_ID,
            }
        )  # fmt: skip


def head_hash(payload: bytes) -> bytes:
    """SHA-256 of a head's payload: its name in receipts, logs and the next head."""
    return hashlib.sha256(payload).digest()


def parse_head(payload: bytes) -> Head:
    """The head in a payload.

    Raises:
        SealError: not a head of HSC/1.
    """
    optional = (32, type(None))
    name, agent, tree, size, root, seq, previous, t_utc, t_boot, boot, clock, not_before, state, algorithm = fields(
        loads(payload, "head"), "head", k1=str, k2=16, k3=16, k4=int, k5=32, k6=int, k7=optional, k8=int, k9=int, k10=16,
        k11=list, k12=optional, k13=int, k14=int,
    )  # fmt: skip
    if name != NAME or algorithm != SHA256_ID or state not in set(State):
        raise SealError("head: a field has a value that HSC/1 does not know")
    return Head(agent, tree, size, root, seq, previous, t_utc, t_boot, boot, parse_clock(clock), State(state), not_before)
