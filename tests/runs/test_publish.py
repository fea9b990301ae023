"""A project's key is published: each run that was encrypted to it says, signed, who opened it, when and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import UsageError
from edge_agent.model import Envelope, Frame, Proof, Receipt, Stream
from edge_agent.runs.amend import Amending
from edge_agent.runs.publish import Publishing
from edge_agent.seal.leaf import Amended
from edge_agent.segment.run import verify_run
from edge_agent.wire import envelope

New = Callable[..., Any]


def publishing(house: Any, **keys: str) -> Publishing:
    return Publishing(Amending(house.papers), {project: (key,) for project, key in keys.items()})


def land(house: Any, run: Any, *keys: str, kept: bool = True) -> None:
    """Everything of a run that waits goes to the space, encrypted; ``kept``: the proof says to which keys."""
    folder = envelope.run_folder_of(keys[0], run.run_id)
    for item in house.spool.outbox.items_of_run(run.run_id):
        if house.spool.outbox.begin(item.item_id, "space"):
            held = Envelope(f"{folder}/{item.item_id}.age", item.size + 400, b"\7" * 32, keys if kept else ())
            digest = item.sha256 or b"\1" * 32
            assert house.spool.outbox.proved(Receipt("space", item.item_id, digest, item.size, Proof.READ_BACK, 7, envelope=held))


@pytest.fixture
def key() -> str:
    return envelope.new_key()[1]


@pytest.fixture
async def house(new_house: New) -> Any:
    made = new_house(targets=("space",))
    await made.open("bl")
    return made


async def one_run(house: Any, camera: Stream, frame: Callable[..., Frame], number: int, project: str = "p") -> Any:
    run = house.desk.start("bl", project=project)
    house.groups["bl"].offer(camera, frame(number))
    await house.desk.stop("bl")
    return await house.complete(run.run_no)


async def test_each_run_that_was_encrypted_to_the_key_is_amended_and_logged_once(
    house: Any, key: str, camera: Stream, frame: Callable[..., Frame]
) -> None:
    runs = [await one_run(house, camera, frame, number) for number in range(3)]
    land(house, runs[0], key)
    land(house, runs[1], envelope.new_key()[1])
    land(house, runs[2], envelope.new_key()[1], key)
    made = publishing(house, p=key)
    said = made.publish("p", "", "0000-0002-1825-0097", "the paper is out: doi.org/10.1/x")
    assert (said.key, said.runs, said.before, said.still_open, said.configured) == (key, ("000001", "000003"), (), (), True)
    for number in (0, 2):
        (amendment,) = verify_run(house.keeper.folder(runs[number]), None).amendments
        assert [(c.field, c.old, c.new) for c in amendment.changes] == [(f"project_key.{key}", None, "published")]
        assert (amendment.author, amendment.reason) == ("0000-0002-1825-0097", "the paper is out: doi.org/10.1/x")
    assert verify_run(house.keeper.folder(runs[1]), None).amendments == ()
    assert [leaf.run_id for leaf in house.log(Amended)] == [runs[0].run_id, runs[2].run_id]
    again = made.publish("p", key, "Ada", "again")
    assert (again.runs, again.before) == ((), ("000001", "000003"))
    assert len(house.log(Amended)) == 2


async def test_a_run_that_is_still_open_says_it_when_the_command_is_given_again(
    house: Any, key: str, camera: Stream, frame: Callable[..., Frame]
) -> None:
    run = await one_run(house, camera, frame, 1)
    land(house, run, key)
    entry = house.keeper.book.find(run.name)
    made = publishing(house, p=key)
    find, open_ = house.keeper.book.find, []
    house.keeper.book.find = lambda name: replace(entry, stage="open") if not open_ else find(name)
    assert made.publish("p", "", "Ada", "out").still_open == (run.name,)
    assert house.keeper.book.published(key) == frozenset()
    open_.append(False)
    assert made.publish("p", "", "Ada", "out").runs == (run.name,)


async def test_a_run_tells_what_went_out_encrypted_and_whether_the_key_is_published(
    house: Any, key: str, camera: Stream, frame: Callable[..., Frame]
) -> None:
    old, run, plain = [await one_run(house, camera, frame, number) for number in range(3)]
    other = envelope.new_key()[1]
    land(house, old, key, kept=False)
    land(house, run, key, other)
    made = publishing(house, p=key)
    made.publish("p", "", "Ada", "the paper is out")
    sent, published = made.sent("2")
    assert {each.item.remote for each in sent} == {item.remote for item in house.spool.outbox.items_of_run(run.run_id)} - {
        f"{run.folder}/{run.name}.receipts"  # goes anew, with the statement
    }
    assert {(each.target, each.keys) for each in sent} == {("space", (key, other))}
    assert {name: word.reason for name, word in published.items()} == {key: "the paper is out"}
    sent, published = made.sent(old.name)
    assert {each.keys for each in sent} == {(key,)}, "sent before keys were kept: the folder tells it"
    assert set(published) == {key}
    assert made.sent(plain.name) == ((), {})
    with pytest.raises(UsageError, match="There is no run 77"):
        made.sent("77")


async def test_what_cannot_be_published_is_told(house: Any, key: str, camera: Stream, frame: Callable[..., Frame]) -> None:
    run = await one_run(house, camera, frame, 1)
    land(house, run, key)
    made = publishing(house, p=key, q=envelope.new_key()[1])
    for project, given, reason, code in (
        ("other", "", "r", "ENVELOPE_KEYLESS"),
        ("p", "age1nonsense", "r", "ENVELOPE_PUBLIC_KEY"),
        ("p", envelope.new_key()[0], "r", "ENVELOPE_PUBLIC_KEY"),
        ("q", "", "r", "ENVELOPE_KEY_UNUSED"),
        ("p", "", " ", "TEXT"),
    ):
        with pytest.raises(UsageError) as caught:
            made.publish(project, given, "Ada", reason)
        assert caught.value.code == code
        assert "SECRET" not in f"{caught.value.what}{caught.value.why}"
    assert house.log(Amended) == []
    assert made.publish("nobody-configured", key, "Ada", "r").configured is False


async def test_that_a_key_is_published_outlives_the_database(
    new_house: New, house: Any, key: str, camera: Stream, frame: Callable[..., Frame], tmp_path: Path
) -> None:
    run = await one_run(house, camera, frame, 1)
    land(house, run, key)
    publishing(house, p=key).publish("p", "", "Ada", "out")
    await house.stop()
    for path in house.folder.glob("spool.db*"):
        path.unlink()
    again = new_house(targets=("space",))
    await again.open("bl")
    assert again.spool.fresh
    assert again.keeper.book.published(key) == {run.name}
