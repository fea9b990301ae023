"""Where a landing service keeps bytes: uploads on their way in, project spaces, what was refused. In a directory, or in an S3 store.

Invariants: an upload that was begun is found again after a crash; the offset that is told to anybody is durable; a name in a project
space holds its bytes whole or is not there, and is never given to other bytes but for ``.receipts``; refused bytes are kept.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_agent.model import Proof
from edge_agent.wire.item import ItemHeader
from edge_agent.wire.refusal import Code, Refusal, Refused


@dataclass(frozen=True, slots=True)
class Whole:
    """The bytes of a complete upload as a file of this machine, with their SHA-256 and size as read back.

    ``placed``: they have their final name already. ``scratch``: the file is a copy, and goes with `Store.let_go`.
    """

    path: Path
    sha256: bytes
    size: int
    placed: bool = False
    scratch: bool = False


class Store(Protocol):
    """All methods block, and callers use threads. Every one may raise `Refused`: FULL, TROUBLE."""

    @property
    def shared(self) -> bool:
        """Whether other servers may take pieces of the same upload; pieces may then come in any order."""
        ...

    def free(self) -> int | None:
        """Bytes that are left; None: nobody knows."""
        ...

    def find(self, agent_id: bytes, item_id: str) -> ItemHeader | None:
        """What was announced for an upload."""
        ...

    def create(self, header: ItemHeader) -> None:
        """Begin an upload, or begin it anew."""
        ...

    def note(self, header: ItemHeader) -> None:
        """Write down what is known of an upload now."""
        ...

    def offset(self, header: ItemHeader) -> int | None:
        """Durable bytes from the beginning of the upload; None: they have their final name already."""
        ...

    def write(self, header: ItemHeader, at: int, blocks: Sequence[bytes | memoryview]) -> int:
        """Take bytes of an upload.

        Args:
            header: the upload.
            at: where they belong; the end of what is here, unless the store is `shared`.
            blocks: the bytes, one behind the other; none is empty.

        Returns:
            Bytes that are here from the beginning on; durable when the store is `shared`, else as soon as `offset` was asked.
        """
        ...

    def read_ahead(self, header: ItemHeader) -> None:
        """Hash what is here of an upload, if that can be done before the rest is here; `whole` has less to do then."""
        ...

    def whole(self, header: ItemHeader) -> Whole:
        """The bytes of a complete upload, read back and hashed.

        Raises:
            FileNotFoundError: they are gone.
        """
        ...

    def let_go(self, whole: Whole) -> None:
        """Nobody reads that file any more."""
        ...

    def place(self, header: ItemHeader, whole: Whole, *, replace: bool) -> Proof:
        """Give the bytes their final name (nothing to do when they have it), and say how that is known.

        Raises:
            Refused: CLASH when the name is taken by other bytes, and not ``replace``.
        """
        ...

    def size(self, path: str) -> int | None:
        """Bytes that have a final name, by what the file system or the S3 store says; None: nothing has."""
        ...

    def read(self, path: str) -> Generator[bytes, None, None]:
        """The bytes that have a final name, in blocks.

        Raises:
            FileNotFoundError: nothing has.
        """
        ...

    def forget(self, header: ItemHeader) -> None:
        """The upload is over: remove what is left of it."""
        ...

    def refuse(self, header: ItemHeader, refusal: Refusal, whole: Whole) -> str:
        """Keep the bytes where refused ones are, with the reason, and forget the upload; says where."""
        ...

    def unfinished(self, agent_id: bytes) -> list[ItemHeader]:
        """The uploads of an agent that were begun and are not over."""
        ...

    def resting(self, before_ns: int) -> list[tuple[bytes, str]]:
        """Agent and upload id of what has taken nothing since ``before_ns`` (UTC)."""
        ...

    def abandon(self, agent_id: bytes, item_id: str, before_ns: int) -> bool:
        """Remove an upload, if it still rests since ``before_ns``; whether it did."""
        ...

    def sweep(self, before_ns: int) -> int:
        """Remove bytes on their way in that no upload has and that came before ``before_ns`` (UTC); how many pieces that were.

        A server that was killed leaves them. Nothing of a project space is touched, nor what was refused.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def clash(path: str, why: str) -> Refused:
    """The refusal of a name that is taken."""
    return Refused(
        Code.CLASH, f"{path} is taken", why=why, try_="nothing was overwritten; look at both files, and send yours under another name"
    )
