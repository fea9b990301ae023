"""A landing service's bytes in its own folder: for one server, and for a file system that keeps what was synced."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence

from edge_agent.model import Proof
from edge_agent.wire.item import ItemHeader
from edge_agent.wire.refusal import Refusal
from landing.home import Home
from landing.store import Whole
from landing.store.incoming import Incoming, hash_file
from landing.store.space import Space

BLOCK = 1 << 20


class DirectoryStore:
    """See `landing.store.Store`. A file moves into its place, so nothing is copied."""

    shared = False

    def __init__(self, home: Home) -> None:
        self._incoming = Incoming(home)
        self._space = Space(home)
        self._placing = threading.Lock()
        self.free = self._space.free
        self.size = self._space.size
        self.find = self._incoming.find
        self.create = self._incoming.create
        self.note = self._incoming.note
        self.offset = self._incoming.offset
        self.forget = self._incoming.forget
        self.read_ahead = self._incoming.read_ahead
        self.unfinished = self._incoming.unfinished
        self.resting = self._incoming.resting
        self.abandon = self._incoming.abandon

    def write(self, header: ItemHeader, at: int, blocks: Sequence[bytes | memoryview]) -> int:
        """See `Store.write`."""
        return at + self._incoming.write(header, blocks)

    def whole(self, header: ItemHeader) -> Whole:
        """See `Store.whole`."""
        part = self._incoming.part(header)
        placed = not part.exists()
        path = self._space.target(header.path) if placed else part
        try:
            sha256, size = hash_file(path) if placed else self._incoming.digest(header)
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error
        return Whole(path, sha256, size, placed=placed)

    def let_go(self, whole: Whole) -> None:
        """See `Store.let_go`; there are no copies."""

    def place(self, header: ItemHeader, whole: Whole, *, replace: bool) -> Proof:
        """See `Store.place`."""
        if whole.placed:
            # A server that died before it synced the name, or a person, put it there.
            self._space.make_durable(whole.path)
        else:
            with self._placing:
                self._space.place(whole.path, header.path, whole.sha256, replace=replace)
        return Proof.FSYNCED

    def read(self, path: str) -> Generator[bytes, None, None]:
        """See `Store.read`."""
        with self._space.target(path).open("rb") as file:
            while block := file.read(BLOCK):
                yield block

    def refuse(self, header: ItemHeader, refusal: Refusal, whole: Whole) -> str:
        """See `Store.refuse`."""
        return str(self._incoming.refuse(header, refusal, whole.sha256))

    def sweep(self, before_ns: int) -> int:
        """See `Store.sweep`; what no upload has is found with those that rest."""
        return 0

    def close(self) -> None:
        """See `Store.close`."""
