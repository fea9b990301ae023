"""Landing services that lie, break or babble: nothing is believed, everything is said, nothing is lost."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.seal import cose
from edge_agent.seal.receipt import Custody, Witness
from edge_agent.wire.item import ItemHeader, parse_header
from edge_agent.wire.refusal import LogSizeDiffers
from landing import authority
from landing.https import server_context


@dataclass
class Liar:
    """Speaks tus well enough, under the right TLS certificate; the custody is made by ``lie``."""

    key: Ed25519PrivateKey
    lie: Callable[[Custody], bytes]
    url: str = ""
    troubles: list[web.Response] = field(default_factory=list)
    stored: bytearray = field(default_factory=bytearray)
    header: ItemHeader | None = None
    digest: bytes = b""
    asked: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.troubles:
            return self.troubles.pop(0)
        tus = {"Tus-Resumable": "1.0.0"}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=tus)
        if request.method == "HEAD":
            if self.header is None:
                return web.Response(status=404)
            return web.Response(headers={**tus, "Upload-Offset": str(len(self.stored)), "Upload-Length": str(self.header.size)})
        if request.method == "POST":
            self.header = parse_header(base64.b64decode(request.headers["Upload-Metadata"].split()[1]))
            return web.Response(status=201, headers={**tus, "Upload-Offset": "0"})
        if request.method == "PATCH":
            self.stored += await request.read()
            if "Repr-Digest" in request.headers:
                self.digest = base64.b64decode(request.headers["Repr-Digest"].removeprefix("sha-256=:").rstrip(":"))
            return web.Response(status=204, headers={**tus, "Upload-Offset": str(len(self.stored))})
        assert self.header is not None
        h = self.header
        truth = Custody(h.agent_id, h.segment_id, h.head_hash, self.digest, h.size, "liar", "fsynced", 7, h.path)
        return web.Response(body=self.lie(truth))


@pytest.fixture
async def liar(site: Any, stack: Any) -> Callable[..., Any]:
    """``await liar(lie)``: a running one, its URL in ``url``."""

    async def start(lie: Callable[[Custody], bytes] | None = None) -> Liar:
        key, _ = authority.receipt_signer(site.home)
        made = Liar(key, lie or (lambda custody: cose.sign(key, cose.CUSTODY, custody.payload())))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{any:.*}", made.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        context = server_context(str(site.home.keys / "tls.pem"), str(site.home.keys / "tls.key"), str(site.home.root))
        served = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await served.start()
        made.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        return made

    return start


@pytest.fixture
async def agent(site: Any, enrolled: Any) -> Any:
    await site.open()
    return await enrolled()


async def test_an_honest_one_is_believed(liar: Any, agent: Any, make_item: Any, progress: list[int]) -> None:
    other = await liar()
    item = make_item()
    receipt = await agent.https(other.url).send(item, progress.append)
    assert (receipt.t_ns, receipt.size) == (7, item.size)
    assert bytes(other.stored) == item.path.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": b"\1" * 32}, "SHA-256 0101"),
        ({"size": 1}, "size 1"),
        ({"path": "demo-project/elsewhere"}, "path demo-project/elsewhere"),
        ({"agent_id": b"\2" * 16}, "agent 0202"),
        ({"segment_id": b"\3" * 16}, "segment 0303"),
        ({"head": b"\4" * 32}, "head 0404"),
        ({"durable": "promised"}, "'promised', which proves nothing"),
    ],
)
async def test_a_custody_about_something_else_is_not_believed(
    liar: Any, site: Any, agent: Any, make_item: Any, progress: list[int], change: dict[str, Any], said: str
) -> None:
    key, _ = authority.receipt_signer(site.home)
    other = await liar(lambda custody: cose.sign(key, cose.CUSTODY, replace(custody, **change).payload()))
    item = make_item()
    with pytest.raises(IntegrityError, match="does not prove that our data is held") as error:
        await agent.https(other.url).send(item, progress.append)
    assert error.value.code == "RECEIPT_NOT_BELIEVED"
    assert said in error.value.why
    assert "the data is kept here" in error.value.try_
    assert item.path.exists()


async def test_right_tls_and_wrong_receipt_key_is_not_believed(
    liar: Any, agent: Any, make_item: Any, progress: list[int], stranger_key: Ed25519PrivateKey
) -> None:
    other = await liar(lambda custody: cose.sign(stranger_key, cose.CUSTODY, custody.payload()))
    with pytest.raises(IntegrityError, match="does not prove") as error:
        await agent.https(other.url).send(make_item(), progress.append)
    assert "no receipt certificate under our root" in error.value.why


async def test_a_receipt_certificate_of_another_ca_is_not_believed(
    liar: Any, site: Any, agent: Any, make_item: Any, progress: list[int], stranger_key: Ed25519PrivateKey, tmp_path: Any
) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    from landing.home import Home, Settings

    home = Home(tmp_path / "stranger")
    home.create(Settings(name="Stranger"))
    foreign = authority.create(home, Settings(name="Stranger")).receipts(stranger_key.public_key(), "Stranger")
    with agent.enrolment.receipts.open("ab") as file:
        file.write(foreign.public_bytes(Encoding.PEM))
    other = await liar(lambda custody: cose.sign(stranger_key, cose.CUSTODY, custody.payload()))
    with pytest.raises(IntegrityError, match="does not prove"):
        await agent.https(other.url).send(make_item(), progress.append)


async def test_other_things_that_are_signed_rightly_are_no_custody(
    liar: Any, site: Any, agent: Any, make_item: Any, progress: list[int]
) -> None:
    key, _ = authority.receipt_signer(site.home)
    witness = Witness(agent.agent_id, b"L" * 16, 1, b"r" * 32, b"h" * 32, 1)
    for body in (cose.sign(key, cose.WITNESS, witness.payload()), cose.sign(key, cose.CUSTODY, witness.payload()), b"", b"<html>OK</html>"):
        other = await liar(lambda _, body=body: body)
        with pytest.raises(IntegrityError, match="does not prove"):
            await agent.https(other.url).send(make_item(), progress.append)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 302, 200])
async def test_a_landing_in_trouble_is_tried_again_and_the_item_lands(
    liar: Any, agent: Any, make_item: Any, progress: list[int], status: int
) -> None:
    other = await liar()
    target = agent.https(other.url)
    other.troubles = [web.Response(status=status, text="<h1>proxy</h1>", headers={"Location": "https://127.0.0.1:1/"}) for _ in range(3)]
    with pytest.raises(TargetUnreachable) as error:
        await target.send(make_item(), progress.append)
    assert error.value.why
    assert error.value.try_
    for _ in range(4):
        try:
            receipt = await target.send(make_item(), progress.append)
        except TargetUnreachable:
            continue
    assert receipt.size == 4000
    assert other.troubles == []


async def test_a_plain_403_parks_the_item(liar: Any, agent: Any, make_item: Any, progress: list[int]) -> None:
    other = await liar()
    other.troubles = [web.Response(status=403) for _ in range(3)]  # also for the connection that is to carry the bytes
    with pytest.raises(PermissionRefused, match="refuses us"):
        await agent.https(other.url).send(make_item(), progress.append)


async def test_an_endless_answer_is_cut(liar: Any, agent: Any) -> None:
    other = await liar()
    other.troubles = [web.Response(body=b"x" * (1 << 20))]
    with pytest.raises(TargetUnreachable):
        await agent.https(other.url).probe()


async def test_nobody_there_is_unreachable(agent: Any, make_item: Any, progress: list[int]) -> None:
    with pytest.raises(TargetUnreachable, match="no connection") as error:
        await agent.https("https://127.0.0.1:9").send(make_item(), progress.append)
    assert error.value.why
    assert error.value.try_


async def test_one_that_never_answers_is_given_up(agent: Any, site: Any, stack: Any) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    stack.push_async_callback(silent.wait_closed)
    stack.callback(silent.close)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(TargetUnreachable):
        await agent.https(f"https://127.0.0.1:{port}", timeout=0.5).probe()


async def test_a_forged_witness_is_not_believed(liar: Any, agent: Any, stranger_key: Ed25519PrivateKey, site: Any) -> None:
    key, _ = authority.receipt_signer(site.home)
    head, _ = agent.log(3)
    other_head, _ = agent.log(4)
    from edge_agent.seal.head import head_hash, parse_head

    payload = cose.payload_of(other_head)
    about = parse_head(payload)
    wrong = Witness(about.agent_id, about.tree_id, about.size, about.root, head_hash(payload), 1)
    for signer in (stranger_key, key):
        other = await liar()
        other.troubles = [web.Response(body=cose.sign(signer, cose.WITNESS, wrong.payload()))]
        with pytest.raises(IntegrityError, match="does not prove"):
            await agent.https(other.url).witness(head, agent.session.chain.encode(), [], 0)


def test_a_log_size_refusal_is_its_own_error() -> None:
    from edge_agent.wire.refusal import Code, Refusal

    error = Refusal(Code.LOG_SIZE, "another size", have=7).error("cloud")
    assert isinstance(error, LogSizeDiffers)
    assert error.size == 7
