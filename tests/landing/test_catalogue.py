"""The catalogue over SQLite and over PostgreSQL: the same words have the same effect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import Access, ItemKind, Label
from edge_agent.wire.refusal import Code, Refused
from landing.catalogue import Agent, Catalogue, Revocation, SeenHead, StoredItem
from landing.database import Database
from landing.database.postgres import PostgresDatabase
from landing.database.sqlite import SqliteDatabase
from landing.ledger import Ledger, StoredPiece
from tests.postgres import postgresql

A, B = b"A" * 16, b"B" * 16
FOLDER = "p/balance/2026-11-26/000001"
POSTGRES = pytest.param("postgresql", marks=[pytest.mark.slow(1), pytest.mark.needs("pg_ctlcluster")])
Make = Callable[[], Database]


@pytest.fixture(params=["sqlite", POSTGRES])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Opens the same tables, each time anew."""
    made: list[Database] = []
    where = "" if request.param == "sqlite" else request.getfixturevalue("postgres_server").new_schema()

    def open_one() -> Database:
        made.append(PostgresDatabase(where) if where else SqliteDatabase(tmp_path / "catalogue.sqlite"))
        return made[-1]

    yield open_one
    for database in made:
        database.close()


@pytest.fixture
def catalogue(make: Make) -> Catalogue:
    return Catalogue(make())


def item(item_id: str, name: str, size: int, t_ns: int, agent_id: bytes = A, folder: str = FOLDER) -> StoredItem:
    project = folder.split("/")[0]
    return StoredItem(
        agent_id, item_id, ItemKind.FILE, project, f"{folder}/{name}", size, b"S" * 32, b"R" * 16, 1, None, item_id.encode(), t_ns
    )


def test_an_agent_is_enrolled_by_one_of_many_who_bring_the_same_token(catalogue: Catalogue) -> None:
    catalogue.add_token(b"secret", ("p", "q"), 100)
    names = [f"agent {n}" for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: catalogue.enrol(b"secret", Agent(bytes([n]) * 16, b"key", names[n], frozenset({"p", "q"})), 1), range(8)))
    assert won.count(True) == 1
    winner = won.index(True)
    agent = bytes([winner]) * 16
    assert catalogue.agent(agent) == Agent(agent, b"key", names[winner], frozenset({"p", "q"}))
    token = catalogue.token(b"secret")
    assert token is not None
    assert (token.projects, token.t_until, token.used_by) == (("p", "q"), 100, agent)
    assert catalogue.token(b"another") is None
    assert all(catalogue.agent(bytes([n]) * 16) is None for n in range(8) if n != winner)


def test_an_agent_that_enrols_again_keeps_its_key_and_gains_projects(catalogue: Catalogue) -> None:
    for secret, name, project in ((b"1", "old", "p"), (b"2", "new", "q")):
        catalogue.add_token(secret, (project,), 100)
        assert catalogue.enrol(secret, Agent(A, b"key", name, frozenset({project})), 1)
    catalogue.grant(A, ("q", "r"))
    assert catalogue.agent(A) == Agent(A, b"key", "new", frozenset({"p", "q", "r"}))


def test_items_are_listed_by_path_in_bytes_and_the_newest_of_a_path_counts(catalogue: Catalogue) -> None:
    for n, (name, size) in enumerate([("z.h5", 5), ("a.h5", 7), ("B.h5", 1), ("a.h5", 9), ("é.h5", 2)]):
        catalogue.store(item(f"i{n}", name, size, n))
    catalogue.store(item("other", "x.h5", 100, 9, folder="q/balance/2026-11-26/000001"))
    catalogue.store(item("next", "x.h5", 3, 9, folder=FOLDER[:-1] + "2"))
    assert [(f.path.split("/")[-1], f.size) for f in catalogue.files(FOLDER)] == [("B.h5", 1), ("a.h5", 9), ("z.h5", 5), ("é.h5", 2)]
    assert catalogue.project_size("p") == 1 + 9 + 5 + 2 + 3
    assert [(r.path, r.files, r.size, r.t_ns) for r in catalogue.runs(frozenset({"p"}))] == [(FOLDER, 4, 17, 4), (FOLDER[:-1] + "2", 1, 3, 9)]
    assert catalogue.item(A, "i3") == item("i3", "a.h5", 9, 3)
    assert catalogue.item(B, "i3") is None


def test_the_first_receipt_of_an_item_stays_and_ends_its_refusal(catalogue: Catalogue) -> None:
    catalogue.refuse(A, "i", "first", 1)
    catalogue.refuse(A, "i", "second", 2)
    assert catalogue.refusal(A, "i") == "second"
    catalogue.store(item("i", "a.h5", 1, 1))
    assert catalogue.refusal(A, "i") is None
    catalogue.store(item("i", "a.h5", 2, 2))
    assert catalogue.item(A, "i") == item("i", "a.h5", 1, 1)
    catalogue.refuse(A, "j", "why", 1)
    catalogue.forget_refusal(A, "j")
    assert catalogue.refusal(A, "j") is None


def test_an_item_that_is_forgotten_may_be_stored_again_and_one_that_was_is_kept(catalogue: Catalogue) -> None:
    old, new = item("i", "a.h5", 1, 1), item("i", "a.h5", 1, 2)
    catalogue.store(old, Label(Access.OPEN))
    catalogue.forget_item(old)
    assert catalogue.at(old.path) is None
    catalogue.store(new)
    assert catalogue.at(old.path) == (new, None)
    catalogue.forget_item(old)
    assert catalogue.item(A, "i") == new


def test_the_current_log_is_the_first_until_a_restart_is_approved_and_used(catalogue: Catalogue) -> None:
    assert catalogue.current_log(A) is None
    for log, size in ((b"1", 3), (b"1", 5), (b"2", 4)):
        catalogue.add_head(A, log, SeenHead(size, b"root", log + bytes([size]), b"witness"))
    assert catalogue.last_head(A, b"1") == SeenHead(5, b"root", b"1\5", b"witness")
    assert catalogue.head(A, b"1", b"1\3") == SeenHead(3, b"root", b"1\3", b"witness")
    assert catalogue.current_log(A) == b"1"
    assert not catalogue.restart_approved(A)
    for _ in range(2):
        catalogue.approve_restart(A, 1)
    assert catalogue.restart_approved(A)
    assert not catalogue.restart_approved(B)
    catalogue.use_restart(A, b"2")
    assert not catalogue.restart_approved(A)
    assert catalogue.current_log(A) == b"2"


def test_the_first_word_about_a_revoked_agent_stands(catalogue: Catalogue) -> None:
    catalogue.add_token(b"secret", ("p",), 100)
    catalogue.enrol(b"secret", Agent(A, b"key", "name", frozenset({"p"})), 1)
    for log, size in ((b"1", 3), (b"1", 5), (b"2", 4)):
        catalogue.add_head(A, log, SeenHead(size, b"root", log + bytes([size]), b"witness"))
    assert [(log, seen.size) for log, seen in catalogue.last_heads(A)] == [(b"1", 5), (b"2", 4)]
    assert not catalogue.key_is_revoked(b"key")
    first = Revocation(A, "stolen", 5, b"statement")
    assert catalogue.revoke(first) == catalogue.revoke(Revocation(A, "again", 6, b"another")) == first
    assert catalogue.revocations() == [first]
    assert catalogue.agents() == [Agent(A, b"key", "name", frozenset({"p"}), revoked=True)]
    assert (catalogue.key_is_revoked(b"key"), catalogue.key_is_revoked(b"other")) == (True, False)


def test_an_upload_rests_from_its_last_piece_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, now = Ledger(make()), 100
    monkeypatch.setattr("landing.ledger.utc_now_ns", lambda: now)
    for name in ("first", "second"):
        ledger.begin(A, name, name.encode())
    now = 200
    ledger.add(A, "second", StoredPiece(0, 10, "key"))
    assert ledger.headers(A) == [b"first", b"second"]
    assert (ledger.resting(100), ledger.resting(101), ledger.resting(201)) == ([], [(A, "first")], [(A, "first"), (A, "second")])
    assert [ledger.end_resting(A, name, 200) for name in ("first", "second", "unknown")] == [True, False, False]
    assert (ledger.header(A, "first"), ledger.have(A, "second")) == (None, 10)
    ledger.end(A, "second")
    assert ledger.resting(1000) == []


def test_an_upload_of_before_this_was_written_down_rests_from_the_first_look_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    database = make()
    ledger = Ledger(database)
    ledger.begin(A, "old", b"header")
    with database.writing() as db:
        db.execute("DELETE FROM touched")
    monkeypatch.setattr("landing.ledger.utc_now_ns", lambda: 500)
    assert (ledger.resting(500), ledger.resting(501)) == ([], [(A, "old")])


def test_a_block_that_fails_leaves_nothing(make: Make) -> None:
    database = make()
    with pytest.raises(ZeroDivisionError), database.writing(A) as db:
        db.execute("INSERT INTO agents VALUES (?, ?, ?, ?)", (A, b"key", "name", 1))
        raise ZeroDivisionError
    assert Catalogue(database).agent(A) is None


def test_two_are_never_alone_with_the_same_thing(make: Make) -> None:
    database = make()
    inside, most = 0, 0
    guard = threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        with database.alone(b"thing", wait=True) as ours:
            assert ours
            with guard:
                inside += 1
                most = max(most, inside)
            assert Catalogue(database).agent(A) is None
            with guard:
                inside -= 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(12)))
    assert most == 1
    with database.alone(b"thing", wait=False) as first, database.alone(b"thing", wait=False) as second, database.alone(b"other", wait=False) as third:
        assert (first, second, third) == (True, False, True)
    with database.alone(b"thing", wait=False) as again:
        assert again


def test_whoever_comes_after_it_was_closed_may_try_again(make: Make) -> None:
    database = make()
    database.close()
    with pytest.raises(Refused) as refused:
        Catalogue(database).agent(A)
    assert refused.value.refusal.code is Code.TROUBLE


@pytest.mark.slow(8)
@pytest.mark.needs("pg_ctlcluster")
def test_what_was_written_survives_a_server_that_is_killed_and_two_catalogues_see_the_same() -> None:
    with postgresql() as server:
        where = server.new_schema()
        one, two = Catalogue(PostgresDatabase(where)), Catalogue(PostgresDatabase(where, patience=0.5))
        try:
            one.store(item("i", "a.h5", 1, 1))
            assert two.item(A, "i") == item("i", "a.h5", 1, 1)
            with one.alone(b"x", wait=False) as ours, two.alone(b"x", wait=False) as theirs:
                assert (ours, theirs) == (True, False)
            server.kill()
            with pytest.raises(Refused) as refused:
                two.item(A, "i")
            assert refused.value.refusal.code is Code.TROUBLE
            (server.data / "postmaster.pid").unlink(missing_ok=True)
            server.start()
            assert _again(lambda: two.item(A, "i")) == item("i", "a.h5", 1, 1)
            two.store(item("j", "b.h5", 1, 1))
            assert _again(lambda: one.item(A, "j")) == item("j", "b.h5", 1, 1)
        finally:
            one.close()
            two.close()


def _again(ask: Callable[[], Any]) -> Any:
    """As everybody does who is told TROUBLE."""
    for _ in range(20):
        try:
            return ask()
        except Refused as refused:
            assert refused.refusal.code is Code.TROUBLE
    return ask()
