"""What comes after a run is closed: time-stamps that nobody waits for, and amendments; both are kept, and sent with the receipts."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.deliver.tsa import Tsa as Client
from edge_agent.errors import EdgeAgentError, TargetUnreachable, UsageError
from edge_agent.model import Access, Frame, Label, Proof, Receipt, Stream
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, may_send
from edge_agent.runs.amend import Amending
from edge_agent.runs.stamp import Stamping
from edge_agent.seal.amendment import Change, parse_amendment
from edge_agent.seal.cose import WITNESS, parse_all, sign
from edge_agent.seal.head import head_hash, parse_head
from edge_agent.seal.leaf import Amended
from edge_agent.seal.receipt import Receipts, Witness, parse_receipts
from edge_agent.seal.timestamp import REPLY_TYPE, stamp_of
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from tests.tsa import Tsa

New = Callable[..., Any]
pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa") / "a")


@dataclass
class Service:
    """A TSA on the network whose answers a test can spoil; ``spoil`` gives status, content type and body."""

    tsa: Tsa
    spoil: Callable[[bytes], tuple[int, str, bytes]] | None = None
    asked: list[bytes] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        query = await request.read()
        self.asked.append(query)
        right = await asyncio.to_thread(self.tsa.answer, query)
        status, kind, body = (200, REPLY_TYPE, right) if self.spoil is None else self.spoil(right)
        headers = {"Location": self.url} if status == 302 else {}
        return web.Response(status=status, body=body, content_type=kind, headers=headers)


@pytest.fixture
async def service(tsa: Tsa) -> AsyncIterator[Service]:
    made = Service(tsa)
    app = web.Application()
    app.router.add_post("/tsa", made.answer)
    server = TestServer(app)
    await server.start_server()
    made.url = str(server.make_url("/tsa"))
    yield made
    await server.close()


@dataclass
class Notary:
    """Countersigns what it is shown, unless it is away."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    away: bool = False
    heads: list[bytes] = field(default_factory=list)

    async def witness(self, head: bytes, chain: bytes, proof: Sequence[bytes], first: int) -> bytes:
        if self.away:
            raise TargetUnreachable("The notary does not answer.")
        payload = bytes(cbor2.loads(head).value[2])
        shown = parse_head(payload)
        self.heads.append(head_hash(payload))
        return sign(self.key, WITNESS, Witness(shown.agent_id, shown.tree_id, shown.size, shown.root, head_hash(payload), 7).payload())


def stamping(house: Any, service: Service, label: bool = True, **more: Any) -> Stamping:
    destination = Destination("timestamp", DestinationKind.TIMESTAMP, facility=label)
    made = Stamping(house.papers, Client(service.url), lambda given: may_send(given, destination, ObjectKind.DIGEST), **more)
    house.papers.signed = made.signed
    return made


async def one_run(house: Any, camera: Stream, frame: Callable[..., Frame], number: int = 1) -> Any:
    run = house.desk.start("bl", project="p", sample="Si")
    house.groups["bl"].offer(camera, frame(number))
    await house.desk.stop("bl")
    await house.complete(run.run_no)
    return run


def receipts(house: Any, run: Any) -> Receipts:
    return parse_receipts((house.keeper.folder(run) / f"{run.name}.receipts").read_bytes())


def sidecar(house: Any, run: Any) -> bytes:
    return hashlib.sha256((house.keeper.folder(run) / f"{run.name}.hsc").read_bytes()).digest()


async def test_a_closed_run_is_stamped_and_its_receipts_are_sent_anew(
    new_house: New, service: Service, tsa: Tsa, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house(targets=("space",))
    await house.open("bl")
    made = stamping(house, service, roots=[tsa.root])
    run = await one_run(house, camera, frame)
    assert await made.round()
    (token,) = receipts(house, run).tokens
    assert stamp_of(token).digest == sidecar(house, run)
    kinds = {item.kind.value: item for item in house.spool.outbox.items_of_run(run.run_id)}
    assert kinds["receipts"].sha256 == hashlib.sha256(receipts(house, run).encode()).digest()
    report = verify_run(house.keeper.folder(run), None, tsa_roots=[tsa.root], judge=verify_segment)
    assert (report.level, report.notes) == (1, ())
    assert await made.round()
    assert len(service.asked) == 1, "nothing is asked for twice"
    assert house.spool.state.under("stamp/") == {}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda right: (500, REPLY_TYPE, right), "gave no time-stamp"),
        (lambda right: (200, "text/html", b"<html>log in here</html>"), "gave no time-stamp"),
        (lambda right: (302, REPLY_TYPE, b""), "gave no time-stamp"),
        (lambda right: (200, REPLY_TYPE, b"garbage"), "not DER"),
        (lambda right: (200, REPLY_TYPE, b"0" * 100_000), "does not answer"),
        (lambda right: (200, REPLY_TYPE, right[:-1]), "not DER"),
    ],
)
async def test_an_answer_that_is_none_loses_nothing_and_is_asked_for_again(
    spoil: Any, said: str, new_house: New, service: Service, camera: Stream, frame: Callable[..., Frame], caplog: pytest.LogCaptureFixture
) -> None:
    house = new_house()
    await house.open("bl")
    made = stamping(house, service)
    run = await one_run(house, camera, frame)
    service.spoil = spoil
    assert not await made.round()
    assert not await made.round()
    assert said in made.error
    assert sum("has no time-stamp yet" in record.message for record in caplog.records) == 1, "said once"
    assert not (house.keeper.folder(run) / f"{run.name}.receipts").exists()
    service.spoil = None
    assert await made.round()
    assert (len(receipts(house, run).tokens), made.error) == (1, "")


async def test_a_token_for_an_older_request_or_of_an_unknown_or_expired_service_is_not_kept(
    new_house: New, service: Service, tsa: Tsa, camera: Stream, frame: Callable[..., Frame], tmp_path: Path
) -> None:
    house = new_house()
    await house.open("bl")
    made = stamping(house, service, roots=[tsa.root])
    run = await one_run(house, camera, frame)
    kept: list[bytes] = []
    service.spoil = lambda right: (200, REPLY_TYPE, (kept.append(right), kept[0])[1])
    service.tsa, expired = Tsa(tmp_path / "unknown"), Tsa(tmp_path / "expired", start=-20)
    assert not await made.round()
    assert "no given root vouches for it" in made.error
    assert not await made.round()
    assert "the nonce is not the one" in made.error
    service.spoil, service.tsa, made.roots = None, expired, [expired.root]
    assert not await made.round()
    assert "no given root vouches for it" in made.error
    service.tsa, made.roots = tsa, [tsa.root]
    assert await made.round()
    assert len(receipts(house, run).tokens) == 1


async def test_landing_does_not_wait_for_a_service_that_is_away_and_a_restart_remembers_what_is_wanted(
    new_house: New, service: Service, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house()
    await house.open("bl")
    away = Stamping(house.papers, Client("http://127.0.0.1:9/tsa"), lambda label: may_send(label, None, ObjectKind.DIGEST))
    house.papers.signed = away.signed
    run = await one_run(house, camera, frame)
    assert (house.keeper.folder(run) / "ro-crate-metadata.json").exists()
    assert await away.round(), "the policy says no: nothing is asked, nothing is wrong"
    away.allowed = stamping(house, service).allowed
    assert not await away.round()
    assert "does not answer" in away.error
    await house.stop()
    again = new_house()
    await again.open("bl")
    made = stamping(again, service)
    task = asyncio.create_task(made.run())
    await again.until(lambda: again.spool.state.under("stamp/") == {})
    task.cancel()
    await asyncio.wait([task])
    assert len(receipts(again, run).tokens) == 1


async def test_a_digest_of_closed_data_goes_only_where_the_facility_lets_it(
    new_house: New, service: Service, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house()
    await house.open("bl")
    made = stamping(house, service, label=False)
    run = await one_run(house, camera, frame)
    assert run.label.access is Access.CLOSED
    assert await made.round()
    assert await made.round()
    assert service.asked == []
    assert made.allowed(Label(Access.OPEN)).allowed


async def test_a_witnessed_run_has_the_head_of_the_log_stamped_too(
    new_house: New, service: Service, tsa: Tsa, camera: Stream, frame: Callable[..., Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house(targets=("here",))
    monkeypatch.setattr("edge_agent.runs.witness.RETRY", 0.05)
    notary = Notary(away=True)
    await house.open("bl", witnesses={"here": notary})
    made = stamping(house, service)
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    assert await made.round()
    assert len(receipts(house, run).tokens) == 1, "stamped before anybody witnessed it"
    notary.away = False
    house.witnessing.wake.set()
    await house.complete()
    assert await made.round()
    found = receipts(house, run)
    assert {stamp_of(token).digest for token in found.tokens} == {sidecar(house, run), notary.heads[-1]}
    assert len(found.receipts) == 1
    assert house.spool.state.under("stamp/") == {}


async def test_an_amendment_is_signed_logged_kept_and_sent(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    house = new_house(targets=("space",))
    await house.open("bl")
    run = await one_run(house, camera, frame)
    amending = Amending(house.papers)
    _, first = await asyncio.to_thread(amending.amend, "1", {"sample.name": "SiC", "title": "a title"}, "Ada", "mixed up")
    assert first.changes == (Change("sample.name", "Si", "SiC"), Change("title", None, "a title"))
    await house.stop()
    again = new_house(targets=("space",))
    await again.open("bl")
    _, second = await asyncio.to_thread(Amending(again.papers).amend, run.name, {"sample.name": "Si", "title": "a title"}, "Ada", "was right")
    assert (second.number, second.changes) == (2, (Change("sample.name", "SiC", "Si"),))
    report = verify_run(again.keeper.folder(run), None, judge=verify_segment)
    assert (report.level, report.amendments) == (1, (first, second)), "signed by the sessions of two boots"
    assert [leaf.number for leaf in again.log(Amended)] == [1, 2]
    (item,) = [item for item in again.spool.outbox.items_of_run(run.run_id) if item.kind.value == "receipts"]
    assert item.sha256 == hashlib.sha256(receipts(again, run).encode()).digest()


async def test_an_amendment_of_a_run_that_left_the_spool_goes_after_it(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    house = new_house(targets=("space",))
    await house.open("bl")
    run = await one_run(house, camera, frame)
    for item in house.spool.outbox.items_of_run(run.run_id):
        digest = hashlib.sha256(item.path.read_bytes()).digest()
        assert house.spool.outbox.begin(item.item_id, "space")
        assert house.spool.outbox.proved(Receipt("space", item.item_id, digest, item.size, Proof.READ_BACK, 1))
    house.spool.retention.release(lambda item, proofs: None)
    assert not (house.keeper.folder(run) / f"{run.name}.hsc").exists()
    await asyncio.to_thread(Amending(house.papers).amend, run.name, {"sample.name": "SiC"}, "Ada", "mixed up")
    assert [parse_amendment(parse_all(data).payload).number for data in receipts(house, run).amendments] == [1]
    assert house.spool.outbox.deliveries(f"{run.run_id.hex()}-{hashlib.sha256(f'{run.name}.receipts'.encode()).hexdigest()[:24]}")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"run_name": "7"}, "RUN_UNKNOWN"),
        ({"run_name": "x"}, "RUN_UNKNOWN"),
        ({"run_name": "1"}, "RUN_NOT_CLOSED"),
        ({"fields": {}}, "AMEND_FIELD"),
        ({"fields": {"Sample name": "x"}}, "AMEND_FIELD"),
        ({"fields": {f"a{n}": "x" for n in range(51)}}, "AMEND_FIELD"),
        ({"reason": " "}, "TEXT"),
        ({"author": "a\nb"}, "TEXT"),
        ({"fields": {"title": "x" * 1001}}, "TEXT"),
    ],
)
async def test_what_cannot_be_an_amendment_is_told(change: dict[str, Any], code: str, new_house: New) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    asked = {"run_name": "1", "fields": {"title": "t"}, "author": "Ada", "reason": "why"} | change
    with pytest.raises(UsageError) as told:
        Amending(house.papers).amend(**asked)
    assert told.value.code == code


async def test_what_is_known_already_is_no_amendment(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    house = new_house()
    await house.open("bl")
    run = await one_run(house, camera, frame)
    with pytest.raises(UsageError, match="says so already"):
        await asyncio.to_thread(Amending(house.papers).amend, run.name, {"sample.name": "Si"}, "Ada", "why")


async def test_late_words_survive_the_loss_of_the_database(new_house: New, camera: Stream, frame: Callable[..., Frame]) -> None:
    house = new_house(targets=("space",))
    await house.open("bl")
    run = await one_run(house, camera, frame)
    await asyncio.to_thread(Amending(house.papers).amend, run.name, {"sample.name": "SiC"}, "Ada", "mixed up")
    await house.stop()
    for name in ("spool.db", "spool.db-wal", "spool.db-shm"):
        if (house.folder / name).exists():
            os.unlink(house.folder / name)
    again = new_house(targets=("space",))
    await again.open("bl")
    _, second = await asyncio.to_thread(Amending(again.papers).amend, run.name, {"sample.name": "Ge"}, "Ada", "no, Ge")
    assert (second.number, second.changes) == (2, (Change("sample.name", "SiC", "Ge"),))


async def test_an_older_database_that_lacks_nothing_but_an_amendment_takes_it_from_the_files(
    new_house: New, camera: Stream, frame: Callable[..., Frame], caplog: pytest.LogCaptureFixture
) -> None:
    house = new_house(targets=("space",))
    await house.open("bl")
    run = await one_run(house, camera, frame)
    await house.stop()
    older = {path: path.read_bytes() for path in house.folder.glob("spool.db*")}
    house = new_house(targets=("space",))
    await house.open("bl")
    _, first = await asyncio.to_thread(Amending(house.papers).amend, run.name, {"sample.name": "SiC"}, "Ada", "mixed up")
    await house.stop()
    assert "is older" not in caplog.text
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    for path, data in older.items():
        path.write_bytes(data)
    house = new_house(targets=("space",))
    await house.open("bl")
    assert "is older than the files" in caplog.text
    _, second = await asyncio.to_thread(Amending(house.papers).amend, run.name, {"sample.name": "Ge"}, "Ada", "no, Ge")
    assert (second.number, second.changes) == (2, (Change("sample.name", "SiC", "Ge"),))
    assert verify_run(house.keeper.folder(run), None).amendments == (first, second)
    await house.stop()
    house = new_house(targets=("space",))
    await house.open("bl")
    assert caplog.text.count("is older than the files") == 1


async def test_what_is_to_be_stamped_survives_the_loss_of_the_database(
    new_house: New, service: Service, camera: Stream, frame: Callable[..., Frame]
) -> None:
    house = new_house()
    await house.open("bl")
    made = stamping(house, service)
    first = await one_run(house, camera, frame)
    assert await made.round()
    second = await one_run(house, camera, frame, 2)
    await house.stop()
    for name in ("spool.db", "spool.db-wal", "spool.db-shm"):
        (house.folder / name).unlink(missing_ok=True)
    again = new_house()
    await again.open("bl")
    task = asyncio.create_task(stamping(again, service).run())
    await again.until(lambda: (again.keeper.folder(second) / f"{second.name}.receipts").exists())
    await again.until(lambda: again.spool.state.under("stamp/") == {})
    task.cancel()
    await asyncio.wait([task])
    assert len(service.asked) == 2, "what was stamped is not stamped again"
    assert len(receipts(again, second).tokens) == len(receipts(again, first).tokens) == 1


async def test_the_client_says_when_nobody_is_there() -> None:
    with pytest.raises(EdgeAgentError, match="does not answer") as told:
        await Client("http://127.0.0.1:9/")(b"")
    assert told.value.code == "TSA_UNREACHABLE"
