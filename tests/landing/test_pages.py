"""Pages of open runs: signposts in headers and link set, nothing of what is not open, nothing that a hostile agent could say in them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import html
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from typer.testing import CliRunner
from yarl import URL

import landing.catalogue
from edge_agent.errors import UsageError
from edge_agent.model import Access, ItemKind, Label
from edge_agent.wire.tls import client_context, client_session
from landing.__main__ import app
from landing.home import Settings
from landing.pages import MOST_FILES
from landing.places import open_catalogue
from tests.environments import environment

ON_BOTH_CATALOGUES = True
HERE = Path(__file__).parent
PACKAGES = ("signposting==0.9.9",)
PUBLIC = "https://data.example.ac.jp"
FOLDER = "demo-project/beamline/2026-11-24/000001"
PAGE = f"{PUBLIC}/open/{FOLDER}/"
RUN = (b"R" * 16).hex()
CITE_AS = f"{PUBLIC}/run/{RUN[:8]}-{RUN[8:12]}-{RUN[12:16]}-{RUN[16:20]}-{RUN[20:]}"
OPEN = Label(Access.OPEN)
LICENCE = "https://spdx.org/licenses/CC-BY-4.0"
PERSON = "https://orcid.org/0000-0002-1825-0097"
CRATE: dict[str, Any] = {
    "./": {"@type": "Dataset", "name": "Lysozyme, first crystal", "description": "Two images.", "license": {"@id": LICENCE}},
    "#run-000001": {"@type": "CreateAction", "agent": {"@id": PERSON}},
}
FILES = {"000001.nxs": ItemKind.MASTER, "files/x/結果 1.csv": ItemKind.FILE, "preview.png": ItemKind.PREVIEW}


def crate(**changes: Any) -> bytes:
    return json.dumps({"@graph": [{"@id": name, **thing} for name, thing in (CRATE | changes).items()]}).encode()


Put = Callable[..., Any]


@pytest.fixture
async def put(site: Any, enrolled: Any, make_item: Any) -> Put:
    """Make a service with pages, and land the files of a run in it."""
    settings = site.home.load().model_copy(update={"public": PUBLIC})
    site.home.settings.write_text(settings.model_dump_json())
    await site.open()
    agent = await enrolled()
    numbers = iter(range(100))

    async def land(data: bytes, name: str, kind: ItemKind, label: Label = OPEN) -> None:
        number = next(numbers)
        item = make_item(data, f"item-{number}", kind, remote=f"{FOLDER}/{name}", label=label)
        await agent.https().send(item, lambda _: None)

    return land


@pytest.fixture
async def landed(put: Put) -> None:
    for name, kind in FILES.items():
        await put(name.encode(), name, kind)
    await put(crate(), "ro-crate-metadata.json", ItemKind.CRATE)


@pytest.fixture
async def visitor(put: Put, site: Any) -> AsyncIterator[ClientSession]:
    """Somebody without a certificate."""
    async with client_session(client_context(site.home.root.read_text()), site.url) as session:
        yield session


def links(header: str) -> set[tuple[str, str, str]]:
    """Relation, address and media type of each link of a header."""
    found = re.findall(r'<([^>]*)>; rel="([^"]*)"(?:; type="([^"]*)")?', header)
    return {(rel, href, media) for href, rel, media in found}


def vendor() -> str:
    return f"{PAGE}files/x/%E7%B5%90%E6%9E%9C%201.csv"


def expected() -> set[tuple[str, str, str]]:
    return {
        ("cite-as", CITE_AS, ""), ("type", "https://schema.org/AboutPage", ""), ("type", "https://schema.org/Dataset", ""),
        ("author", PERSON, ""), ("license", LICENCE, ""),
        ("describedby", f"{PAGE}ro-crate-metadata.json", "application/ld+json"),
        ("item", f"{PAGE}000001.nxs", "application/x-hdf5"), ("item", f"{PAGE}preview.png", "image/png"),
        ("item", vendor(), "application/octet-stream"),
    }  # fmt: skip


LINKSET = ("linkset", f"{PAGE}linkset.json", "application/linkset+json")


async def test_the_page_of_an_open_run_has_signposts_to_all_of_it(landed: None, visitor: ClientSession) -> None:
    for method in ("GET", "HEAD"):
        async with visitor.request(method, f"/open/{FOLDER}/") as reply:
            assert (reply.status, reply.content_type) == (200, "text/html")
            assert links(reply.headers["Link"]) == expected() | {LINKSET}
            text = await reply.text()
    async with visitor.get(f"/open/{FOLDER}/") as reply:
        text = await reply.text()
    assert "Lysozyme, first crystal" in text
    assert vendor() in text
    async with visitor.get(f"/open/{FOLDER}", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (308, PAGE)
    async with visitor.get(CITE_AS.removeprefix(PUBLIC), allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (303, PAGE)


async def test_each_file_is_there_and_leads_back_to_the_page(landed: None, visitor: ClientSession) -> None:
    for name in FILES:
        async with visitor.get(f"/open/{FOLDER}/{name}") as reply:
            assert await reply.read() == name.encode()
            assert {("collection", PAGE, "text/html"), ("license", LICENCE, ""), LINKSET} == links(reply.headers["Link"])
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Repr-Digest"].startswith("sha-256=:")
        async with visitor.head(f"/open/{FOLDER}/{name}") as reply:
            assert (reply.status, reply.headers["Content-Length"]) == (200, str(len(name.encode())))
    async with visitor.get(f"/open/{FOLDER}/ro-crate-metadata.json") as reply:
        assert await reply.read() == crate()
        assert links(reply.headers["Link"]) == {("describes", PAGE, "text/html"), LINKSET}
    async with visitor.get(f"/open/{FOLDER}/linkset.json") as reply:
        contexts = {each.pop("anchor"): each for each in json.loads(await reply.text())["linkset"]}
    found = {(rel, link["href"], link.get("type", "")) for rel, targets in contexts[PAGE].items() for link in targets}
    assert found == expected() | {LINKSET}
    assert contexts[vendor()]["collection"] == [{"href": PAGE, "type": "text/html"}]


CLOSED, SHARED = Label(Access.CLOSED, frozenset({"cloud"})), Label(Access.SHARED, frozenset({"everybody"}))
PATHS = (
    f"/open/{FOLDER}/", f"/open/{FOLDER}", f"/open/{FOLDER}/linkset.json", f"/open/{FOLDER}/000001.nxs",
    f"/open/{FOLDER}/ro-crate-metadata.json", CITE_AS.removeprefix(PUBLIC),
)  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "with_crate"),
    [([CLOSED], True), ([SHARED], True), ([OPEN, CLOSED], True), ([CLOSED, OPEN], True), ([OPEN], False)],
    ids=["closed", "shared", "closed crate", "one closed file", "not complete"],
)
async def test_of_a_run_that_is_not_open_there_is_nothing(put: Put, visitor: ClientSession, labels: list[Label], with_crate: bool) -> None:
    async with visitor.get("/open/no/such/run/000001/") as reply:
        never = (reply.status, {k: v for k, v in reply.headers.items() if k != "Date"}, await reply.read())
    assert never[0] == 404
    await put(b"1", "000001.nxs", ItemKind.MASTER, labels[0])
    if with_crate:
        await put(crate(), "ro-crate-metadata.json", ItemKind.CRATE, labels[-1])
    for path in PATHS:
        async with visitor.get(path, allow_redirects=False) as reply:
            assert (reply.status, {k: v for k, v in reply.headers.items() if k != "Date"}, await reply.read()) == never, path


def say(site: Any, access: str, *more: str) -> Any:
    words = more or ("--author", "Ada <0000-0002-1825-0097>", "--reason", "the paper is out")
    return CliRunner().invoke(app, ["label", str(site.home.path), FOLDER, access, *words])


async def test_a_run_that_was_opened_where_it_landed_is_shown_until_it_is_closed(
    put: Put, visitor: ClientSession, site: Any, enrolled: Any, make_item: Any
) -> None:
    async def seen(name: str = "") -> int:
        async with visitor.get(f"/open/{FOLDER}/{name}") as reply:
            return reply.status

    await put(b"1", "000001.nxs", ItemKind.MASTER, CLOSED)
    assert "There is no complete run" in str((await asyncio.to_thread(say, site, "open")).exception)
    await put(crate(), "ro-crate-metadata.json", ItemKind.CRATE, CLOSED)
    assert await seen() == 404
    done = await asyncio.to_thread(say, site, "open")
    assert (done.exit_code, done.output) == (0, f"Run {FOLDER} is open: everybody sees it.\n")
    async with visitor.get(f"/open/{FOLDER}/") as reply:
        assert reply.status == 200
        text = await reply.text()
    assert re.search(r"<p>Opened \d{4}-\d\d-\d\d by Ada &lt;0000-0002-1825-0097&gt;: the paper is out / \d{4}-\d\d-\d\d 公開</p>", text)
    for name in ("000001.nxs", "linkset.json", "ro-crate-metadata.json"):
        assert await seen(name) == 200
    await put(b"later", "000001.receipts", ItemKind.RECEIPTS, CLOSED)
    assert await seen("000001.receipts") == 200, "of the same run"
    item = make_item(b"x", "of-another-run", remote=f"{FOLDER}/files/x", label=CLOSED)
    await (await enrolled("other")).https().send(dataclasses.replace(item, run_id=b"O" * 16), lambda _: None)
    assert (await seen(), await seen("000001.nxs")) == (404, 404), "of which nobody spoke"


async def test_a_run_that_its_labels_open_can_be_closed_and_the_newest_word_counts(landed: None, visitor: ClientSession, site: Any) -> None:
    for access, status in (("closed", 404), ("open", 200), ("closed", 404)):
        assert (await asyncio.to_thread(say, site, access)).exit_code == 0
        async with visitor.get(f"/open/{FOLDER}/000001.nxs") as reply:
            assert reply.status == status
    for wrong in (("shared",), ("open", "--author", " ", "--reason", "r"), ("open", "--author", "a", "--reason", "r\n")):
        assert isinstance((await asyncio.to_thread(say, site, *wrong)).exception, UsageError)


async def test_a_run_that_gets_a_closed_file_is_shown_no_longer(landed: None, put: Put, visitor: ClientSession) -> None:
    await put(b"later", "000001.receipts", ItemKind.RECEIPTS, CLOSED)
    async with visitor.get(f"/open/{FOLDER}/000001.nxs") as reply:
        assert reply.status == 404


MANY = 10_000


def fill(site: Any, agent_id: bytes) -> list[str]:
    """Rows of a run with `MANY` files; what the first one was before is closed, as is a run beside it. The names."""
    names = [f"files/x/frame {number:05d}.cbf" for number in range(MANY - 1)]
    rows = [(f"many-{number}", "file", f"{FOLDER}/{name}", "open", 2) for number, name in enumerate(names)]
    rows += [("was", "file", f"{FOLDER}/{names[0]}", "closed", 1), ("beside", "file", f"{FOLDER}0/other", "closed", 2)]
    with contextlib.closing(open_catalogue(site.home)) as catalogue, catalogue.database.writing(b"many") as db:
        for some in (rows[n : n + 500] for n in range(0, len(rows), 500)):
            items = [
                value
                for item_id, kind, path, _, t_ns in some
                for value in (agent_id, item_id, kind, "demo-project", path, 7, b"\1" * 32, b"R" * 16, 1, None, b"custody", t_ns)
            ]
            labels = [value for item_id, _, _, access, _ in some for value in (agent_id, item_id, access, "")]
            columns = "agent_id, item_id, kind, project, path, size, sha256, run_id, run_no, level, custody, t_ns"
            db.execute(f"INSERT INTO items ({columns}) VALUES " + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * len(some)), items)
            db.execute("INSERT INTO labels VALUES " + ", ".join(["(?, ?, ?, ?)"] * len(some)), labels)
    return names


async def test_a_run_of_ten_thousand_files_is_shown_in_pages_and_no_request_reads_more_than_it_shows(
    put: Put, visitor: ClientSession, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(crate(), "ro-crate-metadata.json", ItemKind.CRATE)
    await put(b"picture", "zz.png", ItemKind.PREVIEW)
    with contextlib.closing(open_catalogue(site.home)) as catalogue:
        (agent,) = catalogue.agents()
    names = sorted([*await asyncio.to_thread(fill, site, agent.agent_id), "ro-crate-metadata.json", "zz.png"])
    rows: list[Any] = []
    stored = landing.catalogue._stored
    monkeypatch.setattr("landing.catalogue._stored", lambda row: (rows.append(row), stored(row))[1])
    listed, where = list[str](), f"/open/{FOLDER}/"
    while where:
        rows.clear()
        async with visitor.get(URL(where, encoded=True)) as reply:
            text = await reply.text()
            assert reply.status == 200
            assert len(reply.headers["Link"]) < 8000
        assert len(rows) <= MOST_FILES + 3, "those of the page, the next one, the crate, and what the first file was before"
        assert f"({len(names)})" in text
        assert f'<img src="{PAGE}zz.png"' in text
        listed += [html.unescape(name) for name in re.findall(r"<li><a [^>]*>([^<]*)</a>", text)]
        following = re.search(r'<a rel="next" href="([^"]*)"', text)
        where = html.unescape(following[1]).removeprefix(PUBLIC) if following else ""
    assert listed == names
    rows.clear()
    async with visitor.head(f"/open/{FOLDER}/{names[4321]}") as reply:
        assert (reply.status, reply.headers["Content-Length"]) == (200, "7")
    assert len(rows) == 2
    async with visitor.get(f"/open/{FOLDER}/linkset.json") as reply:
        contexts = json.loads(await reply.text())["linkset"]
    assert len(contexts) == len(names) + 1
    assert len(contexts[0]["item"]) == len(names) - 1
    for bad in ("?after=%00", "no%00such"):
        async with visitor.get(URL(f"/open/{FOLDER}/{bad}", encoded=True)) as reply:
            assert reply.status == 404
    await put(b"1", "files/x/late", ItemKind.FILE, CLOSED)
    for name in ("", "?after=files", "linkset.json", quote(names[4321])):
        async with visitor.get(URL(f"/open/{FOLDER}/{name}", encoded=True)) as reply:
            assert reply.status == 404


NO_CRATES = {
    "empty": b"", "deep": b"[" * 100_000, "no objects": b'{"@graph": [1, null]}', "no texts": b'{"@graph": [{"@id": [], "name": {}}]}',
    "no UTF-8": b"\xff", "torn": crate()[:-9],
}  # fmt: skip


@pytest.mark.parametrize("text", NO_CRATES.values(), ids=NO_CRATES)
async def test_a_crate_that_is_none_leaves_the_page_without_its_words(put: Put, visitor: ClientSession, text: bytes) -> None:
    await put(text, "ro-crate-metadata.json", ItemKind.CRATE)
    async with visitor.get(f"/open/{FOLDER}/") as reply:
        assert reply.status == 200
        assert {rel for rel, _, _ in links(reply.headers["Link"])} == {"cite-as", "type", "describedby", "linkset"}


async def test_words_of_a_hostile_agent_are_only_words(put: Put, visitor: ClientSession) -> None:
    root = {"name": "<script>alert(1)</script>", "description": '"><b>', "license": {"@id": 'https://x.example/>; rel="cite-as"'}}
    bad = crate(**{"./": root, "#run-000001": {"@type": "CreateAction", "agent": {"@id": "https://orcid.org/x\r\nSet-Cookie: a=b"}}})
    await put(bad, "ro-crate-metadata.json", ItemKind.CRATE)
    await put(b"<script>alert(2)</script>", "files/x/a.html", ItemKind.FILE)
    async with visitor.get(f"/open/{FOLDER}/") as reply:
        text = await reply.text()
        assert "<script>" not in text
        assert "<b>" not in text
        assert {rel for rel, _, _ in links(reply.headers["Link"])} == {"cite-as", "type", "describedby", "item", "linkset"}
        assert "Set-Cookie" not in reply.headers
    async with visitor.get(f"/open/{FOLDER}/files/x/a.html") as reply:
        assert reply.content_type == "application/octet-stream"
        assert "sandbox" in reply.headers["Content-Security-Policy"]


async def test_without_a_public_address_there_are_no_pages(site: Any, enrolled: Any, make_item: Any) -> None:
    await site.open()
    agent = await enrolled()
    await agent.https().send(make_item(crate(), kind=ItemKind.CRATE, remote=f"{FOLDER}/ro-crate-metadata.json", label=OPEN), lambda _: None)
    async with client_session(client_context(site.home.root.read_text()), site.url) as session, session.get(f"/open/{FOLDER}/") as reply:
        assert (reply.status, (await reply.json())["code"]) == (401, "NO_CERTIFICATE")
    assert Settings(name="x").public == ""


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_signposting_package_finds_the_same_in_headers_and_link_set(landed: None, site: Any) -> None:
    python = (await asyncio.to_thread(environment, "signposting", *PACKAGES)) / "python"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    trusting = clean | {"SSL_CERT_FILE": str(site.home.root), "REQUESTS_CA_BUNDLE": str(site.home.root)}

    async def read(kind: str, address: str) -> set[tuple[str, str, str]]:
        command = [str(python), "-I", str(HERE / "read_signposts.py"), kind, address, PAGE]
        reader = await asyncio.create_subprocess_exec(*command, env=trusting, stdout=-1, stderr=-1)
        out, err = await asyncio.wait_for(reader.communicate(), 60)
        assert reader.returncode == 0, err.decode()
        return {(rel, target, media) for rel, target, media, _ in json.loads(out)}

    assert await read("header", f"{site.url}/open/{FOLDER}/") == expected() | {LINKSET}
    assert await read("linkset", f"{site.url}/open/{FOLDER}/linkset.json") == expected() | {LINKSET}
    assert ("collection", PAGE, "text/html") in await read("header", f"{site.url}/open/{FOLDER}/000001.nxs")
