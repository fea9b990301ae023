from __future__ import annotations

import asyncio
import datetime as dt
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import DiskError, EdgeAgentError, UsageError
from edge_agent.model import Block, FileItem, Frame, Kind, Outcome, Stream
from edge_agent.runs.book import Stage
from edge_agent.runs.salvage import Salvage
from edge_agent.seal import cose
from edge_agent.seal.leaf import RunClose, RunOpen, SegmentClose
from edge_agent.seal.sidecar import parse_run, parse_sidecar
from edge_agent.segment.peek import frame_stream
from edge_agent.segment.run import verify_run
from edge_agent.spool import DiskState
from edge_agent.storage import Disk

MS, S = 1_000_000, 10**9
New = Callable[..., Any]
MakeFrame = Callable[..., Frame]
MakeRows = Callable[..., Block]


def names(house: Any, run: Any) -> set[str]:
    return {path.name for path in house.keeper.folder(run).iterdir() if path.is_file()}


def statement(house: Any, run: Any) -> Any:
    """The signed statement in the sidecar of a run."""
    sidecar = parse_sidecar((house.keeper.folder(run) / f"{run.name}.hsc").read_bytes())
    return parse_run(cose.payload_of(sidecar.statement))


async def test_runs_are_numbered_one_after_the_other_and_the_agent_log_says_so(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    house = new_house()
    await house.open("a", "b")
    for group in ("a", "b", "a"):
        house.desk.start(group, project="p")
        await house.desk.stop(group)
    await house.stop()
    house = new_house()
    await house.open("a")
    house.desk.start("a", project="p")
    await house.desk.stop("a")
    assert [leaf.run_no for leaf in house.log(RunOpen)] == [1, 2, 3, 4]
    assert [leaf.run_no for leaf in house.log(RunClose)] == [1, 2, 3, 4]


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_a_run_without_data_lands_like_every_other_with_its_outcome(new_house: New, outcome: Outcome) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p", user="Hanako", sample="steel", title="nothing to see")
    await house.desk.stop("bl", outcome)
    assert names(house, run) == {f"{run.name}.nxs", f"{run.name}.hsc", "manifest-sha256.txt", "ro-crate-metadata.json"}
    said = statement(house, run)
    assert (said.outcome, [s.name for s in said.segments]) == (outcome.value, [f"{run.name}.nxs"])
    report = verify_run(house.keeper.folder(run), None)
    assert (report.level, report.reason) == (1, "signed by an unknown key")


@pytest.mark.parametrize(
    ("changes", "what", "code"),
    [
        ({"group": "x"}, "there is no group 'x'", "GROUP_UNKNOWN"),
        ({"project": ""}, "a session needs a project", "PROJECT_NAME"),
        ({"project": "../other"}, "'../other' is no project name", "PROJECT_NAME"),
        ({"project": "a/b"}, "'a/b' is no project name", "PROJECT_NAME"),
        ({"project": "日本"}, "'日本' is no project name", "PROJECT_NAME"),
        ({"sample": "a\0b"}, "the sample has a character that cannot be kept", "TEXT"),
        ({"user": "\udc80"}, "the user has a character that cannot be kept", "TEXT"),
        ({"title": "x" * 1001}, "the title is too long", "TEXT"),
    ],
)
async def test_a_session_that_cannot_be_kept_is_refused_with_a_reason_and_nothing_begins(
    new_house: New, changes: dict[str, str], what: str, code: str
) -> None:
    house = new_house()
    await house.open("bl")
    asked = {"group": "bl", "project": "p", **changes}
    with pytest.raises(UsageError) as caught:
        house.desk.start(asked.pop("group"), **asked)
    assert (caught.value.what, caught.value.code) == (what, code)
    assert caught.value.why
    assert house.runs() == []


async def test_a_second_session_and_a_stop_of_nothing_say_what_to_do(new_house: New) -> None:
    house = new_house()
    await house.open("bl")
    with pytest.raises(UsageError, match="bl has no run open") as none:
        await house.desk.stop("bl")
    assert "session start --group bl" in none.value.try_
    house.desk.start("bl", project="p")
    with pytest.raises(UsageError, match="bl has run 000001 open") as double:
        house.desk.start("bl", project="q")
    assert (double.value.why, double.value.try_) == ("for project p", "edge-agent session stop --group bl")
    with pytest.raises(UsageError, match="there is no group 'x'"):
        await house.desk.stop("x")


async def test_two_stops_at_once_end_one_run_once(new_house: New) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    first, second = await asyncio.gather(house.desk.stop("bl"), house.desk.stop("bl"), return_exceptions=True)
    assert first.run_no == 1
    assert isinstance(second, UsageError)
    assert len(house.log(RunClose)) == 1


async def test_a_session_may_begin_while_the_one_before_it_is_being_closed(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.graces = {"bl": 0.3}
    one = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    house.clock.now = t0 + 15 * MS
    stopping = asyncio.create_task(house.desk.stop("bl"))
    await asyncio.sleep(0)
    house.clock.now = t0 + 25 * MS
    two = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(1))  # dated and come before the first ended
    house.groups["bl"].offer(camera, frame(3))
    await stopping
    await house.desk.stop("bl")
    assert house.column(one, camera, "frame_number") == [0, 1]
    assert house.column(two, camera, "frame_number") == [3]


async def test_the_run_of_the_day_ends_at_midnight_of_the_facility(new_house: New, tag: Stream, rows: MakeRows) -> None:
    house = new_house()
    await house.open("bl")
    midnight = int(dt.datetime(2026, 11, 24, 15, 0, tzinfo=dt.UTC).timestamp()) * S  # 00:00 of the 25th in Tokyo
    for n, now in enumerate((midnight - 2 * S, midnight - S, midnight, midnight + S)):
        house.clock.now = now
        house.groups["bl"].take(tag, rows([float(n)], [now]))
    await house.until(lambda: [e.run.run_no for e in house.keeper.book.past()] == [1])
    before, after = house.runs()
    assert (before.folder, after.folder) == ("unclaimed/bl/2026-11-24/000001", "unclaimed/bl/2026-11-25/000002")
    assert house.keeper.book.past()[0].outcome == "complete"
    await house.desk.shutdown()
    assert house.column(before, tag, "value") == [0.0, 1.0]
    assert house.column(after, tag, "value") == [1.0, 2.0, 3.0]  # the last known value first
    assert house.column(after, tag, "valid") == [2, 1, 1]
    assert house.keeper.totals()[tag.key].arrived == 4


async def test_the_run_of_the_day_ends_at_midnight_although_nothing_comes_any_more(
    new_house: New, tag: Stream, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    house.clock.now = t0 + 24 * 3600 * S
    await house.until(lambda: [e.run.run_no for e in house.keeper.book.past()] == [1])
    assert len(house.runs()) == 1


async def test_midnight_while_threads_deliver_ends_each_day_once_and_every_frame_is_in_exactly_one_day(
    new_house: New, frame: MakeFrame, rule: New, t0: int
) -> None:
    house = new_house()
    await house.open("bl", rules={"camera": rule("keep")})
    streams = [Stream("camera", f"image{i}", Kind.FRAMES, "<u2", (4, 4), counted=True) for i in range(3)]
    done = 0

    def shoot(stream: Stream) -> None:
        nonlocal done
        for number in range(200):
            assert house.groups["bl"].offer(stream, frame(number))
            time.sleep(0.001)
        done += 1

    threads = [asyncio.create_task(asyncio.to_thread(shoot, stream)) for stream in streams]
    days = 0
    while done < len(streams):
        days += 1
        house.clock.now = t0 + days * 24 * 3600 * S
        await asyncio.sleep(0.08)
    await asyncio.gather(*threads)
    await house.desk.shutdown()
    for stream in streams:
        assert sorted(n for run in house.runs() for n in house.column(run, stream, "frame_number")) == list(range(200))
    assert [leaf.run_no for leaf in house.log(RunOpen)] == [run.run_no for run in house.runs()]
    assert sorted(leaf.run_no for leaf in house.log(RunClose)) == [run.run_no for run in house.runs()]


async def test_an_interrupted_session_goes_on_and_says_what_may_be_missing(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p", user="Hanako")
    for number in range(3):
        house.groups["bl"].offer(camera, frame(number))
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    await house.durable(camera, 3)
    await house.durable(tag, 1)
    await house.crash()
    house = new_house()
    await house.open("bl")
    assert house.recovered.sentence().startswith("recovered 2 interrupted segments: ")
    assert house.recovered.items == {camera.key: 3, tag.key: 1}
    assert house.groups["bl"].foreground.entry.run == run
    house.clock.now = t0 + 4 * S
    house.groups["bl"].offer(camera, frame(7))
    house.groups["bl"].take(tag, rows([2.0], [house.clock.now]))
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [0, 1, 2, 7]
    assert [(g.first, g.last, g.cause) for g in house.gaps(run, camera)] == [(3, 6, "crash")]
    assert house.column(run, tag, "value") == [1.0, 2.0]
    assert {g.cause for g in house.gaps(run, tag)} == {"crash"}
    assert verify_run(house.keeper.folder(run), None).reason == "signed by an unknown key"
    for key in (camera.key, tag.key):
        assert house.keeper.totals()[key].discrepancy == 0


async def test_frames_that_a_crash_may_have_taken_are_said_at_the_end_when_no_frame_comes_any_more(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int
) -> None:
    camera = replace(camera, unit="ct", source_uri="pva://CAM", attributes={"model": "EIGER", "gain": 1.5, "bits": 16})
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    for number in range(3):
        house.groups["bl"].offer(camera, frame(number))
    await house.durable(camera, 3)
    await house.crash()
    for _ in range(2):
        house = new_house()
        await house.open("bl")
        house.clock.now = t0 + 4 * S
        await house.crash()
    house = new_house()
    await house.open("bl")
    house.clock.now = t0 + 5 * S
    await house.desk.stop("bl")
    first, second = house.closed_segments(run)
    assert house.column(run, camera, "frame_number") == [0, 1, 2]
    assert [(g.first, g.last, g.count, g.cause) for g in house.gaps(run, camera)] == [(None, None, None, "crash")]
    (gap,) = second.gaps[camera.key]
    assert (gap.t_from, gap.t_to) == (t0 + 20 * MS, t0 + 5 * S)
    for closed in (first, second):
        assert replace(frame_stream(closed.path, camera.key), codec=None) == camera
    # A segment that had no frame yet when the agent was killed has no dataset that would tell the stream.
    without = replace(second, path=house.folder / "gone", shapes={})
    assert list(house.keeper._frame_streams([first, without])) == [camera.key]
    assert verify_run(house.keeper.folder(run), None).reason == "signed by an unknown key"
    assert house.keeper.totals()[camera.key].discrepancy == 0


async def test_frames_that_a_crash_may_have_taken_while_their_run_closed_are_said(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    (entry,) = house.keeper.book.entries()
    house.keeper.book.put(replace(entry, stage=Stage.CLOSING, outcome="complete"))
    await house.crash()
    house = new_house()
    await house.open("bl")
    assert [(g.first, g.last, g.count, g.cause) for g in house.gaps(run, camera)] == [(None, None, None, "crash")]
    assert verify_run(house.keeper.folder(run), None).reason == "signed by an unknown key"


async def test_a_session_of_a_group_that_is_gone_after_a_restart_is_closed_as_aborted(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    await house.crash()
    house = new_house()
    await house.open("other")
    book = house.keeper.book
    await house.until(lambda: bool({entry.stage for entry in (*book.entries(), *book.past())} & {Stage.CLOSED, Stage.DONE}))
    assert statement(house, run).outcome == "aborted"


async def test_a_run_of_yesterday_is_closed_after_a_restart(new_house: New, tag: Stream, rows: MakeRows, t0: int) -> None:
    house = new_house()
    await house.open("bl")
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    await house.durable(tag, 1)
    (run,) = house.runs()
    await house.crash()
    house = new_house()
    house.clock.now = t0 + 24 * 3600 * S
    await house.open("bl")
    assert statement(house, run).outcome == "complete"
    assert house.column(run, tag, "value") == [1.0]


async def test_a_clean_stop_closes_everything_and_the_next_start_has_nothing_to_recover(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl", "other", look_back=30.0)
    house.groups["bl"].look_back = 0.0
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    house.desk.trigger("other", True, t0, "shutter")
    house.groups["other"].offer(camera, frame(5))
    house.desk.trigger("other", False, t0 + 90 * MS, "shutter")  # its grace time is half a minute
    began = asyncio.get_running_loop().time()
    await house.stop()
    assert asyncio.get_running_loop().time() - began < 5
    assert not list(house.folder.glob("runs/*/*.journal"))
    house = new_house()
    await house.open("bl")
    assert house.recovered.sentence() == "nothing to recover"
    assert house.keeper.book.entries() == [] or {e.stage for e in house.keeper.book.entries()} == {Stage.CLOSED}
    assert statement(house, run).outcome == "aborted"
    with pytest.raises(UsageError, match="bl has no run open"):
        await house.desk.stop("bl")


async def test_nothing_begins_any_more_while_the_agent_stops(
    new_house: New, tag: Stream, camera: Stream, frame: MakeFrame, rows: MakeRows, t0: int
) -> None:
    house = new_house()
    await house.open("bl")
    await house.desk.shutdown()
    house.desk.trigger("bl", True, t0, "shutter")
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    assert not house.groups["bl"].offer(camera, frame(0))
    with pytest.raises(UsageError, match="the agent is stopping"):
        house.desk.start("bl", project="p")
    with pytest.raises(EdgeAgentError, match="The agent is stopping"):
        house.groups["bl"].run_for_file(tag, FileItem(Path("x"), "x", 0, 0, t0))
    assert house.runs() == []


# Papers


@pytest.mark.expects_errors
async def test_papers_that_cannot_be_made_are_told_once_and_made_when_it_is_possible_again(
    new_house: New, camera: Stream, frame: MakeFrame, caplog: pytest.LogCaptureFixture
) -> None:
    house = new_house(refuse=OSError(errno.ENOSPC, "No space left on device"))
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    with pytest.raises(EdgeAgentError, match="Run 000001 has ended and is safe here") as caught:
        await house.desk.stop("bl")
    assert "No space left" in caught.value.why
    assert "nothing is lost" in caught.value.try_
    house.refuse = None
    await house.until(lambda: bool(house.keeper.book.past()))
    assert statement(house, run).outcome == "complete"
    assert len([r for r in caplog.records if "cannot be finished now" in r.getMessage()]) == 1


@pytest.mark.expects_errors
async def test_papers_that_could_not_be_made_before_the_stop_are_made_by_the_next_start(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house(refuse=OSError(errno.ENOSPC, "No space left on device"))
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    with pytest.raises(EdgeAgentError):
        await house.desk.stop("bl")
    await house.stop()
    house = new_house()
    await house.open("bl")
    assert statement(house, run).outcome == "complete"
    assert names(house, run) >= {"000001.nxs", "000001.hsc"}


async def test_a_crash_after_the_sidecar_was_signed_changes_no_paper_that_it_names(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house(targets=("cloud",))
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    await house.complete()
    folder = house.keeper.folder(run)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # The crash came before the outbox had the papers and before the book said so.
    with house.spool.transaction():
        for closed in house.closed_segments(run):
            house.keeper.book.add_segment(run, closed)
        house.keeper.book.put(house.keeper.book.past()[0].at(Stage.CLOSING))
        house.spool.state.delete(f"past/{run.name}")
    for table in ("deliveries", "item_counts", "items"):
        house.spool._db.run(f"DELETE FROM {table}")
    await house.crash()
    house = new_house(crates=10, targets=("cloud",))
    await house.open("bl")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert house.crates == 10
    await house.complete()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    kinds = [item.kind.value for item in house.spool.outbox.items_of_run(run.run_id)]
    assert kinds == ["segment", "sidecar", "manifest", "crate"]


async def test_a_crash_before_the_sidecar_was_signed_makes_all_papers_anew(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    house.groups["bl"].close(live := house.groups["bl"].end(house.clock()))
    live.entry = house.keeper.book.entries()[0].at(Stage.CLOSING)
    house.keeper.book.put(live.entry)
    await asyncio.wrap_future(live.recording.close("complete"))
    folder = house.keeper.folder(run)
    (folder / "preview.png").write_bytes(b"half")
    (folder / "manifest-sha256.txt.part").write_bytes(b"half")
    await house.crash()
    house = new_house()
    await house.open("bl")
    assert (folder / f"{run.name}.hsc").exists()
    assert (folder / f"{run.name}.nxs").exists()
    assert verify_run(folder, None).reason == "signed by an unknown key"


# The spool or the log refuses


class Refusing(Disk):
    """A disk that fails for open segments and the agent log when it is told to."""

    def __init__(self) -> None:
        self.full = False

    def sync_data(self, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if self.full and (".h5." in path or path.endswith("agent.log")):
            raise DiskError("The disk did not take it: making data durable", why="No space left on device", code="DISK_FULL")
        super().sync_data(fd)


class RefusingOnce(Disk):
    """A disk that fails once for the names in a folder, when it is told which."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def sync_folder(self, path: Path) -> None:
        if path == self.folder:
            self.folder = None
            raise DiskError(f"The disk did not take it: making the folder {path.name} durable", why="Input/output error", code="DISK_IO")
        super().sync_folder(path)


async def test_a_disk_that_refuses_for_a_moment_at_the_start_does_not_keep_an_open_session_from_going_on(
    new_house: New, camera: Stream, frame: MakeFrame, t0: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.desk.RETRY_FIRST", 0.01)
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    await house.crash()
    disk = RefusingOnce()
    house = new_house(storage=disk)
    recover = Salvage.recover

    def then_refuse(salvage: Salvage) -> Any:
        found = recover(salvage)
        disk.folder = house.folder / "runs"
        return found

    monkeypatch.setattr(Salvage, "recover", then_refuse)
    await house.open("bl")
    assert disk.folder is None
    assert house.groups["bl"].foreground.entry.run == run
    house.clock.now = t0 + S
    house.groups["bl"].offer(camera, frame(1))
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [0, 1]


async def test_a_log_that_refuses_a_segment_is_asked_again_and_the_segment_is_in_the_run(
    new_house: New, camera: Stream, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    real, failures = house.agent_log.append, [DiskError("The disk did not take it", code="DISK_FULL")] * 3

    def append(leaf: Any) -> int:
        if isinstance(leaf, SegmentClose) and failures:
            raise failures.pop()
        return int(real(leaf))

    monkeypatch.setattr(house.agent_log, "append", append)
    await house.desk.stop("bl")
    assert failures == []
    assert len(house.log(SegmentClose)) == 1
    assert house.column(run, camera, "frame_number") == [0]


async def test_a_database_that_refuses_a_segment_is_asked_again(
    new_house: New, camera: Stream, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    real, failures = house.keeper.book.add_segment, [sqlite3.OperationalError("database or disk is full")] * 3

    def add_segment(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        real(*arguments)

    monkeypatch.setattr(type(house.keeper.book), "add_segment", lambda book, *arguments: add_segment(*arguments))
    await house.desk.stop("bl")
    assert failures == []
    assert house.column(run, camera, "frame_number") == [0]
    assert house.keeper.totals()[camera.key].discrepancy == 0


@pytest.mark.expects_errors
async def test_a_segment_that_could_not_be_handed_over_is_salvaged_before_the_papers_are_made(
    new_house: New, camera: Stream, tag: Stream, frame: MakeFrame, rows: MakeRows, t0: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    house.groups["bl"].take(tag, rows([1.0], [t0]))
    real, failures = house.agent_log.append, [RuntimeError("a bug")]

    def append(leaf: Any) -> int:
        if isinstance(leaf, SegmentClose) and failures:
            raise failures.pop()
        return int(real(leaf))

    monkeypatch.setattr(house.agent_log, "append", append)
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [0]
    assert house.column(run, tag, "value") == [1.0]
    assert verify_run(house.keeper.folder(run), None).reason == "signed by an unknown key"
    for key in (camera.key, tag.key):
        assert (house.keeper.totals()[key].arrived, house.keeper.totals()[key].discrepancy) == (1, 0)


async def test_a_disk_that_fails_for_a_while_loses_nothing_that_was_taken(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    storage = Refusing()
    house = new_house(storage=storage)
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    for number in range(3):
        house.groups["bl"].offer(camera, frame(number))
    await house.durable(camera, 3)
    storage.full = True
    for number in range(3, 6):
        assert house.groups["bl"].offer(camera, frame(number))
    assert house.totals(camera.key) == 3
    storage.full = False
    await house.durable(camera, 6)
    await house.desk.stop("bl")
    assert house.column(run, camera, "frame_number") == [0, 1, 2, 3, 4, 5]
    assert verify_run(house.keeper.folder(run), None).reason == "signed by an unknown key"
    totals = house.keeper.totals()[camera.key]
    assert (totals.arrived, totals.lost, totals.discrepancy) == (6, 0, 0)


@pytest.mark.expects_errors
async def test_a_stop_while_the_disk_refuses_does_not_hang_and_the_next_start_finds_what_was_durable(
    new_house: New, camera: Stream, frame: MakeFrame, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.desk.SHUTDOWN", 0.5)
    storage = Refusing()
    house = new_house(storage=storage)
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    storage.full = True
    house.groups["bl"].offer(camera, frame(1))
    began = asyncio.get_running_loop().time()
    await house.stop()
    assert asyncio.get_running_loop().time() - began < 5
    assert "could not be finished in time" in caplog.text
    storage.full = False
    house = new_house()
    await house.open("bl")
    assert house.recovered.items == {camera.key: 1}
    assert statement(house, run).outcome == "aborted"
    assert house.column(run, camera, "frame_number") == [0]


# What nobody can use


@pytest.mark.expects_errors
async def test_a_journal_that_cannot_be_read_goes_to_quarantine_and_the_rest_is_recovered(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    await house.crash()
    stray = house.folder / "runs" / "000777"
    stray.mkdir()
    (stray / "000777_rows_000001.h5.journal").write_bytes(b"not a journal")
    house = new_house()
    await house.open("bl")
    assert house.recovered.items == {camera.key: 1}
    assert house.recovered.damaged == ["000777_rows_000001.h5"]
    assert "damaged and in quarantine: 000777_rows_000001.h5" in house.recovered.sentence()
    (kept,) = house.spool.quarantine.entries()
    assert kept.path.read_bytes() == b"not a journal"
    assert (kept.why, kept.origin) == ("its run is not known", stray / "000777_rows_000001.h5.journal")


@pytest.mark.expects_errors
async def test_a_journal_of_a_run_that_is_signed_already_reopens_nothing(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    journal = next(house.keeper.folder(run).glob("*.journal")).read_bytes()
    await house.desk.stop("bl")
    await house.complete()
    signed = (house.keeper.folder(run) / "000001.hsc").read_bytes()
    await house.stop()
    (house.folder / "runs" / run.name / f"{run.name}_camera_image_000002.h5.journal").write_bytes(journal)
    house = new_house()
    await house.open("bl")
    assert house.groups["bl"].foreground is None
    assert [e.run.run_no for e in house.keeper.book.past()] == [1]
    assert (house.keeper.folder(run) / "000001.hsc").read_bytes() == signed
    assert house.recovered.damaged == [f"{run.name}_camera_image_000002.h5"]


# Files


async def test_a_file_that_is_still_being_copied_when_the_session_ends_is_in_it(new_house: New, tmp_path: Path, t0: int) -> None:
    house = new_house(targets=("cloud",))
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    stream = Stream("vendor", "files", Kind.FILES)
    path = tmp_path / "scan.dat"
    path.write_bytes(b"x" * 1000)
    item = FileItem(path, "scan.dat", 1000, path.stat().st_mtime_ns, t0)
    live = house.groups["bl"].run_for_file(stream, item)
    assert live is not None
    stopping = asyncio.create_task(house.desk.stop("bl"))
    await house.until(lambda: house.keeper.book.entries()[0].stage is Stage.CLOSING)
    assert not stopping.done()
    durable = asyncio.Event()
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(house.keeper.adopt, live, stream, item, lambda: loop.call_soon_threadsafe(durable.set))
    await stopping
    assert durable.is_set()
    assert [(f.name, f.size) for f in statement(house, run).files] == [("files/vendor/scan.dat", 1000)]
    assert house.totals(stream.key) == 1
    assert house.spool.state.is_adopted(stream.key, "scan.dat", 1000, item.mtime_ns)


async def test_a_file_waits_for_a_database_that_refuses_and_is_then_delivered(
    new_house: New, tmp_path: Path, t0: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house(targets=("cloud",))
    await house.open("bl")
    house.desk.start("bl", project="p")
    stream = Stream("vendor", "files", Kind.FILES)
    path = tmp_path / "empty.dat"
    path.touch()
    item = FileItem(path, "empty.dat", 0, path.stat().st_mtime_ns, t0)
    failures = [sqlite3.OperationalError("database or disk is full")] * 2
    real = house.spool.state.remember_adopted

    def remember(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        real(*arguments)

    monkeypatch.setattr(house.spool.state, "remember_adopted", remember)
    live = house.groups["bl"].run_for_file(stream, item)
    durable = asyncio.Event()
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(house.keeper.adopt, live, stream, item, lambda: loop.call_soon_threadsafe(durable.set))
    async with asyncio.timeout(10):
        await durable.wait()
    assert failures == []
    assert house.totals(stream.key) == 1
    await house.desk.stop("bl")


async def test_the_conservation_table_adds_up_at_every_moment_while_segments_close_and_runs_end(
    new_house: New, camera: Stream, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.keeper.TOTALS_WAIT", 100.0)  # else, on a busy disk, it is taken beside the writer
    house = new_house(targets=("cloud",))
    await house.open("bl")
    sent, stop, last = 0, False, 0

    def watch() -> int:
        polls, most = 0, 0
        while not stop:
            totals = house.keeper.totals().get(camera.key)
            if totals is not None:
                assert totals.discrepancy == 0
                assert most <= totals.arrived <= sent, "nothing is counted twice, and nothing disappears"
                assert totals.arrived == totals.spooled
                most = totals.arrived
            polls += 1
        return polls

    watching = asyncio.create_task(asyncio.to_thread(watch))
    for _ in range(4):
        house.desk.start("bl", project="p")
        for _ in range(20):
            sent += 1
            house.groups["bl"].offer(camera, frame(sent))
        await house.desk.stop("bl")
        last += 1
    stop = True
    assert await watching > 10
    assert house.totals(camera.key) == sent
    assert house.disk is DiskState.OK


async def test_a_file_whose_path_names_its_project_goes_into_a_run_of_that_project(
    new_house: New, tmp_path: Path, t0: int, caplog: pytest.LogCaptureFixture
) -> None:
    vendor = Stream("xrd", "files", Kind.FILES)
    house = new_house()
    await house.open("bl")
    session = house.desk.start("bl", project="p1")
    for name, project in (("a", "p2"), ("b", "p1"), ("c", ""), ("d", "p2")):
        path = tmp_path / name
        path.write_text(name)
        item = FileItem(path, name, 1, path.stat().st_mtime_ns, t0 + S, project)
        live = house.groups["bl"].run_for_file(vendor, item)
        durable = asyncio.Event()
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(house.keeper.adopt, live, vendor, item, lambda: loop.call_soon_threadsafe(durable.set))
        await durable.wait()
    await house.desk.stop("bl")
    await house.desk.shutdown()
    first, second = house.runs()
    assert (first, second.project, second.folder.split("/")[0]) == (session, "p2", "p2")
    found = {run.run_no: sorted(path.name for path in house.keeper.folder(run).glob("files/*/?")) for run in (first, second)}
    assert found == {1: ["b", "c"], 2: ["a", "d"]}
    told = [record.getMessage() for record in caplog.records if getattr(record, "code", "") == "PATH_OTHER_PROJECT"]
    assert told == ["bl: a lies in the folder of project p2 while run 000001 of project p1 is open; it goes to p2, where its folder says"]
