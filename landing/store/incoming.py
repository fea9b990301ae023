"""Uploads on their way in: a part file and a note of what it will be, by agent and upload id.

Invariants: the note is durable before the first byte is taken, so an upload that was answered once is found again
after a crash; the offset that is told to anybody was synced first. Refused bytes are moved, never deleted, under a
name that carries their digest, so that the same bytes are kept once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_agent.wire.item import ItemHeader, parse_header
from edge_agent.wire.refusal import Code, Refusal, Refused
from landing.home import Home, make_folders, sync_folder, write_durably
from landing.store.ahead import Ahead

_BLOCK = 1 << 20
_AT_ONCE = 512
"""Blocks: less than IOV_MAX everywhere."""
_AGENT = re.compile(r"[0-9a-f]{32}")


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn what the file system says into refusals that the sender understands.

    Raises:
        Refused: FULL when there is no space or quota left, TROUBLE for every other fault.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = error.strerror or str(error)
            raise Refused(Code.FULL, "The landing service's disk is full", why=why, try_="its operator has to free space") from error
        raise Refused(Code.TROUBLE, "The landing service's disk has a fault", why=str(error), try_="its operator should look") from error


def hash_file(path: Path) -> tuple[bytes, int]:
    """SHA-256 and size of a file, as read back now."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.digest(), size


class Incoming:
    """The folder of uploads. All methods block; callers use threads and hold one lock an upload."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._ahead = Ahead()

    def part(self, header: ItemHeader) -> Path:
        """Where the bytes are until they are checked."""
        return self._folder(header.agent_id) / f"{header.item_id}.part"

    def find(self, agent_id: bytes, item_id: str) -> ItemHeader | None:
        """The note of an upload."""
        try:
            return parse_header(self._note(agent_id, item_id).read_bytes())
        except FileNotFoundError:
            return None

    def create(self, header: ItemHeader) -> None:
        """Begin an upload, or begin it anew."""
        with disk_errors():
            make_folders(self._folder(header.agent_id), self._home.path)
            part = self.part(header)
            part.write_bytes(b"")
            self._ahead.drop(part)
            self.note(header)

    def note(self, header: ItemHeader) -> None:
        """Write down what is known of the upload."""
        with disk_errors():
            write_durably(self._note(header.agent_id, header.item_id), header.encode())

    def offset(self, header: ItemHeader) -> int | None:
        """Durable bytes of the upload; None when the part file is gone (it was put in its place)."""
        with disk_errors():
            try:
                fd = os.open(self.part(header), os.O_RDWR)
            except FileNotFoundError:
                return None
            try:
                os.fsync(fd)
                return os.fstat(fd).st_size
            finally:
                os.close(fd)

    def write(self, header: ItemHeader, blocks: Sequence[bytes | memoryview]) -> int:
        """Append, and say how many bytes that were; not durable before `offset` was asked."""
        views, size = [memoryview(block) for block in blocks], 0
        with disk_errors():
            fd = os.open(self.part(header), os.O_WRONLY | os.O_APPEND)
            try:
                while views:
                    # In one call: each would cost a turn at the interpreter's lock, which the network's thread holds most of the time.
                    written = os.writev(fd, views[:_AT_ONCE])
                    size += written
                    while views and written >= len(views[0]):
                        written -= len(views.pop(0))
                    if written:
                        views[0] = views[0][written:]
            finally:
                os.close(fd)
        return size

    def read_ahead(self, header: ItemHeader) -> None:
        """Hash what is here."""
        with contextlib.suppress(OSError):  # whoever needs the digest meets the same fault
            self._ahead.read(self.part(header))

    def digest(self, header: ItemHeader) -> tuple[bytes, int]:
        """SHA-256 and size of a complete upload, as read back; only what `read_ahead` has not seen is read now."""
        return self._ahead.take(self.part(header))

    def forget(self, header: ItemHeader) -> None:
        """The upload is over: remove what is left of it here."""
        self._ahead.drop(self.part(header))
        with disk_errors():
            self.part(header).unlink(missing_ok=True)
            self._note(header.agent_id, header.item_id).unlink(missing_ok=True)
            sync_folder(self._folder(header.agent_id))

    def refuse(self, header: ItemHeader, refusal: Refusal, digest: bytes) -> Path:
        """Move the bytes to where refused ones are kept, the reason beside them; returns where."""
        with disk_errors():
            folder = self._home.refused / header.agent_id.hex()
            make_folders(folder, self._home.path)
            kept = folder / f"{header.item_id}.{digest.hex()[:16]}"
            write_durably(kept.with_name(kept.name + ".json"), refusal.to_json().encode())
            self.part(header).replace(kept)
            sync_folder(folder)
        self.forget(header)
        return kept

    def unfinished(self, agent_id: bytes) -> list[ItemHeader]:
        """See `Store.unfinished`."""
        with disk_errors():
            found = [self.find(agent_id, note.stem) for note in self._folder(agent_id).glob("*.item")]
        return [header for header in found if header is not None]

    def resting(self, before_ns: int) -> list[tuple[bytes, str]]:
        """See `Store.resting`; also what a crash left of uploads that were never answered."""
        with disk_errors():
            files = [file for file in self._home.incoming.glob("*/*.*") if _AGENT.fullmatch(file.parent.name)]
            keys = {(bytes.fromhex(file.parent.name), file.name.partition(".")[0]) for file in files}
            return sorted(key for key in keys if self._rests(*key, before_ns))

    def abandon(self, agent_id: bytes, item_id: str, before_ns: int) -> bool:
        """See `Store.abandon`."""
        with disk_errors():
            if not self._rests(agent_id, item_id, before_ns):
                return False
            # The note goes first: without the bytes it would mean that they are in their place.
            for file in sorted(self._files(agent_id, item_id), key=lambda file: file.suffix != ".item"):
                self._ahead.drop(file)
                file.unlink(missing_ok=True)
            sync_folder(self._folder(agent_id))
        return True

    def _files(self, agent_id: bytes, item_id: str) -> list[Path]:
        return list(self._folder(agent_id).glob(f"{item_id}.*"))

    def _rests(self, agent_id: bytes, item_id: str, before_ns: int) -> bool:
        times = []
        for file in self._files(agent_id, item_id):
            with contextlib.suppress(FileNotFoundError):  # it was just put in its place
                times.append(file.stat().st_mtime_ns)
        return bool(times) and max(times) < before_ns

    def _folder(self, agent_id: bytes) -> Path:
        return self._home.incoming / agent_id.hex()

    def _note(self, agent_id: bytes, item_id: str) -> Path:
        return self._folder(agent_id) / f"{item_id}.item"
