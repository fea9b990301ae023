"""Copies a file and hashes it twice on the way: as a whole, and by pieces for the tree. Each byte is read once.

A large file is read, hashed, hashed by pieces, written and synced side by side: each is about as long as the others, so on two cores the
copy takes half of the time, and the disk has most of it when the last byte comes. A small one goes through one thread, in an order that
does not change.
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
SYNC_EACH = 8
"""Pieces after which the disk is asked to begin with what it was given."""


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
    digest, pieces = hashlib.sha256(), Frontier()

    def by_pieces(piece: memoryview) -> None:
        leaf = hashlib.sha256(b"\0")
        leaf.update(piece)
        pieces.append_hash(leaf.digest())

    def write(piece: memoryview) -> None:
        storage.write(copy, piece)

    if size < LARGE:
        buffer = memoryview(bytearray(min(PIECE, size + 1)))
        while length := source.readinto(buffer):
            for step in (digest.update, by_pieces, write):
                step(buffer[:length])
    else:
        _side_by_side(source, (digest.update, by_pieces, write), lambda: storage.sync_data(copy))
    storage.sync_data(copy)
    return digest.digest(), pieces.root()


def _side_by_side(source: BufferedReader, steps: tuple[Callable[[memoryview], object], ...], sync: Callable[[], None]) -> None:
    """Each step in a thread of its own, piece after piece; a buffer is used again when all of them are done with it."""
    buffers = [memoryview(bytearray(PIECE)) for _ in range(AHEAD)]
    going: deque[list[Future[object]]] = deque()
    syncing: Future[None] | None = None
    with ExitStack() as stack:
        *threads, syncer = (stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="copy")) for _ in range(len(steps) + 1))
        number = 0
        while True:
            if len(going) == AHEAD:
                _settle(going.popleft())
            buffer = buffers[number % AHEAD]
            if not (length := source.readinto(buffer)):
                break
            going.append([thread.submit(step, buffer[:length]) for thread, step in zip(threads, steps, strict=True)])
            number += 1
            if number % SYNC_EACH == 0 and (syncing is None or syncing.done()):
                if syncing is not None:
                    syncing.result()
                syncing = syncer.submit(sync)
        while going:
            _settle(going.popleft())
        if syncing is not None:
            syncing.result()


def _settle(steps: list[Future[object]]) -> None:
    for step in steps:
        step.result()
