"""The tree of one segment while it grows: leaf payloads, the frontier, and the heads signed over it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.record.clock import Reading, read_clocks
from edge_agent.record.session import Session
from edge_agent.seal import cose
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head, State, head_hash, parse_head
from edge_agent.seal.keys import KeyChain, joined
from edge_agent.seal.tree import EPOCH, Frontier, leaf_hash

ANCHOR_S = 60.0
HEAD_LEAVES = 256
HEAD_S = 1.0


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head as it was signed: its COSE bytes and the hash of its payload."""

    head: Head
    cose: bytes
    hash: bytes
    chain: KeyChain | None = None
    """What is needed to check it, for a head that leaves the process by itself."""


def signed_head(data: bytes) -> SignedHead:
    """A head that this agent signed, as a journal or a finished file holds it."""
    payload = cose.payload_of(data)
    return SignedHead(parse_head(payload), data, head_hash(payload))


@dataclass(slots=True)
class Tree:
    """Leaves and heads of one tree. Not thread-safe: one lock of its owner guards the leaves, one the heads."""

    tree_id: bytes
    session: Session
    now_ns: Callable[[], int] = time.time_ns
    clock: Callable[[], Clock] = Clock
    payloads: list[bytes] = field(default_factory=list)
    frontier: Frontier = field(default_factory=Frontier)
    anchors: list[SignedHead] = field(default_factory=list)
    head_seq: int = 0
    earlier: KeyChain | None = None
    """Key chain of the boot that began this tree, when another one finishes it."""
    _epochs: list[bytes] = field(init=False, default_factory=list)

    def append(self, payload: bytes, digest: bytes | None = None) -> int:
        """Add a leaf; returns its index. ``digest``: its `leaf_hash`, where that is known."""
        self.payloads.append(payload)
        digest = digest or leaf_hash(payload)
        if self.frontier.size % EPOCH == EPOCH - 1:
            self._epochs.append(self.frontier.completed_by(digest))
        return self.frontier.append_hash(digest)

    def epochs(self) -> tuple[bytes, ...]:
        """What `epoch_roots` would make of all leaves, kept while they came: a segment that closes holds up the next one."""
        return (*self._epochs, *self.frontier.begun())

    def read(self) -> Reading:
        """The clocks now."""
        return read_clocks(self.clock, self.now_ns)

    def sign(
        self, frontier: Frontier, state: State, *, anchor: bool, session: Session | None = None, at: Reading | None = None
    ) -> SignedHead:
        """Sign a head over ``frontier``, which must be durable already; an anchor is kept for the file.

        ``at`` is when the tree was so large; default: now. A journal's head has the signature of the session's first key; an anchor has
        one of each key, which takes about 1 ms.
        """
        signer = session or self.session
        moment = at or self.read()
        head = Head(
            agent_id=signer.agent_id,
            tree_id=self.tree_id,
            size=frontier.size,
            root=frontier.root(),
            head_seq=self.head_seq,
            previous=self.anchors[-1].hash if self.anchors else None,
            t_utc_ns=moment.t_utc_ns,
            t_boot_ns=moment.t_boot_ns,
            boot_id=signer.boot_id,
            clock=moment.clock,
            state=state,
            not_before=signer.newest.receipt,
        )
        payload = head.payload()
        data = cose.sign_all(signer.keys, cose.HEAD, payload) if anchor else cose.sign(signer.key, cose.HEAD, payload)
        signed = SignedHead(head, data, head_hash(payload), signer.chain)
        self.head_seq += 1
        if anchor:
            self.anchors.append(signed)
        return signed

    def chain(self) -> KeyChain:
        """Everything needed to check the anchors: the keys of this boot, and of the boot that began the tree."""
        return self.session.chain if self.earlier is None else joined((self.earlier, self.session.chain))
