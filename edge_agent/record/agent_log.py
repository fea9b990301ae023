"""The agent log: one append-only tree over the life of the agent, kept in one file and made durable leaf by leaf (docs/signed-chunks.md, Agent log).

The file uses the journal's frames: OPEN with the nonce, then LEAF and HEAD. A torn tail (a crash while appending) was never acknowledged and is cut off at open.
Thread-safe. A few leaves a minute at most: every `append` is one ``fdatasync``.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_agent.errors import IntegrityError
from edge_agent.record import journal
from edge_agent.record.journal import Frame, LeafFrame, Opening
from edge_agent.record.session import Session
from edge_agent.record.tree import SignedHead, Tree
from edge_agent.seal.cose import parse as parse_cose
from edge_agent.seal.head import State, head_hash, parse_head
from edge_agent.seal.leaf import Leaf, SegmentClose
from edge_agent.seal.leaf import parse as parse_leaf
from edge_agent.seal.receipt import Inclusion
from edge_agent.seal.tree import consistency_proof, inclusion_proof, leaf_hash
from edge_agent.storage import Storage


class AgentLog:
    """See the module."""

    def __init__(self, path: Path, session: Session, storage: Storage, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Open or begin the log.

        Raises:
            IntegrityError: the file is of another agent, or is not a log.
            DiskError: the disk refused.
        """
        self._storage = storage
        self._lock = threading.Lock()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = storage.open_append(path)
            storage.write(fd, Opening(session.agent_id.hex(), os.urandom(16)).frame())
            storage.sync_data(fd)
            os.close(fd)
            storage.sync_folder(path.parent)
        data = path.read_bytes()
        entries = list(journal.scan(data))
        opening = entries[0] if entries else None
        if not isinstance(opening, Opening) or opening.final_name != session.agent_id.hex():
            raise IntegrityError(
                f"{path.name} is not the log of this agent", why=f"it begins with {opening!r}"[:120],
                try_="restore the spool that belongs to this identity, or enrol again", code="LOG_FOREIGN",
            )  # fmt: skip
        self.log_id = hashlib.sha256(b"HSC1-log\0" + session.agent_id + opening.context).digest()[:16]
        self._tree = Tree(self.log_id, session, now_ns)
        self._hashes: list[bytes] = []
        for entry in entries[1:]:
            if isinstance(entry, LeafFrame):
                self._hashes.append(leaf_hash(entry.payload))
                self._tree.append(entry.payload)
            elif isinstance(entry, tuple) and entry[0] is Frame.HEAD:
                payload = parse_cose(entry[1]).payload
                self._tree.anchors = [SignedHead(parse_head(payload), entry[1], head_hash(payload))]
                self._tree.head_seq = self._tree.anchors[0].head.head_seq + 1
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        good = sum(len(_again(entry)) for entry in entries)
        if good < len(data):
            os.ftruncate(self._fd, good)
            storage.sync_data(self._fd)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._hashes)

    def append(self, leaf: Leaf) -> int:
        """Add a leaf; durable when it returns; its index."""
        payload = leaf.payload()
        with self._lock:
            self._storage.write(self._fd, journal.leaf_frame(0, payload))
            self._storage.sync_data(self._fd)
            self._hashes.append(leaf_hash(payload))
            return self._tree.append(payload)

    def head(self) -> SignedHead:
        """A signed head over all leaves; durable before it is returned."""
        with self._lock:
            signed = self._tree.sign(self._tree.frontier, State.OPEN, anchor=True)
            self._tree.anchors = self._tree.anchors[-1:]
            self._storage.write(self._fd, journal.frame(Frame.HEAD, signed.cose))
            self._storage.sync_data(self._fd)
            return signed

    def consistency(self, first: int, size: int) -> list[bytes]:
        """Proof that the log of ``first`` leaves is a prefix of the log of ``size``; empty for ``first`` 0."""
        with self._lock:
            return consistency_proof(self._hashes[:size], first) if 0 < first < size else []

    def inclusion(self, index: int, size: int) -> Inclusion:
        """Proof that leaf ``index`` is in the log of ``size`` leaves."""
        with self._lock:
            proof = inclusion_proof(self._hashes[:size], index)
            return Inclusion(self.log_id, size, index, self._tree.payloads[index], tuple(proof))

    def segment_close(self, segment_id: bytes, head: bytes) -> int | None:
        """The index of the SEGMENT_CLOSE leaf of a segment with this close head."""
        with self._lock:
            for index in range(len(self._tree.payloads) - 1, -1, -1):
                payload = self._tree.payloads[index]
                if payload[4] == SegmentClose.TYPE and segment_id in payload:
                    leaf = parse_leaf(payload)
                    if isinstance(leaf, SegmentClose) and (leaf.segment_id, leaf.head) == (segment_id, head):
                        return index
        return None

    def close(self) -> None:
        """Let go of the file; callable twice."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def _again(entry: journal.Entry) -> bytes:
    """The bytes of an entry in the file."""
    if isinstance(entry, Opening):
        return entry.frame()
    if isinstance(entry, LeafFrame):
        return journal.leaf_frame(entry.offset, entry.payload)
    assert isinstance(entry, tuple)  # noqa: S101 - a log holds no tables and rows
    return journal.frame(entry[0], entry[1])
