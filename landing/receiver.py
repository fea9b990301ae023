"""What a landing service does with an item, whichever door it came through: create, append, finish, receipt.

Invariants: an agent touches only its own uploads and its own projects; one request writes an upload at a time; offsets
that are told were synced; each step may be repeated after a crash of either side and ends the same way; nobody
is told that an item is stored whose file is not there (`landing.held`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar
from weakref import WeakValueDictionary

from edge_agent.wire.item import ItemHeader
from edge_agent.wire.refusal import Code, Refused, from_json
from landing.catalogue import Agent, Catalogue, Revocation, Run, StoredItem
from landing.checkin import CheckIn
from landing.database import stopping
from landing.held import held_item
from landing.revoke import check_not_revoked
from landing.room import Room
from landing.store import Store

READ_AHEAD = 4 << 20
"""Bytes that are worth a call of a thread; what is left at the end takes a few milliseconds."""
UNCLAIMED = "unclaimed"
"""The project of what has no session: every enrolled agent may write there."""

_LOG = logging.getLogger(__name__)
Key = tuple[bytes, str]
T = TypeVar("T")


@dataclass(slots=True, weakref_slot=True)
class _Upload:
    """What is known of an upload while the service runs; ``header`` None: not read from the disk yet."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    header: ItemHeader | None = None
    offset: int = 0
    ahead: int = 0
    """Bytes that were there when reading ahead began last."""


class Receiver:
    """The core behind both doors. Not thread-safe: one event loop."""

    def __init__(
        self,
        catalogue: Catalogue,
        store: Store,
        room: Room,
        check_in: CheckIn,
    ) -> None:
        self._catalogue = catalogue
        self._store = store
        self._room = room
        self._check_in = check_in
        # What other servers do to an upload is not heard of here, so nothing is remembered between two requests.
        self._uploads: MutableMapping[Key, _Upload] = WeakValueDictionary() if store.shared else {}
        self._jobs: dict[Key, asyncio.Task[bytes | None]] = {}
        self._reading: dict[Key, asyncio.Task[None]] = {}
        self._closing = False

    async def agent(self, agent_id: bytes) -> Agent:
        """An enrolled agent.

        Raises:
            Refused: UNKNOWN_AGENT.
        """
        agent = await asyncio.to_thread(self._catalogue.agent, agent_id)
        if agent is None:
            why = f"agent {agent_id.hex()} is not in the catalogue"
            raise Refused(Code.UNKNOWN_AGENT, "This agent is not enrolled here", why=why, try_="enrol it with a new token")
        return agent

    def admit(self, agent_id: bytes) -> None:
        """Let an agent in; blocks on the catalogue. Both doors ask before anything else.

        Raises:
            Refused: REVOKED.
        """
        check_not_revoked(self._catalogue.agent(agent_id))

    def revocations(self) -> list[Revocation]:
        """Who was shut out; blocks on the catalogue."""
        return self._catalogue.revocations()

    async def create(self, agent_id: bytes, header: ItemHeader) -> int:
        """Announce an item, or find what is there of it already.

        Returns:
            The offset from which bytes are wanted; the item's size when it is complete.

        Raises:
            Refused: UNKNOWN_AGENT, WRONG_AGENT, PROJECT, TOO_LARGE, FULL, QUOTA, CLASH, BUSY.
        """
        await self._authorise(agent_id, header)
        stored = await self._held((agent_id, header.item_id))
        if stored is not None:
            if (stored.path, stored.size) != (header.path, header.size) or header.sha256 not in (None, stored.sha256):
                raise Refused(Code.CLASH, f"Upload id {header.item_id} was used for another item", why=f"it is {stored.path}")
            return stored.size
        key = (agent_id, header.item_id)
        upload = self._uploads.setdefault(key, _Upload())
        async with _only(upload.lock):
            if await self._load(key, upload) is not None and upload.header is not None and upload.header.same_item(header):
                return upload.offset
            if key in self._jobs:
                raise Refused(Code.BUSY, f"Upload {header.item_id} is being checked", try_="ask for its receipt")
            await asyncio.to_thread(self._room.check, header)
            await asyncio.to_thread(self._store.create, header)
            await asyncio.to_thread(self._catalogue.forget_refusal, agent_id, header.item_id)
            upload.header, upload.offset, upload.ahead = header, 0, 0
        return 0

    async def status(self, agent_id: bytes, item_id: str) -> tuple[int, int]:
        """Durable bytes and size of an upload.

        Raises:
            Refused: NOT_FOUND; UNKNOWN_AGENT.
        """
        await self.agent(agent_id)
        stored = await self._held((agent_id, item_id))
        if stored is not None:
            return stored.size, stored.size
        key = (agent_id, item_id)
        upload = self._uploads.setdefault(key, _Upload())
        async with _only(upload.lock):
            header = await self._load(key, upload)
            if header is None:
                await self._unknown(key)
            return upload.offset, header.size

    async def append(self, agent_id: bytes, item_id: str, offset: int, data: AsyncIterator[bytes]) -> int:
        """Write bytes at ``offset``, which must be where the upload ends; what came before a fault is kept.

        Returns:
            The new offset, durable.

        Raises:
            Refused: NOT_FOUND, OFFSET (with the right one), BUSY, TOO_LARGE, FULL, TROUBLE.
        """
        async with self._at_end((agent_id, item_id), offset) as (upload, header):
            if header is None:
                return offset
            async for block in data:
                upload.offset = await _settled(self._write, header, upload.offset, (block,))
            upload.offset = await asyncio.to_thread(self._durable, header)
            return upload.offset

    async def pieces(self, agent_id: bytes, item_id: str, offset: int, blocks: Sequence[bytes | memoryview]) -> int | None:
        """Write neighbouring pieces that came over a broker, where other servers may have those before them; synced once for all.

        Returns:
            The new offset, durable; None when the last one is kept behind a hole: whoever fills it says how much there is then.

        Raises:
            Refused: as `append`; OFFSET only when other bytes are wanted.
        """
        end = offset + sum(map(len, blocks))
        if self._store.shared and end > offset:
            header = await asyncio.to_thread(self._store.find, agent_id, item_id)
            if header is not None:
                have = await _settled(self._write, header, offset, blocks)
                return have if have >= end else None
        async with self._at_end((agent_id, item_id), offset) as (upload, header):
            if header is None:
                return offset
            upload.offset = await _settled(self._write_durably, header, offset, blocks)
        self._read_ahead((agent_id, item_id), header, upload)
        return upload.offset

    async def finish(self, agent_id: bytes, item_id: str, sha256: bytes) -> None:
        """The sender has sent everything, and says the digest of the whole; idempotent.

        Raises:
            Refused: NOT_FOUND; OFFSET when bytes are missing; BAD_REQUEST when another digest was said before.
        """
        stored = await self._held((agent_id, item_id))
        if stored is not None:
            if stored.sha256 != sha256:
                raise Refused(Code.CLASH, f"Upload id {item_id} was used for other bytes", why=f"{stored.path} has another SHA-256")
            return
        key = (agent_id, item_id)
        upload = self._uploads.setdefault(key, _Upload())
        async with _only(upload.lock):
            header = await self._load(key, upload)
            if header is None:
                await self._unknown(key)
            _want_all(upload, header)
            if header.sha256 is None:
                header = header.with_digest(sha256)
                await asyncio.to_thread(self._store.note, header)
                upload.header = header
            elif header.sha256 != sha256:
                raise Refused(Code.BAD_REQUEST, "Two digests were said for one upload", try_="send it under a new upload id")

    async def receipt(self, agent_id: bytes, item_id: str, wait: float | None) -> bytes | None:
        """The CUSTODY (COSE) of an item, checking it first if that was not done.

        Args:
            agent_id: who asks.
            item_id: of its own.
            wait: s; None waits until there is an answer.

        Returns:
            None when the check needs longer, or another server makes it.

        Raises:
            Refused: NOT_FOUND, NO_DIGEST, OFFSET; DIGEST, SEGMENT, FACTS, CLASH when the item was refused; FULL,
            QUOTA, TROUBLE for now.
        """
        key = (agent_id, item_id)
        job = self._jobs.get(key)
        if job is None:
            stored = await self._held((agent_id, item_id))
            if stored is not None:
                return stored.custody
            header = await self._complete(key)
            job = self._jobs.get(key) or self._begin(key, header)
        await asyncio.wait({job}, timeout=wait)
        return job.result() if job.done() else None

    async def runs(self, agent_id: bytes) -> list[Run]:
        """The runs of an agent's projects."""
        projects = (await self.agent(agent_id)).projects | {UNCLAIMED}
        return await asyncio.to_thread(self._catalogue.runs, projects)

    async def files(self, agent_id: bytes, folder: str) -> list[StoredItem]:
        """The files below a folder of one of the agent's projects.

        Raises:
            Refused: NOT_FOUND, also for other projects.
        """
        allowed = folder.split("/")[0] in (await self.agent(agent_id)).projects | {UNCLAIMED}
        found = await asyncio.to_thread(self._catalogue.files, folder) if allowed else []
        if not found:
            raise Refused(Code.NOT_FOUND, f"There is nothing below {folder[:120]!r} for this agent", try_="GET /runs lists what there is")
        return found

    async def abandon(self, before_ns: int) -> int:
        """Remove the uploads that have taken nothing since ``before_ns``, and are not being written or checked; how many that were.

        Raises:
            Refused: TROUBLE.
        """
        gone = 0
        for key in await asyncio.to_thread(self._store.resting, before_ns):
            upload = self._uploads.setdefault(key, _Upload())
            if upload.lock.locked() or key in self._jobs:
                continue
            async with upload.lock:
                if await _settled(self._abandon, key, before_ns):
                    upload.header = None
                    self._uploads.pop(key, None)
                    _LOG.info("removed upload %s of agent %s, which was abandoned", key[1], key[0].hex())
                    gone += 1
        return gone

    async def sweep(self, before_ns: int) -> int:
        """Remove what killed servers left of uploads before ``before_ns``; how many pieces that were.

        Raises:
            Refused: TROUBLE.
        """
        return await asyncio.to_thread(self._store.sweep, before_ns)

    async def close(self) -> None:
        """Wait for what is being checked; nothing more is checked after that."""
        self._closing = True
        if left := [*self._jobs.values(), *self._reading.values()]:
            await asyncio.wait(left)

    # ---- inside

    async def _authorise(self, agent_id: bytes, header: ItemHeader) -> None:
        agent = await self.agent(agent_id)
        if header.agent_id != agent_id:
            why = f"the item names agent {header.agent_id.hex()}"
            raise Refused(Code.WRONG_AGENT, "An agent may only speak for itself", why=why)
        if header.project != UNCLAIMED and header.project not in agent.projects:
            raise Refused(
                Code.PROJECT, f"This agent may not write to project {header.project}", why=f"it may write to {sorted(agent.projects)}",
                try_=f"python -m landing grant DIR {agent_id.hex()} --project {header.project}",
            )  # fmt: skip

    async def _held(self, key: Key) -> StoredItem | None:
        return await asyncio.to_thread(held_item, self._catalogue, self._store, *key)

    async def _load(self, key: Key, upload: _Upload) -> ItemHeader | None:
        if upload.header is None or self._store.shared:
            upload.header = header = await asyncio.to_thread(self._store.find, *key)
            if header is not None:
                offset = await asyncio.to_thread(self._store.offset, header)
                upload.offset = header.size if offset is None else offset
        return upload.header

    @asynccontextmanager
    async def _at_end(self, key: Key, offset: int) -> AsyncIterator[tuple[_Upload, ItemHeader | None]]:
        """Hold an upload that ends at ``offset``, to write to it; no header: it is stored already, and ends there."""
        upload = self._uploads.setdefault(key, _Upload())
        async with _only(upload.lock):
            header = await self._load(key, upload)
            stored = None if header is not None else await self._held(key)
            if header is None and stored is None:
                await self._unknown(key)
            have = upload.offset if stored is None else stored.size
            if offset != have:
                raise _elsewhere(offset, have)
            try:
                yield upload, header
            except BaseException:
                # What came is kept; how much that is, the disk says when it is asked next.
                upload.header = None
                raise

    def _write(self, header: ItemHeader, offset: int, blocks: Sequence[bytes | memoryview]) -> int:
        if offset + sum(map(len, blocks)) > header.size:
            raise Refused(Code.TOO_LARGE, "More bytes than were announced", why=f"{header.size} were announced")
        return self._store.write(header, offset, [block for block in blocks if block])

    def _write_durably(self, header: ItemHeader, offset: int, blocks: Sequence[bytes | memoryview]) -> int:
        self._write(header, offset, blocks)
        return self._durable(header)

    def _durable(self, header: ItemHeader) -> int:
        synced = self._store.offset(header)
        return header.size if synced is None else synced

    def _read_ahead(self, key: Key, header: ItemHeader, upload: _Upload) -> None:
        if key not in self._reading and not self._closing and upload.offset - upload.ahead >= READ_AHEAD:
            upload.ahead = upload.offset
            self._reading[key] = task = asyncio.create_task(asyncio.to_thread(self._store.read_ahead, header))
            task.add_done_callback(lambda _: self._reading.pop(key, None))

    async def _complete(self, key: Key) -> ItemHeader:
        upload = self._uploads.setdefault(key, _Upload())
        async with _only(upload.lock):
            header = await self._load(key, upload)
        if header is None:
            await self._unknown(key)
        _want_all(upload, header)
        if header.sha256 is None:
            raise Refused(Code.NO_DIGEST, "The SHA-256 of the whole was not said", try_="PATCH with Repr-Digest and no bytes")
        return header

    def _begin(self, key: Key, header: ItemHeader) -> asyncio.Task[bytes | None]:
        if self._closing:
            raise stopping()
        job = self._jobs[key] = asyncio.create_task(self._check(key, header))
        job.add_done_callback(lambda done: self._done(key, done))
        return job

    async def _check(self, key: Key, header: ItemHeader) -> bytes | None:
        """The CUSTODY; None when another server is checking the upload."""
        claim = self._catalogue.alone(_check_of(key), wait=False)
        ours = await asyncio.to_thread(claim.__enter__)
        try:
            if not ours:
                return None
            stored = await self._held(key)
            return await self._check_in.run(header) if stored is None else stored.custody
        finally:
            await asyncio.to_thread(claim.__exit__, None, None, None)

    def _abandon(self, key: Key, before_ns: int) -> bool:
        with self._catalogue.alone(_check_of(key), wait=False) as ours:
            return ours and self._store.abandon(*key, before_ns)

    async def _unknown(self, key: Key) -> NoReturn:
        self._uploads.pop(key, None)
        said = await asyncio.to_thread(self._catalogue.refusal, *key)
        refusal = None if said is None else from_json(said)
        if refusal is not None:
            raise Refused(refusal.code, refusal.what, why=refusal.why, try_=refusal.try_)
        raise Refused(Code.NOT_FOUND, f"There is no upload {key[1]}", try_="announce it first")

    def _done(self, key: Key, job: asyncio.Task[bytes | None]) -> None:
        self._jobs.pop(key, None)
        upload = self._uploads.pop(key, None)
        if upload is not None:
            upload.header = None
        if not job.cancelled() and job.exception() is not None and not isinstance(job.exception(), Refused):
            _LOG.error("checking upload %s of agent %s failed", key[1], key[0].hex(), exc_info=job.exception())


def _want_all(upload: _Upload, header: ItemHeader) -> None:
    if upload.offset != header.size:
        raise Refused(Code.OFFSET, "Bytes are missing", why=f"{upload.offset} of {header.size} are here", have=upload.offset)


def _check_of(key: Key) -> bytes:
    return b"check " + key[0] + key[1].encode()


class _only:
    """Hold an upload's lock, but wait for it only a little: a broken connection may still be noticed."""

    def __init__(self, lock: asyncio.Lock, seconds: float = 10.0) -> None:
        self._lock = lock
        self._seconds = seconds

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._lock.acquire()
        except TimeoutError as error:
            raise Refused(Code.BUSY, "Another request is writing this upload", try_="wait a moment") from error

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


async def _settled(function: Callable[..., T], *arguments: object) -> T:
    """Call in a thread; who is cancelled waits for its end first, since whoever comes next must not write beside it."""
    running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _elsewhere(offset: int, have: int) -> Refused:
    return Refused(Code.OFFSET, "The bytes do not begin where the upload ends", why=f"they begin at {offset}, {have} are here", have=have)
