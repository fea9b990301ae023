"""The adapter on real folders: what is taken, when, how often, and what is refused."""

from __future__ import annotations

import asyncio
import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.files import FilesAdapter, FilesConfig
from adapters.files.scan import Eye, Refusal, Seen
from adapters.testing import Adopted, Connected, Described, Disconnected, RecordingSink
from edge_agent.errors import DiskError, InstrumentUnreachable
from edge_agent.model import Cause, FileItem, Kind, utc_now_ns
from firmware_sim.launch import Device

Watch = Callable[..., Any]
Taken = Callable[..., Callable[[RecordingSink], bool]]


def contents(sink: RecordingSink) -> list[tuple[str, bytes]]:
    return [(event.item.name, event.data) for event in sink.of(Adopted)]


async def test_a_finished_file_is_taken_byte_for_byte_with_its_times(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()
    before = utc_now_ns()
    (folder / "sub").mkdir()
    (folder / "sub" / "scan.csv").write_bytes(b"1,2\r\n")
    await one.sink.until(taken(1))
    (event,) = one.sink.of(Adopted)
    status = (folder / "sub" / "scan.csv").stat()
    assert (event.item.name, event.item.size, event.item.mtime_ns) == ("sub/scan.csv", 5, status.st_mtime_ns)
    assert event.data == b"1,2\r\n"
    assert before <= event.item.t_arrival <= utc_now_ns()
    assert (event.stream.key, event.stream.kind, event.stream.source_uri) == ("xrd/files", Kind.FILES, folder.as_uri())


async def test_files_that_are_there_already_are_taken_and_nothing_in_the_folder_changes(folder: Path, watch: Watch, taken: Taken) -> None:
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    before = sorted((e.name, e.stat().st_mtime_ns, e.stat().st_ino) for e in os.scandir(folder))
    one = await watch()
    await one.sink.until(taken("a", "b", "c"))
    assert sorted((e.name, e.stat().st_mtime_ns, e.stat().st_ino) for e in os.scandir(folder)) == before


async def test_an_empty_file_is_data(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()
    (folder / "empty.dat").touch()
    await one.sink.until(taken("empty.dat"))
    assert contents(one.sink) == [("empty.dat", b"")]


async def test_a_slow_writer_is_waited_for(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(polling=True, settle="2 s")
    path = folder / "slow.csv"
    looks = 0

    async def before(item: FileItem) -> None:
        nonlocal looks
        looks += 1

    one.sink.before_adopt = before
    with path.open("wb", buffering=0) as file:
        for i in range(8):
            file.write(b"x" * 1000)
            await asyncio.sleep(0.1)  # the writer's own pace, not a way to wait for something
            assert looks == 0, f"taken after {i + 1} of 8 pieces"
    await one.sink.until(taken("slow.csv"))
    assert contents(one.sink) == [("slow.csv", b"x" * 8000)]


async def test_a_notice_that_a_file_was_closed_makes_it_be_taken_soon(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(settle="60 s", rescan="60 s")
    (folder / "closed.csv").write_bytes(b"1")
    (folder / "renamed.tmp").write_bytes(b"2")
    (folder / "renamed.tmp").rename(folder / "renamed.csv")
    await one.sink.until(taken("closed.csv", "renamed.csv"), timeout=20)


async def test_lost_notices_cost_only_time(folder: Path, watch: Watch, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.files.notices.Notices.dispatch", lambda self, event: None)
    one = await watch()
    (folder / "a.csv").write_bytes(b"1")
    await one.sink.until(taken("a.csv"))


async def test_a_burst_of_two_thousand_files_is_taken_whole_and_once(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()
    await asyncio.to_thread(lambda: [(folder / f"{i:04d}.dat").write_bytes(b"%d" % i) for i in range(2000)])
    await one.sink.until(taken(2000), timeout=60)
    (folder / "last").touch()
    await one.sink.until(taken("last"), timeout=60)
    assert sorted(contents(one.sink)) == sorted([*((f"{i:04d}.dat", b"%d" % i) for i in range(2000)), ("last", b"")])


@pytest.mark.slow
async def test_a_burst_of_ten_thousand_files_is_taken_whole_and_once(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(rescan="1 s")
    await asyncio.to_thread(lambda: [(folder / f"{i:05d}.dat").write_bytes(b"%d" % i) for i in range(10_000)])
    await one.sink.until(taken(10_000), timeout=300)
    (folder / "last").touch()
    await one.sink.until(taken("last"), timeout=60)
    assert sorted(contents(one.sink)) == sorted([*((f"{i:05d}.dat", b"%d" % i) for i in range(10_000)), ("last", b"")])


async def test_a_burst_that_overflows_the_notices_is_taken_whole(
    folder: Path, watch: Watch, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.files.notices.MOST_PATHS", 10)
    one = await watch(rescan="60 s")
    await asyncio.to_thread(lambda: [(folder / f"{i:04d}.dat").touch() for i in range(500)])
    await one.sink.until(taken(500), timeout=30)


async def test_a_restart_takes_nothing_twice(folder: Path, watch: Watch, taken: Taken) -> None:
    (folder / "old").write_text("1")
    first = await watch()
    await first.sink.until(taken("old"))
    await first.stop()
    (folder / "meanwhile").write_text("2")
    second = await watch(sink=RecordingSink(first.sink.catalogue))
    await second.sink.until(taken("meanwhile"))
    assert contents(second.sink) == [("meanwhile", b"2")]


async def test_a_later_change_is_a_new_version(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()
    (folder / "log.csv").write_text("1\n")
    await one.sink.until(taken(1))
    with (folder / "log.csv").open("a") as file:
        file.write("2\n")
    await one.sink.until(taken(2))
    assert contents(one.sink) == [("log.csv", b"1\n"), ("log.csv", b"1\n2\n")]


async def test_a_file_that_another_one_is_renamed_over_is_a_new_version(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()
    (folder / "result").write_text("old")
    await one.sink.until(taken(1))
    (folder / ".new").write_text("new")
    (folder / ".new").rename(folder / "result")
    await one.sink.until(taken(2))
    assert contents(one.sink) == [("result", b"old"), ("result", b"new")]


async def test_links_fifos_sockets_and_bad_names_are_refused_once_and_counted(
    folder: Path, watch: Watch, taken: Taken, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.pem").write_text("private")
    (folder / "link.pem").symlink_to(secret / "key.pem")
    (folder / "folder").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "fifo")
    (folder / "two\nlines").write_text("1")
    os.close(os.open(os.fsencode(folder) + b"/caf\xe9", os.O_CREAT))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    one = await watch()
    (folder / "good").write_text("1")
    await one.sink.until(taken("good"))
    (folder / "better").write_text("1")
    await one.sink.until(taken("better"))
    assert [name for name, _ in contents(one.sink)] == ["good", "better"]
    assert one.sink.of(Described)[0].facts["refused_entries"] == 7
    said = [record.getMessage() for record in caplog.records if "not taken" in record.getMessage()]
    assert len(said) == 7
    for wanted in (
        "'link.pem': it is a symbolic link; only regular files are taken",
        "'fifo': it is a FIFO",
        "'socket': it is a socket",
        r"'two\nlines': its name is refused: it holds control or invisible characters",
        r"'caf\udce9': its name is refused: it holds control or invisible characters, or bytes that are not UTF-8; rename it",
    ):
        assert any(wanted in line for line in said), (wanted, said)


def test_a_folder_that_becomes_a_link_between_two_looks_does_not_lead_out(folder: Path, tmp_path: Path) -> None:
    for parent in (tmp_path / "outside", folder / "sub"):
        parent.mkdir()
        (parent / "a.txt").write_text(parent.name)
    eye = Eye(folder, FilesConfig(folder=folder).selection(), recursive=True)
    path = eye.scan().files["sub/a.txt"].path
    assert isinstance(eye.look(path), Seen)
    (folder / "sub").rename(tmp_path / "moved")
    (folder / "sub").symlink_to(tmp_path / "outside")
    assert eye.look(path) == Refusal("sub/a.txt", "a folder above it is a symbolic link")
    assert eye.look(tmp_path / "outside" / "a.txt") is None
    assert eye.look(folder / ".." / "outside" / "a.txt") == Refusal("../outside/a.txt", "a folder above it is a symbolic link")


async def test_a_file_that_vanishes_before_it_is_taken_is_no_trouble(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()

    async def vanish(item: FileItem) -> None:
        if item.name == "brief":
            item.path.unlink()

    one.sink.before_adopt = vanish
    (folder / "brief").write_text("1")
    (folder / "shorter").write_text("1")
    (folder / "shorter").unlink()
    (folder / "stays").write_text("1")
    await one.sink.until(taken("stays"))
    await one.sink.until(lambda s: not (folder / "brief").exists())
    (folder / "end").touch()
    await one.sink.until(taken("end"))
    assert [name for name, _ in contents(one.sink)] == ["stays", "end"]


async def test_a_file_that_cannot_be_taken_is_tried_again_and_told_once(
    folder: Path, watch: Watch, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    one = await watch()
    tries = 0

    async def refuse(item: FileItem) -> None:
        nonlocal tries
        if item.name == "locked":
            tries += 1
            if tries < 4:
                raise PermissionError(13, "Permission denied", str(item.path))

    one.sink.before_adopt = refuse
    (folder / "locked").write_text("1")
    (folder / "open").write_text("2")
    await one.sink.until(taken("locked", "open"))
    assert tries == 4
    said = [record.getMessage() for record in caplog.records if "cannot be taken" in record.getMessage()]
    assert len(said) == 1
    assert "'locked' cannot be taken: [Errno 13] Permission denied" in said[0]


async def test_a_full_disk_stops_the_taking_for_a_while_and_nothing_is_forgotten(
    folder: Path, watch: Watch, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    one = await watch()
    full, tries = True, 0

    async def refuse(item: FileItem) -> None:
        nonlocal tries
        if full:
            tries += 1
            raise DiskError("The disk is full.")

    one.sink.before_adopt = refuse
    for i in range(50):
        (folder / f"{i:02d}").write_text("1")
    await one.sink.until(lambda s: tries >= 9)
    assert len([record for record in caplog.records if "cannot be taken" in record.getMessage()]) == 1
    full = False
    await one.sink.until(taken(50))


async def test_a_file_that_is_too_large_is_left_and_declared(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(max_size="1 kB")
    (folder / "large.raw").write_bytes(b"x" * 1001)
    (folder / "fits.raw").write_bytes(b"x" * 1000)
    await one.sink.until(taken("fits.raw"))
    await one.sink.until(lambda s: s.gaps("files"))
    (gap,) = one.sink.gaps("files")
    assert (gap.cause, gap.count) == (Cause.OVERLOAD, 1)
    assert gap.detail == "large.raw: 1001 bytes are more than max_size (1000 bytes); the file stays where it is"
    assert (folder / "large.raw").exists()


async def test_a_ready_file_decides_and_is_not_taken_itself(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(ready_suffix=".ready", settle="60 s")
    (folder / "a.raw").write_text("1")
    (folder / "b.raw").write_text("2")
    (folder / "b.raw.ready").touch()
    await one.sink.until(taken("b.raw"))
    (folder / "a.raw.ready").touch()
    await one.sink.until(taken("a.raw"))
    assert [name for name, _ in contents(one.sink)] == ["b.raw", "a.raw"]


@pytest.mark.parametrize(
    ("ready", "said", "silent"),
    [
        ("{stem}.done", ["1/scan.done"], ["1/scan.raw", "1/scan.hdr"]),
        ("DONE", ["1/DONE"], ["1/scan.raw", "1/scan.hdr", "1/other.raw"]),
        ("{folder}.ready", ["2/2.ready"], ["2/scan.raw"]),
        ("../{folder}.ready", ["1.ready", "2.ready"], ["1/scan.raw", "1/scan.hdr", "1/other.raw", "2/scan.raw"]),
    ],
)
@pytest.mark.parametrize("polling", [False, True])
async def test_a_ready_file_may_speak_of_a_set_or_a_folder(
    folder: Path, watch: Watch, taken: Taken, ready: str, said: list[str], silent: list[str], polling: bool
) -> None:
    one = await watch(ready=ready, settle="60 s", polling=polling, rescan="200 ms" if polling else "600 s")
    for name in ("1/scan.raw", "1/scan.hdr", "1/other.raw", "2/scan.raw", "top.raw"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    for name in said:
        (folder / name).touch()
    await one.sink.until(taken(*silent))
    assert sorted(name for name, _ in contents(one.sink)) == sorted(silent)


PAIRS = [["{name}.img", "{name}.hdr"]]


async def test_an_image_and_its_header_are_one_item(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(together=PAIRS)
    (folder / "a.hdr").write_text("header of a")
    (folder / "alone.csv").write_text("1")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.img").write_text("image of b")
    await one.sink.until(taken("alone.csv"))
    await one.sink.until(lambda s: {"waiting_for_others": 2} in [event.facts for event in s.of(Described)])
    assert [name for name, _ in contents(one.sink)] == ["alone.csv"]
    (folder / "a.img").write_text("image of a")
    await one.sink.until(taken("a.img", "a.hdr"))
    (folder / "sub" / "b.hdr").write_text("header of b")
    await one.sink.until(taken("sub/b.img", "sub/b.hdr"))
    pairs = [(event.with_, event.item.name) for event in one.sink.of(Adopted)][1:]
    assert pairs == [("a.img", "a.img"), ("a.img", "a.hdr"), ("sub/b.img", "sub/b.img"), ("sub/b.img", "sub/b.hdr")]


async def test_a_header_that_changes_later_is_a_new_version_alone(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(together=PAIRS)
    (folder / "a.img").write_text("image")
    (folder / "a.hdr").write_text("header")
    await one.sink.until(taken("a.img", "a.hdr"))
    (folder / "a.hdr").write_text("better header")
    await one.sink.until(taken(3))
    assert contents(one.sink)[2] == ("a.hdr", b"better header")


async def test_a_set_of_which_one_cannot_be_taken_is_tried_again_without_what_was_taken(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(together=PAIRS)
    tries = 0

    async def refuse(item: FileItem) -> None:
        nonlocal tries
        if item.name == "a.hdr":
            tries += 1
            if tries == 1:
                raise PermissionError(13, "Permission denied", str(item.path))

    one.sink.before_adopt = refuse
    (folder / "a.img").write_text("image")
    (folder / "a.hdr").write_text("header")
    await one.sink.until(taken("a.hdr"))
    assert sorted(name for name, _ in contents(one.sink)) == ["a.hdr", "a.img"]


async def test_the_path_names_the_project(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(project_from="users/{project}/**")
    for path in ("users/2026A1234/scans/1.csv", "users/no project/2.csv", "elsewhere/3.csv"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("1")
    await one.sink.until(taken(3))
    projects = {event.item.name: event.item.project for event in one.sink.of(Adopted)}
    assert projects == {"users/2026A1234/scans/1.csv": "2026A1234", "users/no project/2.csv": "", "elsewhere/3.csv": ""}


async def test_only_what_is_wanted_is_taken(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch(include=["*.csv"], recursive=False)
    (folder / "sub").mkdir()
    for name in ("sub/c.csv", "b.tif", ".a.csv", "a.csv.tmp", "a.csv"):
        (folder / name).write_text("1")
    await one.sink.until(taken("a.csv"))
    (folder / "z.csv").write_text("1")
    await one.sink.until(taken("z.csv"))
    assert [name for name, _ in contents(one.sink)] == ["a.csv", "z.csv"]


async def test_two_names_that_are_one_in_unicode_are_not_mixed_up(folder: Path, watch: Watch, taken: Taken) -> None:
    for form in ("NFC", "NFD"):
        (folder / unicodedata.normalize(form, "é")).write_text(form)
    one = await watch()
    await one.sink.until(taken(1))
    await one.sink.until(lambda s: s.of(Described))
    (folder / "end").touch()
    await one.sink.until(taken("end"))
    assert [name for name, _ in contents(one.sink)] == ["é", "end"]
    assert "another file has the name 'é' too; rename it" in one.sink.of(Described)[0].facts["refused_last"]


async def test_a_folder_that_is_not_there_is_told_once_and_taken_when_it_appears(folder: Path, watch: Watch, taken: Taken) -> None:
    folder.rmdir()
    one = await watch(wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    folder.mkdir()
    (folder / "a").write_text("1")
    await one.sink.until(taken("a"))
    (told,) = one.sink.of(Disconnected)
    assert told.why == f"there is no folder {folder}; create it or mount the share; it is looked for again"


@pytest.mark.parametrize("polling", [False, True])
async def test_a_folder_that_is_removed_and_made_again_goes_on(folder: Path, watch: Watch, taken: Taken, polling: bool) -> None:
    one = await watch(polling=polling)
    (folder / "a").write_text("1")
    await one.sink.until(taken("a"))
    (folder / "a").unlink()
    folder.rmdir()
    await one.sink.until(lambda s: s.of(Disconnected))
    folder.mkdir()
    (folder / "b").write_text("2")
    await one.sink.until(taken("b"))
    assert len(one.sink.of(Connected)) == 2


async def test_a_folder_that_is_replaced_at_once_goes_on_with_notices(folder: Path, watch: Watch, taken: Taken, tmp_path: Path) -> None:
    one = await watch()
    (folder / "a").write_text("1")
    await one.sink.until(taken("a"))
    (folder / "a").unlink()
    folder.rmdir()
    folder.mkdir()
    (folder / "b").write_text("2")
    await one.sink.until(taken("b"))


async def test_a_file_in_place_of_the_folder_is_told(folder: Path, watch: Watch) -> None:
    folder.rmdir()
    folder.write_text("not a folder")
    one = await watch(wait=False)
    await one.sink.until(lambda s: s.of(Disconnected))
    assert one.sink.of(Disconnected)[0].why == f"{folder} is no folder; correct folder"


async def test_a_system_without_room_for_notices_is_looked_through_instead(
    folder: Path, watch: Watch, taken: Taken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("watchdog.observers.api.BaseObserver.start", refuse)
    one = await watch()
    (folder / "a").write_text("1")
    await one.sink.until(taken("a"))
    assert any("raise fs.inotify.max_user_watches" in record.getMessage() for record in caplog.records)


async def test_a_recorder_that_is_behind_holds_the_taking_back(folder: Path, watch: Watch, taken: Taken) -> None:
    one = await watch()
    one.sink.gate.clear()
    for i in range(20):
        (folder / f"{i:02d}").write_text("1")
    one.sink.gate.set()
    await one.sink.until(taken(20))


async def test_everything_that_a_vendor_program_says_it_wrote_is_taken(folder: Path, watch: Watch, taken: Taken, tmp_path: Path) -> None:
    one = await watch(settle="1 s", settle_closed="100 ms")
    options = ("--folder", str(folder), "--rate", "10", "--count", "20", "--fault", "zero@0.5", "--fault", "abandon@0.8")
    with Device("vendor", *options, truth=tmp_path / "truth.jsonl") as vendor:
        vendor.wait_stopped()
        sent = {(item.path, item.size) for item in vendor.read_truth().of("files")}
        await one.sink.until(taken(len(sent)))
    assert {(event.item.name, event.item.size) for event in one.sink.of(Adopted)} == sent


async def test_a_preview_says_how_many_files_there_are(folder: Path) -> None:
    (folder / "a.csv").write_text("1")
    (folder / "link").symlink_to(folder / "a.csv")
    (stream,) = await FilesAdapter("xrd", FilesConfig(folder=folder)).preview()
    assert (stream.key, stream.kind) == ("xrd/files", Kind.FILES)
    assert stream.attributes == {"files": 1, "refused_entries": 1}


async def test_a_preview_of_a_folder_that_is_not_there_says_what_to_do(folder: Path) -> None:
    with pytest.raises(InstrumentUnreachable) as refused:
        await FilesAdapter("xrd", FilesConfig(folder=folder / "none")).preview()
    assert str(refused.value).splitlines() == [
        "The folder cannot be watched.",
        f"  why: there is no folder {folder / 'none'}",
        "  try: create it or mount the share; it is looked for again",
    ]
