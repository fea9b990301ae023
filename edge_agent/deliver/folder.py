"""A folder as a target: a mounted share, an external disk.

Copy to a temporary name in the same directory, sync, let the page cache go, read back and compare (see `folder_copy`), give it its name,
which is never taken from another file, fsync the directory. What is there already is believed after the same syncs. What that proves is
the weakest kind, ``read-back``. The folder itself is never created: a share that is not mounted must not fill the disk below it. Where the
spool knows the digest of the item, that is what is compared with, and the source is hashed only to tell which of the two is wrong.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path, PurePosixPath

from edge_agent.deliver.folder_copy import Copied, Reins, copy, make_durable, read_back
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.deliver.target import Capabilities, Progress
from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Proof, Receipt, utc_now_ns

SMALL_AT_ONCE = 8
"""File systems make durable together what is synced at once."""
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}
"""What file systems say that know no hard links: FAT, some shares."""
FORBIDDEN = {chr(c) for c in range(32)} | set("\\" if os.name != "nt" else '\\:*?"<>|')


class FolderTarget:
    """Writes items below ``path`` under their remote names; safe to cancel."""

    def __init__(self, name: str, path: Path, *, pace: Pace = UNLIMITED) -> None:
        self.name = name
        self._root = path
        self._pace = pace

    async def probe(self) -> Capabilities:
        """Whether the folder is there and can be written."""
        return await asyncio.to_thread(self._probe)

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """Copy and prove. The same bytes under the same name are a success; other bytes are not replaced, unless they are receipts.

        Raises:
            TargetUnreachable: not mounted, full, an I/O error.
            IntegrityError: what was read back differs, the name is taken by other bytes, the source changed, the path leaves the folder.
            PermissionRefused: the folder may not be written.
        """
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._send, item, progress, stop)
        finally:
            stop.set()

    async def close(self) -> None:
        """Nothing is kept open."""

    def _probe(self) -> Capabilities:
        try:
            root = self._checked_root()
            writable = os.access(root, os.W_OK | os.X_OK)
        except OSError as error:
            raise self._fault(error) from error
        if not writable:
            raise self._fault(PermissionError(errno.EACCES, "not writable", str(root)))
        return Capabilities(None, False, Proof.READ_BACK, f"folder {root}, proved by reading back", SMALL_AT_ONCE)

    def _send(self, item: OutboxItem, progress: Progress, stop: threading.Event) -> Receipt:
        try:
            root = self._checked_root()
            place = self._place(root, item.remote)
            digest = self._copy(item, place, progress, stop)
        except OSError as error:
            raise self._fault(error) from error
        return Receipt(self.name, item.item_id, digest, item.size, Proof.READ_BACK, utc_now_ns())

    def _copy(self, item: OutboxItem, place: Path, progress: Progress, stop: threading.Event) -> bytes:
        reins = Reins(lambda size: self._wait(size, stop), lambda: _check(stop), progress)
        # Of this item alone: another agent that writes to the same folder may be at the same name.
        part = place.with_name(f".{hashlib.sha256(item.item_id.encode()).hexdigest()[:32]}.part")
        part.unlink(missing_ok=True)
        if place.exists() and item.kind is not ItemKind.RECEIPTS:
            # Whoever put it there, we ourselves before a fault too, may not have come to that.
            make_durable(place)
            _fsync_dir(place.parent)
            held = read_back(place, reins)
            if held != item.sha256 and held != (digest := self._hash_source(item, reins)):
                raise IntegrityError(
                    f"{place} exists with other content.",
                    why=f"its digest differs from that of {item.path.name} (SHA-256 {digest.hex()})",
                    try_="look at both; move the one in the folder away if it does not belong there, then edge-agent quarantine retry",
                    code="TARGET_CONFLICT",
                )
            progress(item.size)
            return held
        try:
            copied = copy(item.path, part, item.size, reins, hash_source=item.sha256 is None)
            if (copied.size, copied.held) != (item.size, item.sha256):
                self._compare(item, copied, reins)
            _give_name(part, place, replace=item.kind is ItemKind.RECEIPTS)
            _fsync_dir(place.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if place.is_symlink() or place.stat().st_size != item.size:
            raise TargetUnreachable(f"{place} is not what was just put there.", why="somebody changed it", try_="it is tried again")
        return copied.held

    def _wait(self, size: int, stop: threading.Event) -> None:
        stop.wait(self._pace.delay(size))
        _check(stop)

    def _compare(self, item: OutboxItem, copied: Copied, reins: Reins) -> None:
        """What was read back is not what the spool says that it is: either the source is not, or the target is wrong."""
        digest = self._hash_source(item, reins) if copied.sent is None else copied.sent
        self._check_source(item, digest, copied.size)
        if copied.held != digest:
            raise IntegrityError(
                f"{self._root} gave back other bytes than were written.",
                why=f"{item.remote}: SHA-256 after writing is not {digest.hex()}",
                try_="check that disk or share before anything else is put there; the spool keeps the item",
                code="READ_BACK_DIFFERS",
            )

    def _hash_source(self, item: OutboxItem, reins: Reins) -> bytes:
        digest = read_back(item.path, reins)
        self._check_source(item, digest, item.path.stat().st_size)
        return digest

    def _check_source(self, item: OutboxItem, digest: bytes, size: int) -> None:
        if size != item.size or item.sha256 not in (None, digest):
            raise IntegrityError(
                f"{item.path.name} changed after it was sealed.",
                why=f"{size} bytes, SHA-256 {digest.hex()}; sealed with {item.size} bytes, {(item.sha256 or b'').hex() or 'no digest'}",
                try_="verify the file (edge-agent verify) and check the disk of the spool",
                code="SPOOL_FILE_CHANGED",
            )

    def _checked_root(self) -> Path:
        root = self._root.resolve(strict=True)
        if not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(root))
        return root

    def _place(self, root: Path, remote: str) -> Path:
        """The local path of a remote name; makes its directories one by one, and follows no link."""
        parts = PurePosixPath(remote).parts
        bad = not parts or remote.startswith("/") or any(p in ("", ".", "..") or FORBIDDEN & set(p) for p in remote.split("/"))
        place = root
        for part in () if bad else parts[:-1]:
            place = place / part
            if place.is_symlink():
                bad = True
                break
            if not place.is_dir():
                place.mkdir(exist_ok=True)
                _fsync_dir(place.parent)
        place = place / parts[-1] if parts else place
        if bad or place.is_symlink():
            raise IntegrityError(
                f"{remote!r} does not stay inside {root}.",
                why="a part of the path is a symbolic link, '..', or a character that file names cannot have",
                try_="remove the link from the folder, or rename the file at its source",
                code="TARGET_PATH",
            )
        return place

    def _fault(self, error: OSError) -> EdgeAgentError:
        if error.errno in REFUSED:
            return PermissionRefused(
                f"The folder of target {self.name} may not be written.",
                why=str(error),
                try_=f"give the agent's user write access to {self._root}, then edge-agent kick",
            )
        return TargetUnreachable(
            f"The folder of target {self.name} cannot be used now.",
            why=str(error),
            try_=f"check that {self._root} is mounted and has room; it is tried again by itself",
        )


def _give_name(part: Path, place: Path, *, replace: bool) -> None:
    """Rename; a name that somebody else took a moment ago stays his.

    Raises:
        FileExistsError: it is taken, and not ``replace``.
    """
    if replace:
        os.replace(part, place)
        return
    if os.name != "nt":
        try:
            os.link(part, place)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if place.exists():
                raise FileExistsError(errno.EEXIST, "somebody took the name", str(place)) from error
        else:
            part.unlink()
            return
    os.rename(part, place)  # on Windows it replaces nothing


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise TargetUnreachable("The copy was stopped.", why="the agent is stopping", try_="it begins again at the next start")


def _fsync_dir(path: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
