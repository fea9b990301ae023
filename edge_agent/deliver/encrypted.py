"""A target behind which others can read: what is confidential is put into an envelope before it goes there.

The envelope (see `edge_agent.wire.envelope`) is written beside the spool first and kept until the target proved that it holds it, so an
upload that breaks off goes on with the same bytes, also after a restart. It is named by its own digest: one that has to be made anew, since
its file was lost, is another object and contradicts nothing. Only a run's receipts, which are replaced when they grow, keep one name.

Invariants: a receipt is given only for an item whose whole plain file was read, hashed and encrypted, and whose envelope the target proved;
nothing but the envelope, its blinded name and digests of it reach the target.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.target import Capabilities, Progress, Target
from edge_agent.errors import EdgeAgentError, IntegrityError, PolicyRefused, TargetUnreachable
from edge_agent.model import Envelope, ItemKind, OutboxItem, Receipt
from edge_agent.wire import envelope
from edge_agent.wire.item import NO_HEAD, NO_SEGMENT, upload_id

Keys = Callable[[OutboxItem], tuple[str, ...]]
"""The public keys that an item is encrypted to; none: it goes as it is."""

KEPT = 8
"""Envelopes of items that are not on their way now: older ones are made anew when their turn comes."""
STALE = 7 * 86400.0
PART = ".part"
_NAME = re.compile(r"(?P<item>[A-Za-z0-9_-]+)\.(?P<key>[0-9a-f]{16})\.(?P<plain>[0-9a-f]{64})\.(?P<sha256>[0-9a-f]{64})\.age")


@dataclass(frozen=True, slots=True)
class _Closed:
    """An envelope on this disk: its SHA-256 and that of the file in it."""

    path: Path
    size: int
    sha256: bytes
    plain: bytes


class EncryptingTarget:
    """See `edge_agent.deliver.target.Target`; in front of another one."""

    def __init__(self, inner: Target, keys: Keys, folder: Path) -> None:
        """Prepare; nothing is read yet.

        Args:
            inner: gets the envelopes, and what needs none.
            keys: asked for each item; raises `PolicyRefused` where it must be encrypted and nobody said to whom.
            folder: for envelopes on their way; on the disk of the spool.
        """
        self._inner = inner
        self._keys = keys
        self._folder = folder
        self._busy: set[str] = set()

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._inner.name

    async def probe(self) -> Capabilities:
        """See `Target.probe`. Removes what earlier sendings left and nobody went on with."""
        await asyncio.to_thread(self._tidy)
        found = await self._inner.probe()
        return found if found.max_size is None else replace(found, max_size=envelope.largest_content(found.max_size))

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """See `Target.send`. The receipt is for the item, and says in which envelope the target holds it."""
        keys = self._keys(item)
        if not keys:
            return await self._inner.send(item, progress)
        own = upload_id(item)
        self._busy.add(own)
        try:
            return await self._send(item, own, keys, progress)
        finally:
            self._busy.discard(own)

    async def close(self) -> None:
        """See `Target.close`."""
        await self._inner.close()

    async def _send(self, item: OutboxItem, own: str, keys: tuple[str, ...], progress: Progress) -> Receipt:
        progress(0)
        stop = threading.Event()
        try:
            closed = await asyncio.to_thread(self._close, item, own, keys, stop)
        finally:
            stop.set()
        outer = _outer(item, keys[0], closed)
        try:
            receipt = await self._inner.send(outer, lambda sent: progress(min(sent, item.size)))
            if (receipt.item_id, receipt.sha256, receipt.size) != (outer.item_id, closed.sha256, closed.size):
                raise IntegrityError(
                    f"{self.name} gave a proof for something else.", why=f"the envelope of {item.remote} has SHA-256 {closed.sha256.hex()}",
                    try_="report this: the target's code is wrong; nothing was freed", code="PROOF_MISMATCH",
                )  # fmt: skip
        except IntegrityError:
            # Perhaps its bytes on this disk are wrong: another attempt makes another one.
            await asyncio.to_thread(closed.path.unlink, missing_ok=True)
            raise
        await asyncio.to_thread(closed.path.unlink, missing_ok=True)
        held = Envelope(outer.remote, closed.size, closed.sha256, keys)
        return replace(receipt, item_id=item.item_id, sha256=closed.plain, size=item.size, envelope=held)

    # ---- envelopes on this disk

    def _close(self, item: OutboxItem, own: str, keys: tuple[str, ...], stop: threading.Event) -> _Closed:
        """The envelope of before, or a new one, durable."""
        beginning = f"{own}.{envelope.folder_of('+'.join(keys))[-16:]}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path, found in self._there():
                if path.name.startswith(f"{beginning}.") and item.sha256 in (None, bytes.fromhex(found["plain"])):
                    return _Closed(path, path.stat().st_size, bytes.fromhex(found["sha256"]), bytes.fromhex(found["plain"]))
            return self._make(item, beginning, keys, stop)
        except OSError as error:
            raise TargetUnreachable(
                f"{item.remote} cannot be encrypted now.", why=str(error),
                try_=f"check the disk of {self._folder}: it needs room for the largest items once more", code="ENVELOPE_DISK",
            ) from error  # fmt: skip

    def _make(self, item: OutboxItem, beginning: str, keys: tuple[str, ...], stop: threading.Event) -> _Closed:
        part = self._folder / f"{os.urandom(8).hex()}{PART}"
        try:
            with OutgoingFile(item) as file, part.open("xb") as out:
                mtime = int(item.path.stat().st_mtime)
                size, sha256 = envelope.close(_Stoppable(file, stop), item.remote, item.size, mtime, keys, out)
                plain = file.sha256()
                out.flush()
                os.fsync(out.fileno())
            path = self._folder / f"{beginning}.{plain.hex()}.{sha256.hex()}{envelope.SUFFIX}"
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return _Closed(path, size, sha256, plain)

    def _there(self) -> list[tuple[Path, re.Match[str]]]:
        return [(path, found) for path in self._folder.iterdir() if (found := _NAME.fullmatch(path.name))]

    def _tidy(self) -> None:
        """Leave at most `KEPT` envelopes, none older than `STALE`; they cost room, and can be made again."""
        with contextlib.suppress(OSError):
            idle = [(path.stat().st_mtime, path) for path, found in self._there() if found["item"] not in self._busy]
            before = time.time() - STALE
            newest = sorted(idle, reverse=True)
            for number, (written, path) in enumerate(newest):
                if number >= KEPT or written < before:
                    path.unlink(missing_ok=True)
            if not self._busy:
                for path in self._folder.glob(f"*{PART}"):
                    path.unlink(missing_ok=True)


class _Stoppable:
    def __init__(self, file: OutgoingFile, stop: threading.Event) -> None:
        self._file, self._stop = file, stop

    def read(self, offset: int, length: int) -> bytes:
        if self._stop.is_set():
            raise TargetUnreachable("The encryption was stopped.", why="the agent is stopping", try_="it begins again at the next start")
        return self._file.read(offset, length)


def _outer(item: OutboxItem, key: str, closed: _Closed) -> OutboxItem:
    """What the target sees."""
    name = envelope.blinded(key, item.run_id, item.item_id) if item.kind is ItemKind.RECEIPTS else closed.sha256.hex()[:32]
    return replace(
        item, item_id=closed.sha256.hex()[:32], path=closed.path, size=closed.size, sha256=closed.sha256,
        remote=f"{envelope.run_folder_of(key, item.run_id)}/{name}{envelope.SUFFIX}", segment_id=NO_SEGMENT, head_hash=NO_HEAD, counts={},
    )  # fmt: skip


def no_key(target: str, item: OutboxItem) -> EdgeAgentError:
    """It must be encrypted, and the project has no key."""
    return PolicyRefused(
        f"{item.remote} may go to {target} only encrypted, and project {item.project} has no key.",
        why=f"[target.{target}] asks for it, and nobody wrote encrypt_to in [projects.{item.project}]",
        try_="make a key with edge-agent project-key new on a computer of the project, configure the public one, restart",
        code="ENVELOPE_NO_KEY",
    )


def published_key(target: str, item: OutboxItem, key: str) -> EdgeAgentError:
    """It would be encrypted to a key that everybody may have."""
    return PolicyRefused(
        f"{item.remote} may go to {target} only encrypted, and the key of project {item.project} is published.",
        why=f"whoever looks can have the secret key of {key}, and the run does not say that it was opened",
        try_=f"make another key on a computer of the project, write the public one into [projects.{item.project}], restart",
        code="ENVELOPE_KEY_PUBLISHED",
    )
