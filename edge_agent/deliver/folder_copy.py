"""Copies a file to the disk or share of a target, and reads back from there what it holds.

Invariant: a byte counts as read back only if a sync of the target returned after it was written, and the memory that held it was let go
of, where the system can: what is hashed then comes from the disk or from the server.

A large file goes through in spans: while one is written, the one before is made durable, and the one before that is read back and hashed.
Each span is read once, after its own sync.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.storage import DISK

SPAN = 64 << 20
"""Bytes between two syncs. What is not larger is copied, synced and read back in one thread, one after the other."""
PIECE = 4 << 20
AHEAD = 4
"""Pieces on their way at once, in each direction."""
BEHIND = 2
"""Spans that may be written and not yet durable."""
AT_ONCE = 1 << 18
"""Bytes a call; with larger ones Linux takes memory in large pieces, which can take ten times as long."""


@dataclass(frozen=True, slots=True)
class Reins:
    """How a copy is slowed down, stopped and followed; called from several threads.

    ``pace`` is asked before so many bytes are written and waits as long as it likes, ``check`` before each read of the target; both raise
    to stop. ``progress`` gets the number of bytes written so far.
    """

    pace: Callable[[int], None]
    check: Callable[[], None]
    progress: Callable[[int], None]


class Copied(NamedTuple):
    """Bytes written (only if they are as many as expected all of them were read back), SHA-256 of what was read back, and of the source."""

    size: int
    held: bytes
    sent: bytes | None


def copy(source: Path, target: Path, size: int, reins: Reins, *, hash_source: bool) -> Copied:
    """Copy ``source`` to a new file and read that back.

    Args:
        source: read to its end, or a piece farther than ``size`` where it has become longer.
        target: must not exist; is left behind when this fails.
        size: bytes that ``source`` should have.
        reins: see there.
        hash_source: whether what is read is hashed too; not needed where its digest is known.

    Raises:
        OSError: one of the two disks refused.
    """
    digest = hashlib.sha256() if hash_source else None
    with source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        if size > SPAN:
            with ExitStack() as stack:
                written, held = _side_by_side(reader, writer, target, size, reins, digest, stack)
        else:
            written, held = _in_turn(reader, writer, target, size, reins, digest)
    return Copied(written, held, None if digest is None else digest.digest())


def make_durable(path: Path) -> None:
    """Sync a file that is there."""
    # Windows syncs only what may be written.
    with path.open("r+b" if os.name == "nt" else "rb", buffering=0) as file:
        _sync(file)


def read_back(path: Path, reins: Reins) -> bytes:
    """SHA-256 of what the disk holds of a file that was synced before."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(AT_ONCE))
    with path.open("rb", buffering=0) as file:
        _let_go(file, 0, 0)
        while length := file.readinto(buffer):
            reins.check()
            digest.update(buffer[:length])
    return digest.digest()


def _in_turn(reader: FileIO, writer: FileIO, target: Path, size: int, reins: Reins, digest: hashlib._Hash | None) -> tuple[int, bytes]:
    buffer, written = memoryview(bytearray(min(PIECE, size + 1))), 0
    while written <= size and (length := reader.readinto(buffer)):
        _write(writer, buffer[:length], reins)
        if digest is not None:
            digest.update(buffer[:length])
        written += length
        reins.progress(written)
    _sync(writer)
    return written, read_back(target, reins)


def _side_by_side(
    reader: FileIO, writer: FileIO, target: Path, size: int, reins: Reins, digest: hashlib._Hash | None, stack: ExitStack
) -> tuple[int, bytes]:
    """The steps in threads of their own, each taking the pieces in order; a buffer is used again when its steps are done."""
    buffers = [memoryview(bytearray(PIECE)) for _ in range(AHEAD)]
    back = _Back(stack.enter_context(target.open("rb", buffering=0)), reins, _thread(stack))
    writing, syncing, reading, hashing = (_thread(stack) for _ in range(4))
    going: deque[tuple[int, list[Future[Any]]]] = deque()
    syncs: deque[Future[None]] = deque()
    reads: list[Future[None]] = []
    written = begun = number = 0
    while written <= size:
        if len(going) == AHEAD:
            _settle(*going.popleft(), reins)
        buffer = buffers[number % AHEAD]
        if not (length := reader.readinto(buffer)):
            break
        _let_go(reader, written, length)
        steps: list[Future[Any]] = [writing.submit(_write_soon, writer, written, buffer[:length], reins)]
        if digest is not None:
            steps.append(hashing.submit(digest.update, buffer[:length]))
        written, number = written + length, number + 1
        going.append((written, steps))
        if written - begun >= SPAN or written >= size:
            syncs.append(syncing.submit(_sync_span, writer, begun, written - begun, steps[0]))
            reads.append(reading.submit(back.read, written - begun, syncs[-1]))
            begun = written
            if len(syncs) > BEHIND:
                syncs.popleft().result()
    while going:
        _settle(*going.popleft(), reins)
    for read in reads:
        read.result()
    return written, back.digest()


class _Back:
    """What the target holds, in order: while a piece is hashed in ``hashing``, the next one is read."""

    def __init__(self, file: FileIO, reins: Reins, hashing: ThreadPoolExecutor) -> None:
        self._file = file
        self._reins = reins
        self._hashing = hashing
        self._digest = hashlib.sha256()
        self._buffers = [memoryview(bytearray(PIECE)) for _ in range(AHEAD)]
        self._hashed: deque[Future[None]] = deque()
        self._number = 0

    def read(self, size: int, synced: Future[None]) -> None:
        """The next ``size`` bytes, once they are durable; fewer where the file ends before."""
        synced.result()
        while size:
            if len(self._hashed) == AHEAD:
                self._hashed.popleft().result()
            buffer = self._buffers[self._number % AHEAD][:size]
            length = 0
            while length < len(buffer) and (more := self._file.readinto(buffer[length : length + AT_ONCE])):
                self._reins.check()
                length += more
            self._hashed.append(self._hashing.submit(self._digest.update, buffer[:length]))
            self._number += 1
            size = size - length if length == len(buffer) else 0

    def digest(self) -> bytes:
        """SHA-256 of all that was read."""
        for hashed in self._hashed:
            hashed.result()
        return self._digest.digest()


def _write(file: FileIO, data: memoryview, reins: Reins) -> None:
    while data:
        reins.pace(min(AT_ONCE, len(data)))
        data = data[file.write(data[:AT_ONCE]) :]


def _write_soon(file: FileIO, offset: int, data: memoryview, reins: Reins) -> None:
    """Write, and let the disk begin at once."""
    _write(file, data, reins)
    DISK.begin_sync(file.fileno(), offset, len(data))


def _sync_span(file: FileIO, offset: int, size: int, written: Future[None]) -> None:
    """Once the last of it is written."""
    written.result()
    _sync(file)
    _let_go(file, offset, size)


def _sync(file: FileIO) -> None:
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def _let_go(file: FileIO, offset: int, size: int) -> None:
    """What the disk has of these bytes (``size`` 0: to the end) leaves the memory, where the system can."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_DONTNEED)


def _settle(end: int, steps: list[Future[Any]], reins: Reins) -> None:
    for step in steps:
        step.result()
    reins.progress(end)


def _thread(stack: ExitStack) -> ThreadPoolExecutor:
    """One more thread, which ends with the copy; when that fails, what it has not begun is left."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="folder")
    stack.callback(partial(thread.shutdown, cancel_futures=True))
    return thread
