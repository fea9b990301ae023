"""One slice is judged by what it needs and nothing else is read; both verifiers say the same of it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.errors import UsageError
from edge_agent.model import Kind, Stream
from edge_agent.seal import leaf
from edge_agent.seal.dsd import Counter
from edge_agent.segment import layout
from edge_agent.segment.judge import judge_slice
from edge_agent.segment.report import SliceReport, slice_from_json
from edge_agent.segment.slice import check_slice, parse_bounds, verify_slice, with_run
from tests.independent import item

CAMERA = "/entry/instrument/camera/image/data"
BIG = Stream("eiger", "image", Kind.FRAMES, "<u2", (128, 128), source_uri="pva://BIG", counted=True)
BIG_DATA = "/entry/instrument/eiger/image/data"
TILES = Stream("tiles", "image", Kind.FRAMES, "<u2", (12, 16), source_uri="pva://TILES")
TILES_DATA = "/entry/instrument/tiles/image/data"
FRAMES, TILED = 64, 5


@pytest.fixture(scope="module")
def long_file(shared_forge: Any, tmp_path_factory: pytest.TempPathFactory, rows_of: Callable[..., Any]) -> Path:
    """A segment of more than 4096 leaves: big frames, and frames in four tiles each."""
    builder = shared_forge.frames(tmp_path_factory.mktemp("long") / "000123.nxs")
    rng = np.random.default_rng(11)
    tiles = layout.stream_layout(TILES, default=False)
    assert tiles.data is not None
    dsd = replace(tiles.data, chunk=(1, 6, 8), counter=Counter.NONE)
    builder.file.add(tiles.objects, (dsd, *tiles.table.dsds))
    builder.leaves += [leaf.Dataset(one.digest()) for one in (dsd, *tiles.table.dsds)]
    for frame in range(TILED):
        for y in (0, 6):
            for x in (0, 8):
                part = rng.integers(0, 9, (1, 6, 8), dtype="<u2")
                builder._chunk(dsd, tiles.codec, (frame, y, x), part, frame + 1, leaf.NO_COUNTER)
    builder.rows(tiles.table, rows_of(TILED))
    made, builder.frames = builder.add(BIG), 0
    for number in range(FRAMES):
        builder.frame(made, rng.integers(0, 60_000, BIG.shape, dtype="<u2"), 1000 + number)
    builder.rows(made.table, rows_of(FRAMES, frame_number=np.arange(1000, 1000 + FRAMES, dtype="<u8")))
    for _ in range(4198 - len(builder.leaves)):
        builder.meta()
    path: Path = builder.close().path
    return path


@pytest.fixture
def root_file(facility: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(facility.root.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def both(facility: Any, root_file: Path) -> Callable[..., SliceReport]:
    """Our report, after the other verifier gave the same level."""

    def judge(path: Path, dataset: str, text: str) -> SliceReport:
        ours = with_run(verify_slice(path, dataset, parse_bounds(text), facility.root), facility.root)
        theirs = item(path, "--dataset", dataset, "--slice", text, "--root", root_file)
        assert (ours.level, ours.level and ours.chunks) == (theirs["level"], theirs["level"] and theirs["chunks"]), (ours, theirs)
        assert not ours.level or ours.leaves == theirs["leaves"]
        return ours

    return judge


def edited(path: Path, tmp_path: Path, change: Callable[[h5py.File], Any]) -> Path:
    copy = tmp_path / "changed.h5"
    shutil.copy(path, copy)
    with h5py.File(copy, "r+", libver=("earliest", "v110")) as file:
        change(file)
    return copy


def flipped(path: Path, tmp_path: Path, dataset: str, offset: tuple[int, ...]) -> Path:
    """A copy in which one byte of a stored chunk is another."""
    with h5py.File(path) as file:
        at = file[dataset].id.get_chunk_info_by_coord(offset).byte_offset
    copy = tmp_path / "flipped.h5"
    data = bytearray(path.read_bytes())
    data[at + 20] ^= 1
    copy.write_bytes(data)
    return copy


class Counting(io.BytesIO):
    """A file that remembers how much of it was read."""

    read_bytes = 0

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.read_bytes += count
        return count


def test_a_slice_is_signed_and_says_what_it_read(long_file: Path, both: Callable[..., SliceReport], facility: Any) -> None:
    report = both(long_file, BIG_DATA, "10:20")
    assert (report.level, report.reason, report.chunks, report.first, report.last) == (2, "", 10, 1010, 1019)
    assert report.bounds == ((10, 20), (0, 128), (0, 128))
    assert report.leaves < 3 * 256
    assert report.agent_id == facility.agent_id
    assert slice_from_json(json.loads(json.dumps(report.as_json()))) == report


def test_only_what_the_slice_needs_is_read(long_file: Path, facility: Any) -> None:
    source = Counting(long_file.read_bytes())
    with h5py.File(source, "r") as file:
        source.read_bytes = 0
        report = check_slice(file, SliceReport("x", BIG_DATA, 0), parse_bounds("40:42"), facility.root)
    assert (report.level, report.chunks) == (2, 2)
    size = long_file.stat().st_size
    assert source.read_bytes - report.stored < size / 4, f"read {source.read_bytes} of {size} bytes"


@pytest.mark.parametrize(
    ("text", "chunks"),
    [("1", 4), ("1:3,0:6", 4), ("0:5,7:8,8:16", 5), ("4,11,15", 1), (":", 20), (":,5:7", 20), ("2:,0:1,0:1", 3), (":2,:,8:", 4)],
)
def test_a_slice_along_several_axes_touches_the_chunks_that_hold_it(
    text: str, chunks: int, long_file: Path, both: Callable[..., SliceReport]
) -> None:
    report = both(long_file, TILES_DATA, text)
    assert (report.level, report.chunks, report.first) == (2, chunks, None)


def test_a_short_segment_without_epochs_is_read_in_one_piece(frames_file: Path, both: Callable[..., SliceReport]) -> None:
    report = both(frames_file, CAMERA, "2:5")
    assert (report.level, report.chunks, report.first, report.last) == (2, 3, 12, 16)


def test_a_changed_byte_is_found_in_a_touched_chunk_and_not_looked_for_in_another(
    long_file: Path, both: Callable[..., SliceReport], tmp_path: Path
) -> None:
    changed = flipped(long_file, tmp_path, BIG_DATA, (12, 0, 0))
    report = both(changed, BIG_DATA, "10:20")
    assert (report.level, report.reason) == (0, f"{BIG_DATA} at (12, 0, 0): the stored bytes are not those that were signed")
    assert both(changed, BIG_DATA, "13:20").level == 2


def _row(file: h5py.File, number: int, at: int) -> None:
    rows = file["/entry/integrity/leaves"][()]
    rows[number, at] ^= 1
    file["/entry/integrity/leaves"][...] = rows


def _swap(file: h5py.File) -> None:
    data = file[BIG_DATA].id
    one, other = data.read_direct_chunk((11, 0, 0))[1], data.read_direct_chunk((12, 0, 0))[1]
    data.write_direct_chunk((11, 0, 0), other)
    data.write_direct_chunk((12, 0, 0), one)


def _epoch(file: h5py.File) -> None:
    file["/entry/integrity/epochs"][9, 0] ^= 1


def _replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["/entry/integrity"][name]
        if value is not None:
            file["/entry/integrity"][name] = value

    return change


def _no_leaves(file: h5py.File) -> None:
    _replace("leaves", file["/entry/integrity/leaves"][:1])(file)
    _replace("epochs", None)(file)


U1 = np.zeros(3, "u1")
CHANGES: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "unit": (lambda f: f[CAMERA].attrs.__setitem__("units", "photon"), "the metadata"),
    "its own attribute": (lambda f: f[BIG_DATA].attrs.__setitem__("new", 1), "the metadata"),
    "extra object": (lambda f: f.__setitem__("/entry/more", [1]), "the metadata"),
    "external link": (lambda f: f.__setitem__("/entry/more", h5py.ExternalLink("/etc/passwd", "/")), "external or user-defined link"),
    "shape": (lambda f: f[BIG_DATA].id.set_extent((FRAMES + 1, 128, 128)), f"shape ({FRAMES + 1}, 128, 128)"),
    "frames swapped": (_swap, "at (11, 0, 0): the stored bytes"),
    "a leaf of the epoch": (lambda f: _row(f, 120, 30), "do not have the root of their epoch"),
    "the first leaf": (lambda f: _row(f, 0, 11), "leaf 0: "),
    "an epoch elsewhere": (_epoch, "close head: the epochs are not those that were signed"),
    "removed": (lambda f: f.__delitem__(BIG_DATA), "is not in the file"),
    "unsigned": (lambda f: f.__delitem__("/entry/integrity"), "/entry/integrity: is not in the file"),
    "no group": (lambda f: (f.__delitem__("/entry/integrity"), f.__setitem__("/entry/integrity", 1)), "not a group"),
    "another format": (lambda f: f["/entry/integrity"].attrs.__setitem__("format", "HSC/2"), "another format"),
    "more in the group": (lambda f: f.__setitem__("/entry/integrity/more", 1), "holds something else"),
    "no heads": (_replace("heads", np.frombuffer(b"\x80", "u1")), "heads: there is none"),
    "heads of text": (_replace("heads", np.frombuffer(b"\x81\x61a", "u1")), "not an array of byte strings"),
    "heads in a group": (lambda f: (f["/entry/integrity"].__delitem__("heads"), f.create_group("/entry/integrity/heads")), "not a dataset"),
    "heads as floats": (_replace("heads", np.zeros(3)), "another type or rank"),
    "heads by a soft link": (_replace("heads", h5py.SoftLink("/entry/integrity/events")), "a soft link"),
    "another head": (_replace("heads", U1), "heads: "),
    "epochs too short": (_replace("epochs", np.zeros((3, 32), "u1")), "3 rows of 32 bytes for 4200 leaves"),
    "narrow leaves": (_replace("leaves", np.zeros((4200, 8), "u1")), "rows of 8 bytes"),
    "events too short": (_replace("events", U1), "point outside of events"),
    "one leaf": (_no_leaves, "1 leaves"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_slice_rests_on_cannot_be_changed(
    change: str, long_file: Path, both: Callable[..., SliceReport], tmp_path: Path
) -> None:
    edit, reason = CHANGES[change]
    report = both(edited(long_file, tmp_path, edit), BIG_DATA, "10:20")
    assert report.level == 0
    assert reason in report.reason


def test_a_wrong_index_is_no_hint_and_no_harm(long_file: Path, both: Callable[..., SliceReport], tmp_path: Path) -> None:
    with h5py.File(long_file) as file:
        numbers = {n: len(node) for n, node in file["/entry/integrity/index"].items()}
    big = next(n for n, size in numbers.items() if size == FRAMES)

    def mislead(file: h5py.File) -> None:
        file[f"/entry/integrity/index/{big}"][...] = np.arange(FRAMES)[::-1] + 4_000_000

    report = both(edited(long_file, tmp_path, mislead), BIG_DATA, "10:20")
    assert (report.level, report.leaves) == (2, 4200)


def test_soft_links_lead_to_the_dataset_that_was_signed(long_file: Path, both: Callable[..., SliceReport], tmp_path: Path) -> None:
    report = both(long_file, "/entry/data/data", "1:3")
    assert (report.level, report.dataset, report.chunks) == (2, CAMERA, 2)

    def circle(file: h5py.File) -> None:
        file["/entry/a"], file["/entry/b"] = h5py.SoftLink("b"), h5py.SoftLink("/entry/a")

    report = both(edited(long_file, tmp_path, circle), "/entry/a/data", "1:3")
    assert (report.level, "soft links" in report.reason) == (0, True)


@pytest.mark.parametrize(
    ("dataset", "text", "reason"),
    [
        (BIG_DATA, "60:70", "outside of the signed shape"),
        (BIG_DATA, "5:5", "is empty"),
        (BIG_DATA, "0,0,0,0", "a slice of 4 axes"),
        ("/entry/title", "0", "no chunks of it were signed"),
        ("/nothing", "0", "no chunks of it were signed"),
    ],
)
def test_a_slice_that_is_not_there_is_said(
    dataset: str, text: str, reason: str, long_file: Path, both: Callable[..., SliceReport]
) -> None:
    report = both(long_file, dataset, text)
    assert report.level == 0
    assert reason in report.reason


def test_who_signed_is_judged_as_for_a_whole_file(long_file: Path, stranger: Any, tmp_path: Path) -> None:
    report = verify_slice(long_file, BIG_DATA, (), None)
    assert (report.level, report.reason, report.chunks) == (1, "signed by an unknown key", FRAMES)
    report = verify_slice(long_file, BIG_DATA, (), stranger.root)
    assert (report.level, report.reason) == (1, "the key chain does not lead to the given root")
    assert with_run(report, stranger.root) == report
    (tmp_path / "no.h5").write_bytes(b"nothing")
    assert verify_slice(tmp_path / "no.h5", BIG_DATA, (), None).reason.startswith("HDF5 cannot read this file")


def test_a_segment_signed_by_another_agents_key_is_damaged(forge: Any, stranger: Any, both: Callable[..., SliceReport], tmp_path: Path) -> None:
    builder = forge.frames(tmp_path / "a.h5")
    built = builder.close(tables=lambda tables: replace(tables, chain=stranger.chain))
    report = both(built.path, CAMERA, "0")
    assert (report.level, report.reason) == (0, "OPEN names another agent than the key chain")


def test_a_slice_is_witnessed_when_its_run_is(forge: Any, both: Callable[..., SliceReport], tmp_path: Path) -> None:
    folder = tmp_path / "000123"
    folder.mkdir()
    first = forge.frames(folder / "000123_camera_image_000001.h5").close(reason="rolled")
    follow = {"first": 18, "previous": (first.segment_id, first.head), "last_seq": {"camera/image": 17}}
    second = forge.frames(folder / "000123_camera_image_000002.h5", ordinal=2, **follow).close()
    forge.sidecar(folder, [first, second])
    assert both(first.path, CAMERA, "0:2").level == 2
    forge.receipts(folder, [first])
    assert both(first.path, CAMERA, "0:2").level == 2
    forge.receipts(folder, [first, second])
    assert both(first.path, CAMERA, "0:2").level == 3
    stray = forge.frames(folder / "stray.h5").close()
    assert both(stray.path, CAMERA, "0:2").level == 2


def test_a_worker_judges_the_same(long_file: Path, facility: Any, tmp_path: Path) -> None:
    assert judge_slice(long_file, BIG_DATA, "3:5", facility.root) == verify_slice(long_file, BIG_DATA, parse_bounds("3:5"), facility.root)
    report = judge_slice(tmp_path / "nothing.h5", BIG_DATA, "3:5", None)
    assert (report.level, report.dataset) == (0, BIG_DATA)
    for nonsense in ({}, {**report.as_json(), "level": 3}, {**report.as_json(), "bounds": 1}, {**report.as_json(), "more": 1}):
        with pytest.raises(ValueError, match="report of a slice"):
            slice_from_json(nonsense)


def test_slices_are_written_as_in_numpy() -> None:
    assert parse_bounds("100:110,0:5") == ((100, 110), (0, 5))
    assert parse_bounds(" 7, :, 3:, :4") == ((7, 8), (None, None), (3, None), (None, 4))
    for text in ("", "a", "1:2:3", "-1", "1,,2", "9" * 19):
        with pytest.raises(UsageError, match="is no slice"):
            parse_bounds(text)
