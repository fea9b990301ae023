"""An S3 store as a target.

Small items are one PUT with their SHA-256; larger ones a multipart upload whose id is kept, so that after a crash of either side only
the parts that the store lacks are sent again. Nothing is replaced (``If-None-Match: *``): where a name is taken, content decides. What
counts is what the store says afterwards: the checksum that it keeps is compared with ours (``store-digest``); where it keeps none, the
object is read back (``read-back``). An acknowledged PUT alone is believed by nobody. ETags are never taken for digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.deliver.s3_store import AlreadyThere, NotUnderstood, Place, Store, UploadGone, WrongBytes
from edge_agent.deliver.s3_sums import PartSum, Whole, agrees, base64_of, sums
from edge_agent.deliver.target import Capabilities, Memo, Progress
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Proof, Receipt, utc_now_ns

SENDERS = 8
PARALLEL = 4
"""Parts on their way at once, for one item."""
MOST_PARTS = 10_000
SMALLEST_PART = 5 << 20
LARGEST_KEY = 1024
STALE = timedelta(days=7)
PROBE = ".edge-agent-probe"
PROBE_CONTENT = b"edge-agent asks whether this store checks what it is sent\n"


@dataclass(frozen=True, slots=True)
class Lock:
    """Objects are locked on arrival: ``mode`` is "GOVERNANCE" or "COMPLIANCE"."""

    mode: str
    days: int


@dataclass(frozen=True, slots=True)
class _Ability:
    """What the store was seen to do: refuse a wrong sum of either kind, refuse to replace an object."""

    crc: bool
    sha256: bool
    conditional: bool

    @property
    def parts(self) -> PartSum:
        return PartSum.CRC64NVME if self.crc else PartSum.SHA256 if self.sha256 else PartSum.NONE

    def detail(self) -> str:
        kinds = [name for name, there in (("SHA-256", self.sha256), ("CRC-64/NVME", self.crc)) if there]
        how = f"checks {' and '.join(kinds)}" if kinds else "checks no sums: objects are read back"
        return how if self.conditional else f"{how}; does not refuse to replace objects"


@dataclass(frozen=True, slots=True)
class _Upload:
    """A multipart upload that was begun."""

    upload: str
    key: str
    part: int
    kind: PartSum
    t_ns: int


class S3Target:
    """See `edge_agent.deliver.target.Target`."""

    def __init__(
        self, name: str, place: Place, keys: Callable[[], tuple[str, str]], memo: Memo, *, part: int, lock: Lock | None = None,
        pace: Pace = UNLIMITED,
    ) -> None:  # fmt: skip
        """Prepare; nothing is connected yet.

        Args:
            name: in the configuration.
            place: where objects go.
            keys: reads the access key and the secret key; asked anew at each probe, so a rotated key is taken without a restart.
            memo: where uploads are remembered, as ``s3/NAME/ITEM``.
            part: bytes of a part, and the largest item that is sent as one; at least 5 MiB (S3's own limit) where there are several.
            lock: whether objects are locked.
            pace: how fast they are sent.
        """
        self._name = name
        self._place = place
        self._keys = keys
        self._memo = memo
        self._part = part
        self._lock = lock
        self._pace = pace
        # Sendings last long: they must not take the threads that everybody shares.
        self._senders = ThreadPoolExecutor(SENDERS, thread_name_prefix=f"s3 {name}")
        self._store: Store | None = None
        self._ability: _Ability | None = None

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    async def probe(self) -> Capabilities:
        """See `Target.probe`. Leaves one small object, always the same, under the prefix."""
        return await asyncio.to_thread(self._probe)

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """See `Target.send`. What the store has under the name already is a success where it is the same, unless it are receipts."""
        stop = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._senders, self._send, item, progress, stop)
        finally:
            stop.set()

    async def close(self) -> None:
        """See `Target.close`."""
        store, self._store = self._store, None
        self._senders.shutdown(wait=False)
        if store is not None:
            await asyncio.to_thread(store.close)

    # ---- what the store can do

    def _probe(self) -> Capabilities:
        if self._store is not None:
            self._store.close()
        self._ability = None
        self._store = store = Store(self._name, self._place, *self._keys())
        store.reach()
        if self._lock is not None and not store.locks():
            raise PermissionRefused(
                f"{self._name}: objects in bucket {self._place.bucket} cannot be locked", why="the bucket has no object lock configuration",
                try_="make a bucket with object lock, or remove lock from the target; then edge-agent kick", code="S3_NO_LOCK",
            )  # fmt: skip
        self._ability = ability = self._try_out(store)
        self._give_up_stale(store)
        proof = Proof.STORE_DIGEST if ability.crc or ability.sha256 else Proof.READ_BACK
        where = f"bucket {self._place.bucket} at {self._place.endpoint}"
        return Capabilities(self._part_for(1 << 62) * MOST_PARTS, True, proof, f"{where}, {ability.detail()}")

    def _try_out(self, store: Store) -> _Ability:
        """Send one small object with wrong sums, then rightly, then once more."""
        key, data = self._place.prefix + PROBE, PROBE_CONTENT
        refuses = {kind: _refuses(store, key, kind) for kind in (PartSum.CRC64NVME, PartSum.SHA256)}
        right = sums(PartSum.SHA256, data) if refuses[PartSum.SHA256] else {}
        if (there := store.head(key)) is None:
            store.put(key, data, right, {}, only_new=False)
            there = store.head(key) or {}
        conditional = False
        try:
            store.put(key, data, right, {}, only_new=True)
        except AlreadyThere:
            conditional = True
        except NotUnderstood:
            pass
        return _Ability(refuses[PartSum.CRC64NVME], refuses[PartSum.SHA256] and "ChecksumSHA256" in there, conditional)

    # ---- one item

    def _send(self, item: OutboxItem, progress: Progress, stop: threading.Event) -> Receipt:
        store, ability = self._store, self._ability
        if store is None or ability is None:
            raise TargetUnreachable(f"{self._name}: not probed yet", try_="it is tried again by itself", code="S3_TROUBLE")
        key = self._key(item)
        only_new = item.kind is not ItemKind.RECEIPTS
        try:
            if only_new and (found := store.head(key)) is not None:
                return self._same(store, item, key, found, stop)
            if item.size <= self._part:
                sha256, whole = self._put(store, ability, item, key, only_new, stop), None
            else:
                sha256, whole = self._send_parts(store, ability, item, key, progress, stop)
        except (AlreadyThere, UploadGone) as error:
            # Somebody was quicker: most likely we ourselves, and the answer got lost. Or the store gave the upload up.
            self._forget(item)
            found = store.head(key)
            if found is None:
                raise self._odd(key, "the store forgot what was begun; it begins again") from error
            return self._same(store, item, key, found, stop)
        except WrongBytes as error:
            raise self._odd(key, f"other bytes arrived than were sent: {error}", code="S3_WRONG_BYTES") from error
        progress(item.size)
        head = store.head(key)
        if head is None:
            raise self._odd(key, "it was acknowledged and is not there")
        proof = self._prove(store, item, key, head, sha256, whole, stop)
        if proof is None:
            raise IntegrityError(
                f"{self._name}: {key} is not what was sent", why="the store says that it holds other bytes than it acknowledged",
                try_="check the store before anything else is put there; the spool keeps the item", code="READ_BACK_DIFFERS",
            )  # fmt: skip
        return Receipt(self._name, item.item_id, sha256, item.size, proof, utc_now_ns())

    def _put(self, store: Store, ability: _Ability, item: OutboxItem, key: str, only_new: bool, stop: threading.Event) -> bytes:
        with OutgoingFile(item) as file:
            data, sha256 = file.read(0, item.size), file.sha256()
        self._in_turn(len(data), stop)
        said = {"ChecksumSHA256": base64_of(sha256)} if ability.sha256 else sums(ability.parts, data)
        more = {"Metadata": {"item": item.item_id, "sha256": sha256.hex()}, **self._locked()}
        store.put(key, data, said, more, only_new=only_new and ability.conditional)
        return sha256

    def _send_parts(
        self, store: Store, ability: _Ability, item: OutboxItem, key: str, progress: Progress, stop: threading.Event
    ) -> tuple[bytes, Whole]:
        """Send what the store lacks; SHA-256 of the file, and what the parts came to."""
        upload, there = self._resumed(store, ability, item, key)
        kind, whole, sent, parts = upload.kind, Whole(), 0, []
        waiting: deque[tuple[int, dict[str, Any], Future[str] | None]] = deque()

        def settle() -> None:
            nonlocal sent
            size, part, going = waiting.popleft()
            if going is not None:
                part["ETag"] = going.result()
            sent += size
            progress(sent)

        with OutgoingFile(item) as file, ThreadPoolExecutor(PARALLEL, thread_name_prefix=f"s3 {self._name}") as pool:
            try:
                for number, offset in enumerate(range(0, item.size, upload.part), 1):
                    _check(stop)
                    data = file.read(offset, upload.part)
                    said = whole.add(kind, data)
                    part: dict[str, Any] = {"PartNumber": number, **said}
                    size, etag = there.get(number, (0, ""))
                    going = None
                    if size == len(data):
                        part["ETag"] = etag
                    else:
                        self._in_turn(len(data), stop)
                        going = pool.submit(store.part, key, upload.upload, number, data, said)
                    parts.append(part)
                    waiting.append((len(data), part, going))
                    while len(waiting) > PARALLEL:
                        settle()
                while waiting:
                    settle()
                sha256 = file.sha256()
                self._complete(store, ability, item, key, upload, parts, whole)
            except WrongBytes:
                # Which part is wrong is not known: none is kept.
                self._forget(item)
                store.abort(key, upload.upload)
                raise
            finally:
                pool.shutdown(cancel_futures=True)
        self._forget(item)
        return sha256, whole

    def _complete(
        self, store: Store, ability: _Ability, item: OutboxItem, key: str, upload: _Upload, parts: list[dict[str, Any]], whole: Whole
    ) -> None:
        kind = upload.kind
        full = {"ChecksumCRC64NVME": whole.said(kind), "ChecksumType": "FULL_OBJECT"} if kind is PartSum.CRC64NVME else {}
        only_new = item.kind is not ItemKind.RECEIPTS and ability.conditional
        try:
            store.complete(key, upload.upload, parts, full, only_new=only_new)
        except AlreadyThere:
            self._forget(item)
            store.abort(key, upload.upload)
            raise

    def _resumed(self, store: Store, ability: _Ability, item: OutboxItem, key: str) -> tuple[_Upload, dict[int, tuple[int, str]]]:
        """The upload of before with the parts that the store has, or a new one."""
        known = self._memo.under(self._memo_key(item)).get(self._memo_key(item))
        if known is not None:
            upload = _upload(known)
            with contextlib.suppress(UploadGone):
                if upload is not None and upload.key == key:
                    return upload, store.parts(key, upload.upload)
            self._forget(item)
        kind = ability.parts
        more = {"Metadata": {"item": item.item_id}, **self._locked()}
        upload = _Upload(store.begin(key, kind, more), key, self._part_for(item.size), kind, utc_now_ns())
        self._memo.put(self._memo_key(item), json.dumps([upload.upload, upload.key, upload.part, upload.kind, upload.t_ns]).encode())
        return upload, {}

    # ---- what the store holds

    def _same(self, store: Store, item: OutboxItem, key: str, head: Mapping[str, Any], stop: threading.Event) -> Receipt:
        """The receipt for an object that is there already.

        Raises:
            IntegrityError: it is another one.
        """
        whole = Whole()
        with OutgoingFile(item) as file:
            for offset in range(0, item.size, self._part):
                _check(stop)
                whole.add(PartSum.CRC64NVME, file.read(offset, self._part))
            sha256 = file.sha256()
        proof = self._prove(store, item, key, head, sha256, whole, stop)
        if proof is None:
            raise IntegrityError(
                f"{self._name}: there is another object under {key}", why=f"it is not the item with SHA-256 {sha256.hex()}",
                try_="look at both; move the one in the store away if it does not belong there, then edge-agent quarantine retry",
                code="TARGET_CONFLICT",
            )  # fmt: skip
        self._forget(item)
        return Receipt(self._name, item.item_id, sha256, item.size, proof, utc_now_ns())

    def _prove(
        self, store: Store, item: OutboxItem, key: str, head: Mapping[str, Any], sha256: bytes, whole: Whole | None, stop: threading.Event
    ) -> Proof | None:
        """What kind of proof there is that the store holds our bytes; None: it holds others."""
        if int(head.get("ContentLength", -1)) != item.size:
            return None
        said = agrees(head, sha256, whole) if self._ability is not None and (self._ability.crc or self._ability.sha256) else None
        if said is not None:
            return Proof.STORE_DIGEST if said else None
        digest = hashlib.sha256()
        for block in store.read(key):
            _check(stop)
            digest.update(block)
        return Proof.READ_BACK if digest.digest() == sha256 else None

    # ---- small things

    def _key(self, item: OutboxItem) -> str:
        key = self._place.prefix + item.remote
        if len(key.encode()) > LARGEST_KEY or any(part in ("", ".", "..") for part in item.remote.split("/")):
            raise IntegrityError(
                f"{self._name}: {item.remote} cannot be the name of an object",
                why=f"it has more than {LARGEST_KEY} bytes, or '.', '..' or nothing between two '/'",
                try_="rename it at its source", code="TARGET_PATH",
            )  # fmt: skip
        return key

    def _part_for(self, size: int) -> int:
        """Bytes of a part: as configured, and more where there would be too many of them (S3 allows 5 GiB)."""
        part = max(self._part, SMALLEST_PART)
        while part * MOST_PARTS < size and part < 5 << 30:
            part *= 2
        return min(part, 5 << 30)

    def _in_turn(self, size: int, stop: threading.Event) -> None:
        stop.wait(self._pace.delay(size))
        _check(stop)

    def _locked(self) -> dict[str, Any]:
        if self._lock is None:
            return {}
        until = datetime.now(UTC) + timedelta(days=self._lock.days)
        return {"ObjectLockMode": self._lock.mode, "ObjectLockRetainUntilDate": until}

    def _memo_key(self, item: OutboxItem) -> str:
        return f"s3/{self._name}/{item.item_id}"

    def _forget(self, item: OutboxItem) -> None:
        self._memo.delete(self._memo_key(item))

    def _give_up_stale(self, store: Store) -> None:
        """Free what uploads take that nobody went on with: their parts cost room in the store."""
        before = utc_now_ns() - int(STALE.total_seconds()) * 10**9
        for memo, value in self._memo.under(f"s3/{self._name}/").items():
            upload = _upload(value)
            if upload is not None and upload.t_ns < before:
                store.abort(upload.key, upload.upload)
            if upload is None or upload.t_ns < before:
                self._memo.delete(memo)

    def _odd(self, key: str, why: str, code: str = "S3_TROUBLE") -> TargetUnreachable:
        return TargetUnreachable(f"{self._name}: {key} did not get through", why=why, try_="it is tried again by itself", code=code)


def _refuses(store: Store, key: str, kind: PartSum) -> bool:
    """Whether the store checks such a sum: it is sent a wrong one."""
    try:
        store.put(key, PROBE_CONTENT, sums(kind, b"something else"), {}, only_new=False)
    except WrongBytes:
        return True
    except NotUnderstood:
        pass
    return False


def _upload(value: bytes) -> _Upload | None:
    """What was remembered; None for what another version wrote."""
    try:
        upload, key, part, kind, t_ns = json.loads(value)
        return _Upload(str(upload), str(key), int(part), PartSum(kind), int(t_ns))
    except ValueError:
        return None


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise TargetUnreachable("The upload was stopped.", why="the agent is stopping", try_="it goes on at the next start")
