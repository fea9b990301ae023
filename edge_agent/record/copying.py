"""Copies a file and hashes it twice on the way: as a whole, and by pieces for the tree. Each byte is read once.

The hashes are of the bytes that are written, not of a second look at the vendor's file: that is why the kernel's own copy
(``copy_file_range``, reflink) is of no use here. A large file is read, hashed, hashed by pieces and written side by side: on two cores that
takes half of the time. The disk begins with each piece as soon as it is written, and what it has taken leaves the page cache: the copy
needs 64 MiB of it, however large the file. A small file goes through one thread, in an order that does not change.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from io import BufferedReader

from edge_agent.seal.leaf import PIECE
from edge_agent.seal.tree import Frontier
from edge_agent.storage import Storage

LARGE = 8 * PIECE
AHEAD = 4
"""Pieces on their way at once: 32 MiB."""
BEHIND = 8
"""Pieces by which the disk may be behind: 64 MiB of memory."""


def copy_and_hash(source: BufferedReader, size: int, copy: int, storage: Storage) -> tuple[bytes, bytes]:
    """Copy ``source`` to its end into ``copy``, durably.

    Args:
        source: open at its beginning.
        size: that it has or had, in bytes: whether it is large.
        copy: open file of ``storage``, empty.
        storage: the file system.

    Returns:
        SHA-256 of all of it, and the RFC 9162 root over its pieces of 8 MiB.

    Raises:
        OSError: ``source`` cannot be read.
        DiskError: the copy cannot be written.
    """
    digest, pieces, written = hashlib.sha256(), Frontier(), 0

    def by_pieces(piece: memoryview) -> None:
        leaf = hashlib.sha256(b"\0")
        leaf.update(piece)
        pieces.append_hash(leaf.digest())

    def write(piece: memoryview) -> None:
        storage.write(copy, piece)

    def write_soon(piece: memoryview) -> None:
        nonlocal written
        storage.write(copy, piece)
        storage.begin_sync(copy, written, len(piece))
        written += len(piece)
        if (taken := written - (BEHIND + 1) * PIECE) >= 0:
            storage.let_go(copy, taken, PIECE)

    if size < LARGE:
        buffer = memoryview(bytearray(min(PIECE, size + 1)))
        while length := source.readinto(buffer):
            for step in (digest.update, by_pieces, write):
                step(buffer[:length])
    else:
        _side_by_side(source, (digest.update, by_pieces, write_soon))
    storage.sync_data(copy)
    return digest.digest(), pieces.root()


def _side_by_side(source: BufferedReader, steps: tuple[Callable[[memoryview], object], ...]) -> None:
    """Each step in a thread of its own, piece after piece; a buffer is used again when all of them are done with it."""
    buffers = [memoryview(bytearray(PIECE)) for _ in range(AHEAD)]
    going: deque[list[Future[object]]] = deque()
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="copy")) for _ in steps]
        number = 0
        while True:
            if len(going) == AHEAD:
                _settle(going.popleft())
            buffer = buffers[number % AHEAD]
            if not (length := source.readinto(buffer)):
                break
            going.append([thread.submit(step, buffer[:length]) for thread, step in zip(threads, steps, strict=True)])
            number += 1
        while going:
            _settle(going.popleft())


def _settle(steps: list[Future[object]]) -> None:
    for step in steps:
        step.result()
