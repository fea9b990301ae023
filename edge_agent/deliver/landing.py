"""A landing service over HTTPS: tus 1.0 uploads that resume, and a CUSTODY that is checked before anything is believed.

An upload's URL follows from the item's id, so nothing has to be remembered here: after a crash the service is asked
how much it has, and the prefix is hashed again from the disk. One attempt a `send`; only when the service says that
it stored other bytes than were sent, the item is sent once more from the start.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from edge_agent.deliver.carrier import FAULTS, Carriers, Part, Reply
from edge_agent.deliver.landing_keys import LandingKeys, OpenKeys
from edge_agent.deliver.outgoing import OutgoingFile, announce, once_more
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.deliver.target import Capabilities, Progress
from edge_agent.errors import EdgeAgentError, PermissionRefused, TargetUnreachable
from edge_agent.model import OutboxItem, Proof, Receipt
from edge_agent.wire.item import ItemHeader
from edge_agent.wire.proof import ReceiptTrust
from edge_agent.wire.refusal import from_json
from edge_agent.wire.talk import MAX_CONTROL, WitnessAsk
from edge_agent.wire.tls import READ_TIMEOUT, client_context, client_session, explain, read_body

PIECE = 16 << 20
LARGEST_PIECE = 128 << 20
BRISK = 1.0
"""Seconds: a PATCH that took less makes the next one longer, so that few of them wait for the other disk, and none long for news."""
RECEIPT_PATIENCE = 900.0
"""Seconds that the service may take to verify one item."""

_TUS = {"Tus-Resumable": "1.0.0"}
_HUNG_UP = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_NO = frozenset({401, 403, 404, 410})


@dataclass(frozen=True, slots=True)
class _Link:
    """The connections under one certificate: for questions, and for bytes."""

    session: aiohttp.ClientSession
    carriers: Carriers

    async def close(self) -> None:
        self.carriers.close()
        await self.session.close()


class LandingTarget:
    """See `edge_agent.deliver.target.Target` and ``Witnesses``."""

    def __init__(
        self,
        name: str,
        url: str,
        keys: LandingKeys,
        *,
        piece: int = PIECE,
        timeout: float = READ_TIMEOUT,
        patience: float = RECEIPT_PATIENCE,
        pace: Pace = UNLIMITED,
    ) -> None:
        """Prepare; nothing is read or connected yet.

        Args:
            name: in the configuration.
            url: ``https://host:port``.
            keys: what enrolment stored.
            piece: bytes of the first PATCH; the next are up to `LARGEST_PIECE` while that goes fast.
            timeout: s, that an answer may take.
            patience: s, for the check of one item.
            pace: how fast it is filled.
        """
        self._name = name
        self._url = url.rstrip("/")
        self._keys = keys
        self._piece = piece
        self._timeout = timeout
        self._patience = patience
        self._pace = pace
        self._link: _Link | None = None
        self._opening = asyncio.Lock()
        self._opened: OpenKeys | None = None
        self._stamp: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    async def probe(self) -> Capabilities:
        """See `Target.probe`."""
        try:
            reply = await self._ask("OPTIONS", "/files/")
        except TargetUnreachable as error:
            if not isinstance(error.__cause__, _HUNG_UP) or not await self._answers_strangers():
                raise
            reply = await self._once_more(error)
        largest = reply.number("Tus-Max-Size")
        return Capabilities(None if largest < 0 else largest, True, Proof.FSYNCED, f"landing service at {self._url}")

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """See `Target.send`."""
        return await once_more(self._deliver, item, progress)

    async def witness(self, head: bytes, chain: bytes, proof: Sequence[bytes], first: int) -> bytes:
        """See `Witnesses.witness`. When the service saw another size last: `edge_agent.wire.refusal.LogSizeDiffers`."""
        ask = WitnessAsk(head, chain, first, tuple(proof))
        reply = await self._ask("POST", "/witness", data=ask.encode())
        self._trusted().witness(reply.body, head, self._name)
        return reply.body

    async def witnessed(self, log_id: bytes) -> int:
        """Size of the largest head of a log that the service countersigned; 0 for none.

        Raises:
            TargetUnreachable, PermissionRefused, IntegrityError: as `witness`.
        """
        reply = await self._ask("GET", f"/witness/{log_id.hex()}", also=frozenset({404}))
        return 0 if reply.status == 404 else self._trusted().last_witness(reply.body, self._name).size

    async def close(self) -> None:
        """See `Target.close`."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # ---- one upload

    async def _deliver(self, item: OutboxItem, progress: Progress) -> Receipt:
        link = await self._connected()
        header = announce(item, self._agent(), self._name)
        if item.size:
            link.carriers.prepare()
        place, offset = await self._begin(header)
        with await asyncio.to_thread(OutgoingFile, item) as file:
            piece = self._piece
            while offset < item.size:
                progress(offset)
                began = time.monotonic()
                part = Part(file, offset, min(offset + piece, item.size), self._pace)
                reply = await self._carry(place, part)
                offset = self._next_offset(reply, part.end, item.size)
                if time.monotonic() - began < BRISK:
                    piece = max(piece, min(2 * piece, LARGEST_PIECE))
            sha256 = await asyncio.to_thread(file.sha256)
        progress(offset)
        said = base64.b64encode(sha256).decode()
        headers = {**_patch_at(item.size), "Content-Length": "0", "Repr-Digest": f"sha-256=:{said}:"}
        await self._ask("PATCH", place, headers=headers)
        cose = await self._receipt(place)
        custody = self._trusted().custody(cose, header.with_digest(sha256), self._name)
        return Receipt(self._name, item.item_id, sha256, item.size, Proof(custody.durable), custody.t_ns, cose)

    async def _begin(self, header: ItemHeader) -> tuple[str, int]:
        """Where the upload is, and the offset from which the service wants bytes."""
        place = f"/files/{header.item_id}"
        # A HEAD has no body: whatever it does not find, the POST says why.
        found = await self._ask("HEAD", place, headers=_TUS, also=_NO)
        if found.status not in _NO and found.number("Upload-Length") == header.size:
            return place, self._next_offset(found, None, header.size)
        announced = base64.b64encode(header.encode()).decode()
        headers = {**_TUS, "Upload-Length": str(header.size), "Upload-Metadata": f"item {announced}"}
        created = await self._ask("POST", "/files/", headers=headers)
        place = self._location(created.headers.get("Location", place))
        # Only a service that knew the item already says so here; tus 1.0 itself has no offset in this answer.
        return place, self._next_offset(created, None, header.size) if "Upload-Offset" in created.headers else 0

    def _location(self, location: str) -> str:
        """The path of an upload; nothing is sent to another host than the one that was configured."""
        parts = urlsplit(location)
        if parts.netloc not in ("", urlsplit(self._url).netloc) or not parts.path.startswith("/"):
            raise TargetUnreachable(
                f"{self._name}: it answers nonsense", why=f"an upload at {location[:200]!r}", try_="look at the landing service",
                code="LANDING_ANSWER",
            )  # fmt: skip
        return parts.path

    async def _carry(self, place: str, part: Part) -> Reply:
        link = await self._connected()
        try:
            reply = await link.carriers.patch(place, _patch_at(part.start), part)
        except FAULTS as error:
            raise explain(error, self._name) from error
        return self._judged(reply)

    def _next_offset(self, reply: Reply, wanted: int | None, size: int) -> int:
        offset = reply.number("Upload-Offset")
        if not 0 <= offset <= size or wanted not in (None, offset):
            why = f"Upload-Offset {reply.headers.get('Upload-Offset')!r}, the item has {size} bytes"
            raise TargetUnreachable(
                f"{self._name}: it answers nonsense", why=why, try_="look at the landing service", code="LANDING_ANSWER"
            )
        return offset

    async def _receipt(self, place: str) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    reply = await self._ask("GET", f"{place}/receipt", also=frozenset({202}))
                    if reply.status == 200:
                        return reply.body
                    await asyncio.sleep(min(max(reply.number("Retry-After"), 1), 10))
        except TimeoutError as error:
            why = f"all bytes are there, no receipt after {self._patience:g} s"
            raise TargetUnreachable(
                f"{self._name}: no receipt yet", why=why, try_="it is asked again", code="LANDING_RECEIPT_LATE"
            ) from error

    # ---- the connection

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        also: frozenset[int] = frozenset(),
    ) -> Reply:
        """One request; the reply when it is a 2xx other than 202, or one of ``also``.

        Raises:
            TargetUnreachable, PermissionRefused, IntegrityError: every other outcome.
        """
        session = (await self._connected()).session
        try:
            async with session.request(method, path, headers=headers, data=data, allow_redirects=False) as response:
                body = await read_body(response, MAX_CONTROL)
                reply = Reply(response.status, response.headers, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise explain(error, self._name) from error
        return self._judged(reply, also)

    def _judged(self, reply: Reply, also: frozenset[int] = frozenset()) -> Reply:
        if reply.status in also or (200 <= reply.status < 300 and reply.status != 202):
            return reply
        raise self._refused(reply)

    async def _answers_strangers(self) -> bool:
        """Whether the service answers somebody who shows no certificate."""
        if self._opened is None:
            return False
        async with client_session(client_context(self._opened.root), self._url, self._timeout) as session:
            try:
                async with session.get("/health", allow_redirects=False) as response:
                    return response.status == 200
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False

    async def _once_more(self, before: TargetUnreachable) -> Reply:
        """With TLS 1.3 a refused client certificate looks like a connection that is cut; if it is cut again, it is that."""
        try:
            return await self._ask("OPTIONS", "/files/")
        except TargetUnreachable as error:
            raise PermissionRefused(
                f"{self._name}: it refuses our certificate", why=f"it hangs up as soon as it sees it ({before.why})",
                try_="enrol again with a new token: edge-agent enroll TOKEN", code="LANDING_CLIENT_CERTIFICATE",
            ) from error  # fmt: skip

    def _refused(self, reply: Reply) -> EdgeAgentError:
        refusal = from_json(reply.body.decode(errors="replace"))
        if refusal is not None:
            return refusal.error(self._name)
        why = f"HTTP status {reply.status}: {reply.body[:200].decode(errors='replace')}"
        if reply.status in (401, 403):
            try_ = "enrol again with a new token: edge-agent enroll TOKEN"
            return PermissionRefused(f"{self._name}: it refuses us", why=why, try_=try_, code="LANDING_REFUSED")
        try_ = "it is tried again; look at the landing service's log if this goes on"
        return TargetUnreachable(f"{self._name}: it is in trouble", why=why, try_=try_, code="LANDING_TROUBLE")

    def _agent(self) -> bytes:
        return b"" if self._opened is None else self._opened.agent_id

    def _trusted(self) -> ReceiptTrust:
        if self._opened is None:
            raise RuntimeError("asked before the keys were read")
        return self._opened.trust

    async def _connected(self) -> _Link:
        """The connections, made anew when the certificate was renewed."""
        async with self._opening:
            stamp = await asyncio.to_thread(self._keys.stamp, self._name)
            if self._link is None or stamp != self._stamp:
                await self.close()
                self._opened = opened = await asyncio.to_thread(self._keys.open, self._name)
                self._link = _Link(
                    client_session(opened.context, self._url, self._timeout), Carriers(opened.context, self._url, self._timeout)
                )
                self._stamp = stamp
            return self._link


def _patch_at(offset: int) -> dict[str, str]:
    return {**_TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
