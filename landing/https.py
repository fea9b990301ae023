"""The HTTPS door: tus 1.0 (creation) with RFC 9530 ``Repr-Digest``, receipts, witnessing, enrolment, a list of runs.

Every route but ``/health``, ``/enroll``, ``/revoked`` and the pages of open runs (`landing.pages`) wants a TLS client certificate of
an enrolled agent; the agent is the one in the certificate, never one in a message. A refusal is JSON
``{"code", "what", "why", "try", "have"}``.

A door that was shut still meets requests: a connection whose TLS handshake was under way is there when it is done.
They get TROUBLE and touch nothing, since what is behind the door is being closed.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from functools import lru_cache

from aiohttp import web
from cryptography import x509

from edge_agent.seal.cbor import SealError
from edge_agent.wire.item import ItemHeader, parse_header
from edge_agent.wire.names import BadName, check_upload_id
from edge_agent.wire.refusal import Code, Refusal, Refused
from edge_agent.wire.talk import MAX_CONTROL, parse_witness_ask
from landing.authority import agent_of
from landing.database import stopping
from landing.enrol import Registrar
from landing.pages import Pages
from landing.receiver import Receiver
from landing.room import Limits
from landing.witness import WitnessBook

TUS = "1.0.0"
WRITE_BLOCK = 1 << 20
RECEIPT_WAIT = 20.0
"""Seconds that ``GET /files/<id>/receipt`` waits before it says "not yet"."""

_PUBLIC = frozenset({"/health", "/enroll", "/revoked"})
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):")
_STATUS = {
    Code.NO_CERTIFICATE: 401, Code.UNKNOWN_AGENT: 403, Code.REVOKED: 403,
    Code.WRONG_AGENT: 403, Code.PROJECT: 403, Code.TOKEN: 403, Code.AGENT_TAKEN: 409,
    Code.BAD_REQUEST: 400, Code.BAD_NAME: 400, Code.NOT_FOUND: 404, Code.OFFSET: 409, Code.BUSY: 423, Code.TOO_LARGE: 413,
    Code.DIGEST: 422, Code.NO_DIGEST: 409, Code.SEGMENT: 422, Code.FACTS: 422, Code.CLASH: 409, Code.FULL: 507, Code.QUOTA: 507,
    Code.SIGNATURE: 403, Code.FORK: 409, Code.LOG_SIZE: 409, Code.LOG_RESTART: 409, Code.TROUBLE: 503,
}  # fmt: skip
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpsDoor:
    """Handlers over one `Receiver`, `Registrar` and `WitnessBook`."""

    def __init__(
        self, receiver: Receiver, registrar: Registrar, book: WitnessBook, limits: Limits, name: str, root_pem: str,
        pages: Pages | None = None,
    ) -> None:  # fmt: skip
        self._receiver = receiver
        self._registrar = registrar
        self._book = book
        self._limits = limits
        self._health = {"service": "landing", "name": name, "root": root_pem}
        self._open = [] if pages is None else pages.routes()
        self._shut = False

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(middlewares=[self._while_open, _refusals, self._who], client_max_size=MAX_CONTROL)
        app.on_shutdown.append(self._shutting)
        app.router.add_get("/health", self.health)
        app.router.add_get("/revoked", self.revoked)
        app.router.add_post("/enroll", self.enrol)
        app.router.add_post("/renew", self.renew)
        app.router.add_options("/files/", self.options)
        app.router.add_post("/files/", self.create)
        app.router.add_head("/files/{id}", self.head)
        app.router.add_patch("/files/{id}", self.patch)
        app.router.add_get("/files/{id}/receipt", self.receipt, allow_head=False)
        app.router.add_post("/witness", self.witness)
        app.router.add_get("/witness/{log}", self.last_witness, allow_head=False)
        app.router.add_get("/runs", self.runs)
        app.router.add_get("/runs/{path:.+}", self.run)
        app.router.add_routes(self._open)
        return app

    @web.middleware
    async def _who(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path not in _PUBLIC and request.match_info.handler not in [route.handler for route in self._open]:
            await asyncio.to_thread(self._receiver.admit, _agent(request))
        return await handler(request)

    async def _shutting(self, _app: web.Application) -> None:
        self._shut = True

    @web.middleware
    async def _while_open(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not self._shut:
            return await handler(request)
        answer = _answer(stopping().refusal)
        answer.force_close()
        return answer

    # ---- everybody

    async def health(self, _request: web.Request) -> web.Response:
        """``GET /health``: that it runs, its name, and its root certificate, which a token's holder compares with the token."""
        return web.json_response(self._health)

    async def revoked(self, _request: web.Request) -> web.Response:
        """``GET /revoked``: who was shut out, each with the signed KEY_COMPROMISED (`edge_agent.wire.revocation`), base64."""
        found = await asyncio.to_thread(self._receiver.revocations)
        listed = [{"agent": r.agent_id.hex(), "t_ns": r.t_ns, "statement": base64.b64encode(r.statement).decode()} for r in found]
        return web.json_response(listed)

    async def enrol(self, request: web.Request) -> web.Response:
        """``POST /enroll``: CBOR in and out, see `edge_agent.wire.enrol`."""
        certificates = await asyncio.to_thread(self._registrar.enrol, await request.read())
        return web.Response(body=certificates.encode(), content_type="application/cbor")

    # ---- agents

    async def renew(self, request: web.Request) -> web.Response:
        """``POST /renew``: a certificate request (DER) in, certificates out."""
        certificates = await asyncio.to_thread(self._registrar.renew, _agent(request), await request.read())
        return web.Response(body=certificates.encode(), content_type="application/cbor")

    async def options(self, request: web.Request) -> web.Response:
        """``OPTIONS /files/``: what the tus side can do, for agents that are enrolled."""
        await self._receiver.agent(_agent(request))
        headers = {"Tus-Version": TUS, "Tus-Extension": "creation", "Tus-Max-Size": str(self._limits.max_size)}
        return web.Response(status=204, headers={"Tus-Resumable": TUS, **headers})

    async def create(self, request: web.Request) -> web.Response:
        """``POST /files/``: ``Upload-Metadata: item <base64 of an item header>``, ``Upload-Length``, perhaps ``Repr-Digest``."""
        _check_tus(request)
        header = _announced(request)
        offset = await self._receiver.create(_agent(request), header)
        headers = {"Tus-Resumable": TUS, "Location": f"/files/{header.item_id}", "Upload-Offset": str(offset)}
        return web.Response(status=201, headers=headers)

    async def head(self, request: web.Request) -> web.Response:
        """``HEAD /files/<id>``: ``Upload-Offset`` durable bytes of ``Upload-Length``; 410 when it was refused before."""
        _check_tus(request)
        try:
            offset, size = await self._receiver.status(_agent(request), _id(request))
        except Refused as refused:
            status = _STATUS[refused.refusal.code]
            return web.Response(status=410 if status in (409, 422) else status, headers={"Tus-Resumable": TUS})
        headers = {"Tus-Resumable": TUS, "Upload-Offset": str(offset), "Upload-Length": str(size), "Cache-Control": "no-store"}
        return web.Response(headers=headers)

    async def patch(self, request: web.Request) -> web.Response:
        """``PATCH /files/<id>``: bytes at ``Upload-Offset``; with the last, or with none after the last, ``Repr-Digest`` of the whole."""
        _check_tus(request)
        if request.content_type != "application/offset+octet-stream":
            raise Refused(Code.BAD_REQUEST, "A PATCH wants Content-Type application/offset+octet-stream")
        item_id, agent_id = _id(request), _agent(request)
        digest = _digest(request)
        offset = await self._receiver.append(agent_id, item_id, _number(request, "Upload-Offset"), _blocks(request))
        if digest is not None:
            await self._receiver.finish(agent_id, item_id, digest)
        return web.Response(status=204, headers={"Tus-Resumable": TUS, "Upload-Offset": str(offset)})

    async def receipt(self, request: web.Request) -> web.Response:
        """``GET /files/<id>/receipt``: 200 and the CUSTODY, 202 when it is still being checked, else the refusal."""
        custody = await self._receiver.receipt(_agent(request), _id(request), RECEIPT_WAIT)
        if custody is None:
            return web.Response(status=202, headers={"Retry-After": "1"})
        return web.Response(body=custody, content_type="application/cose")

    async def witness(self, request: web.Request) -> web.Response:
        """``POST /witness``: see `edge_agent.wire.talk.WitnessAsk`; the WITNESS comes back."""
        ask = parse_witness_ask(await request.read())
        signed = await asyncio.to_thread(self._book.countersign, _agent(request), ask)
        return web.Response(body=signed, content_type="application/cose")

    async def last_witness(self, request: web.Request) -> web.Response:
        """``GET /witness/<log id, hex>``: the WITNESS of the largest head that was seen."""
        try:
            log_id = bytes.fromhex(request.match_info["log"])
        except ValueError as error:
            raise Refused(Code.BAD_REQUEST, "A log id is hex") from error
        signed = await asyncio.to_thread(self._book.last, _agent(request), log_id)
        if signed is None:
            raise Refused(Code.NOT_FOUND, "This log was never witnessed here", have=0)
        return web.Response(body=signed, content_type="application/cose")

    async def runs(self, request: web.Request) -> web.Response:
        """``GET /runs``: the runs of the agent's projects."""
        found = await self._receiver.runs(_agent(request))
        return web.json_response([asdict(run) for run in found])

    async def run(self, request: web.Request) -> web.Response:
        """``GET /runs/<project>/<group>/<date>/<run>``: its files."""
        files = await self._receiver.files(_agent(request), request.match_info["path"].strip("/"))
        listed = [
            {"path": f.path, "kind": f.kind, "size": f.size, "sha256": f.sha256.hex(), "level": f.level, "t_ns": f.t_ns} for f in files
        ]
        return web.json_response(listed)


def server_context(certificate: str, key: str, root: str) -> ssl.SSLContext:
    """TLS 1.2 or newer; client certificates, when one is shown, must come from our root."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(root)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@web.middleware
async def _refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as error:
        refused = error
    except BadName as error:
        refused = Refused(Code.BAD_NAME, "This name is not stored", why=str(error), try_="rename it")
    except SealError as error:
        refused = Refused(
            Code.BAD_REQUEST, "This is not what the protocol says", why=str(error), try_="are both sides of the same version?"
        )
    return _answer(refused.refusal)


def _answer(refusal: Refusal) -> web.Response:
    headers = {"Tus-Resumable": TUS}
    if refusal.code is Code.OFFSET and refusal.have is not None:
        headers["Upload-Offset"] = str(refusal.have)
    return web.Response(status=_STATUS[refusal.code], text=refusal.to_json(), content_type="application/json", headers=headers)


def _agent(request: web.Request) -> bytes:
    """The agent in the client certificate of the connection, which TLS has checked against our root."""
    tls = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    der = None if tls is None else tls.getpeercert(binary_form=True)
    agent_id = None if der is None else _agent_in(der)
    if agent_id is None:
        why = "no client certificate" if der is None else "the client certificate is not one for an agent's connection"
        raise Refused(Code.NO_CERTIFICATE, "Who are you?", why=why, try_="enrol: edge-agent enroll TOKEN")
    return agent_id


@lru_cache(maxsize=256)
def _agent_in(der: bytes) -> bytes | None:
    return agent_of(x509.load_der_x509_certificate(der))


def _check_tus(request: web.Request) -> None:
    if request.headers.get("Tus-Resumable") != TUS:
        raise Refused(Code.BAD_REQUEST, "Wants Tus-Resumable: 1.0.0", why=f"got {request.headers.get('Tus-Resumable')!r}")


def _id(request: web.Request) -> str:
    return check_upload_id(request.match_info["id"])


def _number(request: web.Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise Refused(Code.BAD_REQUEST, f"Wants {name}: a number of bytes", why=f"got {text[:40]!r}")
    return int(text)


def _announced(request: web.Request) -> ItemHeader:
    pairs = [pair.split() for pair in request.headers.get("Upload-Metadata", "").split(",")]
    values = [pair[1] for pair in pairs if len(pair) == 2 and pair[0] == "item"]
    try:
        header = parse_header(base64.b64decode(values[0], validate=True))
    except (IndexError, binascii.Error) as error:
        raise Refused(Code.BAD_REQUEST, "Wants Upload-Metadata: item <base64>") from error
    if _number(request, "Upload-Length") != header.size:
        raise Refused(Code.BAD_REQUEST, "Upload-Length is not the size in the item header")
    digest = _digest(request)
    if digest is None or digest == header.sha256:
        return header
    if header.sha256 is not None:
        raise Refused(Code.BAD_REQUEST, "Repr-Digest is not the SHA-256 in the item header")
    return header.with_digest(digest)


def _digest(request: web.Request) -> bytes | None:
    text = request.headers.get("Repr-Digest")
    if text is None:
        return None
    match = _DIGEST.search(text)
    if match is None:
        raise Refused(Code.BAD_REQUEST, "Wants Repr-Digest: sha-256=:<base64>:", why=f"got {text[:80]!r}")
    return base64.b64decode(match[1])


async def _blocks(request: web.Request) -> AsyncIterator[bytes]:
    """The body in blocks that are worth a write. What came before the connection broke is yielded too."""
    block = bytearray()
    try:
        async for data in request.content.iter_any():
            block += data
            if len(block) >= WRITE_BLOCK:
                yield bytes(block)
                block.clear()
    except (ConnectionError, web.RequestPayloadError) as error:
        if block:
            yield bytes(block)
        raise Refused(Code.BAD_REQUEST, "The connection broke in the middle of a piece") from error
    if block:
        yield bytes(block)
