"""The agent log: one append-only tree over the life of the agent (docs/signed-chunks.md, Agent log), durable leaf by leaf.

The file uses the journal's frames: OPEN with the nonce, then LEAF and HEAD. A torn tail (a crash while appending) was never acknowledged
and is cut off at open; a whole frame behind a damaged one was acknowledged, so then nothing is cut and the log is refused. Thread-safe.
A few leaves a minute at most: every `append` is one ``fdatasync``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_agent.errors import DiskError, IntegrityError
from edge_agent.record import journal
from edge_agent.record.journal import Frame, LeafFrame, Opening
from edge_agent.record.session import Session
from edge_agent.record.tree import SignedHead, Tree, signed_head
from edge_agent.seal import cose
from edge_agent.seal.cbor import loads_own
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import State
from edge_agent.seal.leaf import Boot, Leaf, SegmentClose
from edge_agent.seal.leaf import parse as parse_leaf
from edge_agent.seal.log_leaf import ConfigChange, KeyAdd, KeyCompromised, KeyRetire, LogRestart, SegmentOpen
from edge_agent.seal.nodes import Nodes
from edge_agent.seal.receipt import Inclusion
from edge_agent.seal.tree import leaf_hash
from edge_agent.storage import Storage, durable

L = TypeVar("L", Boot, ConfigChange)
_REMEMBERED = frozenset(kind.TYPE for kind in (KeyAdd, KeyRetire, KeyCompromised, Boot, ConfigChange))


class AgentLog:
    """See the module."""

    def __init__(
        self, path: Path, session: Session, storage: Storage, now_ns: Callable[[], int] = time.time_ns, clock: Callable[[], Clock] = Clock
    ) -> None:
        """Open or begin the log.

        Raises:
            IntegrityError: the file is of another agent, is not a log, or is damaged before its end.
            DiskError: the disk refused.
        """
        self._storage = storage
        self._path = path
        self._now_ns, self._clock = now_ns, clock
        self._lock = threading.Lock()
        if not storage.exists(path):
            _begin(path, session, storage)
        self._open(session)

    def _open(self, session: Session) -> None:
        path, storage = self._path, self._storage
        data = storage.read_file(path)
        entries = list(journal.entries(data))
        opening = entries[0][0] if entries else None
        if not isinstance(opening, Opening) or opening.final_name != session.agent_id.hex():
            raise IntegrityError(
                f"{path.name} is not the log of this agent", why=f"it begins with {opening!r}"[:120],
                try_="restore the spool that belongs to this identity, or enrol again", code="LOG_FOREIGN",
            )  # fmt: skip
        self._size = entries[-1][1]
        lost = next(journal.beyond(data, self._size), None)
        if lost is not None:
            raise IntegrityError(
                f"{path.name} is damaged", why=f"byte {self._size} of {len(data)} cannot be read, and more was written behind it",
                try_="restore the file from a copy; check the disk (smartctl, kernel log)", code="LOG_DAMAGED",
            )  # fmt: skip
        self.log_id = hashlib.sha256(b"HSC1-log\0" + session.agent_id + opening.context).digest()[:16]
        self._tree = Tree(self.log_id, session, self._now_ns, self._clock)
        self._nodes = Nodes()
        self._closes: dict[tuple[bytes, bytes], int] = {}
        self._opened: set[bytes] = set()
        self._keys: dict[tuple[bytes, ...], list[int]] = {}
        self._ended: set[tuple[bytes, ...]] = set()
        self._last: dict[int, Leaf] = {}
        for entry, _ in entries[1:]:
            self._take(entry)
        self._fd = storage.reopen(path)
        if self._size < len(data):
            storage.cut(self._fd, self._size)
            storage.sync_data(self._fd)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._nodes)

    def append(self, leaf: Leaf) -> int:
        """Add a leaf; durable when it returns; its index.

        Raises:
            DiskError: the disk refused; the log is as it was.
        """
        with self._lock:
            return self._append(leaf)

    def head(self) -> SignedHead:
        """A signed head over all leaves; durable before it is returned.

        Raises:
            DiskError: the disk refused; the log is as it was.
        """
        with self._lock:
            tree = self._tree
            anchors, number = list(tree.anchors), tree.head_seq
            signed = tree.sign(tree.frontier, State.OPEN, anchor=True)
            try:
                # One signature is enough for what stays here; the one with all of them goes to the witnesses.
                self._write(journal.frame(Frame.HEAD, cose.sign(tree.session.key, cose.HEAD, signed.head.payload())))
            except DiskError:
                tree.anchors, tree.head_seq = anchors, number
                raise
            tree.anchors = [signed]
            return signed

    def consistency(self, first: int, size: int) -> list[bytes]:
        """Proof that the log of ``first`` leaves is a prefix of the log of ``size``; empty for ``first`` 0."""
        with self._lock:
            return self._nodes.consistency(first, size) if 0 < first < size else []

    def inclusion(self, index: int, size: int) -> Inclusion:
        """Proof that leaf ``index`` is in the log of ``size`` leaves."""
        with self._lock:
            proof = self._nodes.inclusion(index, size)
            return Inclusion(self.log_id, size, index, self._tree.payloads[index], tuple(proof))

    def segment_close(self, segment_id: bytes, head: bytes) -> int | None:
        """The index of the SEGMENT_CLOSE leaf of a segment with this close head."""
        with self._lock:
            return self._closes.get((segment_id, head))

    def segment_known(self, segment_id: bytes) -> bool:
        """Whether the log has a SEGMENT_OPEN leaf of a segment."""
        with self._lock:
            return segment_id in self._opened

    def told_open(self, run_id: bytes, ordinal: int) -> bool:
        """Whether the log has a SEGMENT_OPEN leaf of the segment of a run with this ordinal; looks at every leaf."""
        with self._lock:
            bodies = (loads_own(payload[5:]) for payload in self._tree.payloads if payload[4] == SegmentOpen.TYPE)
            return any((body[2], body[3]) == (run_id, ordinal) for body in bodies)

    def open_keys(self) -> list[tuple[bytes, ...]]:
        """The kids of each session that was added and neither retired nor compromised, oldest first."""
        with self._lock:
            return [kids for kids in self._keys if kids not in self._ended]

    def key_leaves(self, kid: bytes) -> list[int]:
        """The indices of the KEY_ADD, KEY_RETIRE and KEY_COMPROMISED leaves of the session that has this key."""
        with self._lock:
            return [index for kids, indices in self._keys.items() if kid in kids for index in indices]

    def last(self, kind: type[L]) -> L | None:
        """The newest BOOT or CONFIG_CHANGE leaf."""
        with self._lock:
            found = self._last.get(kind.TYPE)
            return found if isinstance(found, kind) else None

    def use(self, session: Session) -> None:
        """Announce a session by its KEY_ADD leaf, and sign heads with it from now on.

        Raises:
            DiskError: the disk refused; the log goes on with the session before.
        """
        with self._lock:
            if session.kids not in self._keys:
                self._append(KeyAdd(session.kids, hashlib.sha256(session.record_cose).digest(), self._now_ns()))
            self._tree.session = session

    def restart(self) -> None:
        """Go on in a new log with another id, after the owner approved it at the landing service; this one is kept beside it.

        The new log begins with LOG_RESTART. A crash leaves the old log, or the new one whole.

        Raises:
            DiskError: the disk refused; the log is as it was.
        """
        with self._lock:
            session, size = self._tree.session, len(self._nodes)
            kept = self._path.with_name(f"agent-{self.log_id.hex()}.log")
            durable.replace_file(self._storage, kept, self._storage.read_file(self._path)[: self._size])
            leaf = LogRestart(self.log_id, size, self._now_ns())
            opening = Opening(session.agent_id.hex(), os.urandom(16))
            durable.replace_file(self._storage, self._path, opening.frame() + journal.leaf_frame(0, leaf.payload()))
            self._storage.close(self._fd)
            self._open(session)

    def close(self) -> None:
        """Let go of the file; callable twice."""
        with self._lock:
            if self._fd >= 0:
                self._storage.close(self._fd)
                self._fd = -1

    def _append(self, leaf: Leaf) -> int:
        payload = leaf.payload()
        self._write(journal.leaf_frame(0, payload))
        return self._add(payload)

    def _take(self, entry: journal.Entry) -> None:
        """One frame of the file, at open."""
        if isinstance(entry, LeafFrame):
            self._add(entry.payload)
        elif isinstance(entry, tuple) and entry[0] is Frame.HEAD:
            self._tree.anchors = [signed_head(entry[1])]
            self._tree.head_seq = self._tree.anchors[0].head.head_seq + 1

    def _add(self, payload: bytes) -> int:
        digest, kind = leaf_hash(payload), payload[4]
        self._nodes.append(digest)
        index = self._tree.append(payload, digest)
        # Of segments there are many: what a start does for each of them decides how long it takes.
        if kind == SegmentClose.TYPE:
            body = loads_own(payload[5:])
            self._closes[body[1], body[2]] = index
        elif kind == SegmentOpen.TYPE:
            self._opened.add(loads_own(payload[5:])[1])
        elif kind in _REMEMBERED:
            self._remember(parse_leaf(payload), index)
        return index

    def _remember(self, leaf: Leaf, index: int) -> None:
        if isinstance(leaf, KeyAdd | KeyRetire | KeyCompromised):
            self._keys.setdefault(leaf.kids, []).append(index)
            if not isinstance(leaf, KeyAdd):
                self._ended.add(leaf.kids)
        else:
            self._last[leaf.TYPE] = leaf

    def _write(self, encoded: bytes) -> None:
        """Append durably, or leave the file as it was: half a frame would hide everything that is written behind it."""
        if self._storage.size(self._path) > self._size:
            self._storage.cut(self._fd, self._size)
        try:
            self._storage.write(self._fd, encoded)
            self._storage.sync_data(self._fd)
        except DiskError:
            with contextlib.suppress(DiskError):
                self._storage.cut(self._fd, self._size)
            raise
        self._size += len(encoded)


def _begin(path: Path, session: Session, storage: Storage) -> None:
    """Create the file with its first frame, in one step: a crash leaves no log or a whole one."""
    durable.make_folder(storage, path.parent)
    new = path.with_name(path.name + ".new")
    storage.unlink(new)
    fd = storage.open_append(new)
    try:
        storage.write(fd, Opening(session.agent_id.hex(), os.urandom(16)).frame())
        storage.sync_data(fd)
    finally:
        storage.close(fd)
    storage.rename(new, path)
    storage.sync_folder(path.parent)
