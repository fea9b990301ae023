"""An item on its way to a landing service: how it is announced; its local file, read by offset and hashed once from front to back.

The SHA-256 is that of the bytes that were handed out, in order; what a resumed transfer skips is read from the disk
and hashed too. All methods block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_agent.deliver.target import Progress
from edge_agent.errors import IntegrityError, TargetUnreachable
from edge_agent.model import OutboxItem, Receipt
from edge_agent.wire.item import ItemHeader, header_of
from edge_agent.wire.names import BadName
from edge_agent.wire.refusal import Code

_BLOCK = 1 << 20


def announce(item: OutboxItem, agent_id: bytes, target: str) -> ItemHeader:
    """How an item is announced to a landing service.

    Raises:
        IntegrityError: its name is none that a landing service stores.
    """
    try:
        return header_of(item, agent_id)
    except BadName as error:
        what = f"{target}: {item.remote} cannot be stored under this name"
        raise IntegrityError(what, why=str(error), try_="rename it at its source", code="LANDING_BAD_NAME") from error


def late(target: str, patience: float) -> TargetUnreachable:
    """All bytes are sent, but the check takes too long."""
    why = f"all bytes are there, no receipt after {patience:g} s"
    return TargetUnreachable(f"{target}: no receipt yet", why=why, try_="it is asked again", code="LANDING_RECEIPT_LATE")


async def once_more(deliver: Callable[[OutboxItem, Progress], Awaitable[Receipt]], item: OutboxItem, progress: Progress) -> Receipt:
    """Deliver an item; again from its first byte, once, when the service found other bytes than were said: they were spoilt on the way."""
    try:
        return await deliver(item, progress)
    except IntegrityError as error:
        if error.code != f"LANDING_{Code.DIGEST}":
            raise
    progress(0)
    return await deliver(item, progress)


class OutgoingFile:
    """A context manager over the file of one item."""

    def __init__(self, item: OutboxItem) -> None:
        self._item = item
        self._digest = hashlib.sha256()
        self._hashed = 0
        try:
            self._file = Path(item.path).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise self._changed("it is gone") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes ``offset`` to ``offset + length``, fewer only at the end of the item.

        Raises:
            IntegrityError: the file is shorter than when it was sealed.
            TargetUnreachable: the disk does not answer now.
        """
        while self._hashed < offset:
            self._hash(self._at(self._hashed, min(_BLOCK, offset - self._hashed)))
        data = self._at(offset, min(length, self._item.size - offset))
        if offset <= self._hashed < offset + len(data):
            self._hash(memoryview(data)[self._hashed - offset :])
        return data

    def sha256(self) -> bytes:
        """Digest of the whole file.

        Raises:
            IntegrityError: it is not the one that the outbox has, or there is more in the file than the item's size.
        """
        self.read(self._item.size, 0)
        self._file.seek(self._item.size)
        if self._file.read(1):
            raise self._changed(f"it is longer than {self._item.size} bytes")
        digest = self._digest.digest()
        if self._item.sha256 not in (None, digest):
            raise self._changed("it has another SHA-256 than before")
        return digest

    def _at(self, offset: int, length: int) -> bytes:
        data = b""
        try:
            self._file.seek(offset)
            # Nearly always one read, whose bytes are handed on as they are.
            while len(data) < length and (block := self._file.read(length - len(data))):
                data = data + block if data else block
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) < length:
            raise self._changed(f"it ends at {offset + len(data)} of {self._item.size} bytes")
        return data

    def _hash(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._hashed += len(data)

    def _changed(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self._item.remote} changed in the spool",
            why=why,
            try_="nothing was freed; verify the file and check the disk",
            code="SPOOL_FILE_CHANGED",
        )

    def _unreadable(self, error: OSError) -> TargetUnreachable:
        return TargetUnreachable(
            f"{self._item.remote} cannot be read now", why=str(error), try_="check the spool's disk", code="SPOOL_UNREADABLE"
        )
