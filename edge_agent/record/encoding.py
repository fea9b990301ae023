"""Encoder threads: a raw frame becomes stored bytes and their SHA-256, in parallel, in buffers that are used again.

A frame that its source packed is hashed and stored as it came. Frames are taken in order, each together with its buffer: a later frame
never holds the buffer that an earlier one waits for. Frames of a stream that does not shrink are stored from where they are, without a
buffer and without being tried, but for one now and then.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_agent.codec import Buffers, Lease, encoder
from edge_agent.codec.buffers import rounded
from edge_agent.model import Packed
from edge_agent.record.items import Encoded, FrameItem

HOPELESS = 8
"""So many frames in a row that did not shrink: the next ones are not tried."""
PROBE = 16
"""One in so many is tried all the same: what a detector sees changes."""


class _Raw(NamedTuple):
    item: FrameItem
    codec: str
    data: npt.NDArray[Any] | Packed


class Encoders:
    """See the module. ``advance`` is called after each frame, in its thread."""

    def __init__(self, threads: int, limit: int, advance: Callable[[], None]) -> None:
        """Start the threads; ``limit`` bounds the bytes of all buffers together."""
        self._buffers = Buffers(limit)
        self._advance = advance
        self._raw: queue.SimpleQueue[_Raw | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._in_vain: Counter[str] = Counter()
        """Per stream: frames in a row that did not shrink, those that were not tried included."""
        self._threads = [threading.Thread(target=self._loop, name=f"encode_{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, item: FrameItem, codec: str, data: npt.NDArray[Any] | Packed) -> None:
        """Encode ``data`` for ``item``."""
        self._raw.put(_Raw(item, codec, data))

    def alive(self) -> bool:
        """Whether all threads live."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End the threads, after everything that was put."""
        for _ in self._threads:
            self._raw.put(None)
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        while self._one():
            self._advance()

    def _one(self) -> bool:
        """Encode the next frame, whatever it takes. False: there is none any more."""
        with self._taking:
            raw = self._raw.get()
            if raw is None:
                return False
            item, codec, data = raw
            try:
                key = item.stream.key
                lease = None if isinstance(data, Packed) or self._is_hopeless(key) else self._lease(_bound(codec, data))
            except Exception as error:
                raw.item.fail(error)
                return True
        try:
            if isinstance(data, Packed):
                item.again = partial(_as_it_came, data)
                item.encode(item.again())
            else:
                item.again = partial(_alone, codec, data)
                encoded = _as_it_is(codec, data) if lease is None else _encode(codec, data, lease)
                self._remember(key, shrank=len(encoded.stored) < data.nbytes)
                item.encode(encoded)
        except Exception as error:
            if lease is not None:
                lease.release()
            raw.item.fail(error)
        return True

    def _is_hopeless(self, key: str) -> bool:
        in_vain = self._in_vain[key]
        return in_vain >= HOPELESS and in_vain % PROBE != 0

    def _remember(self, key: str, *, shrank: bool) -> None:
        self._in_vain[key] = 0 if shrank else self._in_vain[key] + 1

    def _lease(self, nbytes: int) -> Lease:
        """A buffer; an item larger than the pool passes the room alone and gets its own."""
        pool = self._buffers if rounded(nbytes) <= self._buffers.limit else Buffers(rounded(nbytes))
        return pool.take(nbytes)


def _bound(codec: str, data: npt.NDArray[Any]) -> int:
    return encoder(codec).bound(data.nbytes, data.dtype.itemsize)


def _encode(codec: str, data: npt.NDArray[Any], lease: Lease) -> Encoded:
    size, mask = encoder(codec).encode(np.ascontiguousarray(data), lease.view, data.dtype.itemsize)
    stored = lease.view[:size]
    return Encoded(stored, mask, hashlib.sha256(stored).digest(), lease)


def _as_it_came(data: Packed) -> Encoded:
    stored = np.ascontiguousarray(data.stored).data
    return Encoded(stored, 0, hashlib.sha256(stored).digest())


def _as_it_is(codec: str, data: npt.NDArray[Any]) -> Encoded:
    stored = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    return Encoded(stored, encoder(codec).skipped, hashlib.sha256(stored).digest())


def _alone(codec: str, data: npt.NDArray[Any]) -> Encoded:
    """Encode in a buffer outside the pool: after a disk error, when the pool may be empty."""
    bound = _bound(codec, data)
    return _encode(codec, data, Buffers(rounded(bound)).take(bound))
