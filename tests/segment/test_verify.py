"""What `verify_segment` says of good segments, of segments that somebody changed, and of segments whose own signer lies."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from h5py import h5d, h5p, h5s

from edge_agent.seal import cose, leaf
from edge_agent.seal.cbor import dumps
from edge_agent.seal.head import State
from edge_agent.seal.keys import KeyChain
from edge_agent.segment import hdf5, layout
from edge_agent.segment.report import GapCount
from edge_agent.segment.verify import verify_segment
from tests.independent import judged

DATA = "/entry/instrument/camera/image/data"
NUMBER = "/entry/instrument/camera/image/frame_number"


def test_a_frame_segment_is_signed_and_says_what_it_holds(forge: Any, tmp_path: Path) -> None:
    built = forge.frames(tmp_path / "a.h5").close()
    report = verify_segment(built.path, forge.facility.root)
    assert (report.level, report.reason) == (2, "")
    assert report.segment_id == built.segment_id
    assert report.head == built.head
    assert (report.agent_id, report.run_id, report.run_no) == (forge.facility.agent_id, forge.run.run_id, 123)
    assert (report.ordinal, report.series, report.state, report.outcome) == (1, "camera/image", "closed", "complete")
    assert report.gaps == (GapCount("camera/image", 1, 2),)
    assert report.last_seq == {"camera/image": 17}
    assert report.chunks == 12
    assert report.uncounted == ()


def test_a_row_segment_lists_the_sources_whose_continuity_is_not_promised(forge: Any, tmp_path: Path) -> None:
    report = verify_segment(forge.rows(tmp_path / "a.h5").close().path, forge.facility.root)
    assert (report.level, report.reason) == (2, "")
    assert report.uncounted == ("balance/line", "balance/weight", "motor/position")
    assert report.gaps == (GapCount("balance/weight", 1, None),)


def test_a_table_longer_than_a_chunk_and_tables_without_rows_verify(forge: Any, tmp_path: Path) -> None:
    for builder in (
        forge.rows(tmp_path / "long.h5", n=2 * layout.ROW_CHUNK + 500),
        forge.rows(tmp_path / "none.h5", n=0),
        forge.frames(tmp_path / "still.h5", n=0),
    ):
        assert verify_segment(builder.close().path, forge.facility.root).level == 2


def test_without_a_root_or_with_another_root_a_segment_is_only_intact(forge: Any, stranger: Any, tmp_path: Path) -> None:
    path = forge.frames(tmp_path / "a.h5").close().path
    assert (verify_segment(path, None).level, verify_segment(path, None).reason) == (1, "signed by an unknown key")
    assert verify_segment(path, stranger.root).level == 1
    assert verify_segment(path, stranger.root).reason == "the key chain does not lead to the given root"


def test_an_agent_before_its_enrolment_signs_for_level_one(forge: Any, tmp_path: Path) -> None:
    path = forge.frames(tmp_path / "a.h5").close(tables=lambda t: replace(t, chain=forge.facility.own_chain)).path
    assert verify_segment(path, forge.facility.root).level == 1


def test_a_recovered_segment_says_so(forge: Any, tmp_path: Path) -> None:
    report = verify_segment(forge.frames(tmp_path / "a.h5").close(state=State.RECOVERED, reason="recovered").path, forge.facility.root)
    assert (report.level, report.state) == (2, "recovered")


def test_what_is_no_segment_gets_a_reason_and_never_an_exception(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("frames")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["a"] = 1
    reasons = {name: verify_segment(tmp_path / f"{name}.h5", None).reason for name in ("empty", "text", "plain", "nothing")}
    assert reasons["plain"] == "the file has no /entry/integrity: it is not signed"
    assert all(reasons[name].startswith("HDF5 cannot read this file: ") for name in ("empty", "text", "nothing"))


# ---- Somebody changed the file afterwards ---------------------------------------------------------------------------


def replaced(file: h5py.File, path: str, **other: Any) -> None:
    """The dataset again with another property, its stored chunks and attributes copied."""
    old = file[path].id
    stored: list[Any] = []
    old.chunk_iter(lambda info: stored.append((tuple(info.chunk_offset), info.filter_mask)))
    chunks = [(offset, mask, old.read_direct_chunk(offset)[1]) for offset, mask in stored]
    attributes = {name: file[path].attrs[name] for name in file[path].attrs}
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(other.get("chunk", old.get_create_plist().get_chunk()))
    for number, flags, values in other.get("filters", hdf5.filters_of(old)):
        properties.set_filter(number, flags, values)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    if "fill" in other:
        properties.set_fill_value(np.array(other["fill"], old.dtype))
    if "options" in other:
        library = ctypes.CDLL(h5p.__file__)
        library.H5Pset_chunk_opts.argtypes = (ctypes.c_int64, ctypes.c_uint)
        assert library.H5Pset_chunk_opts(properties.id, other["options"]) == 0
    space = h5s.create_simple(old.shape, other.get("maxdims", old.get_space().get_simple_extent_dims(True)))
    kind = h5py.h5t.py_create(np.dtype(other.get("dtype", old.dtype)))
    del file[path]
    new = h5py.Dataset(h5d.create(file.id, path.encode(), kind, space, properties))
    for offset, mask, data in chunks:
        new.id.write_direct_chunk(offset, data, mask)
    for name, value in attributes.items():
        new.attrs[name] = value


def chunk(file: h5py.File, row: int) -> tuple[int, bytes]:
    mask, data = file[DATA].id.read_direct_chunk((row, 0, 0))
    return mask, bytes(data)


def put(file: h5py.File, row: int, data: bytes, mask: int = 0) -> None:
    file[DATA].id.write_direct_chunk((row, 0, 0), data, mask)


def swap_frames(file: h5py.File) -> None:
    (_, first), (_, second) = chunk(file, 1), chunk(file, 2)
    put(file, 1, second)
    put(file, 2, first)


def change_mask(file: h5py.File) -> None:
    # HDF5 keeps the old mask of a chunk that is overwritten by one of the same size.
    mask, data = chunk(file, 4)
    put(file, 4, data + b"more", mask)
    put(file, 4, data, mask ^ 1)


def drop_last_frame(file: h5py.File) -> None:
    file[DATA].id.set_extent((5, 12, 16))
    file[DATA].id.set_extent((6, 12, 16))


def move_frame(file: h5py.File) -> None:
    _, data = chunk(file, 5)
    drop_last_frame(file)
    file[DATA].id.set_extent((7, 12, 16))
    put(file, 6, data)


def table(file: h5py.File, name: str, change: Callable[[np.ndarray[Any, Any]], Any]) -> None:
    path = f"/entry/integrity/{name}"
    data = change(file[path][()])
    del file[path]
    file[path] = data


def flipped(at: tuple[int, ...]) -> Callable[[np.ndarray[Any, Any]], Any]:
    def change(data: np.ndarray[Any, Any]) -> Any:
        data[at] ^= 1
        return data

    return change


def attribute(path: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        file[path].attrs[name] = value

    return edit


META = "the metadata (groups, attributes, links, small values) are not those that were signed"
HOLDS = "/entry/integrity: holds something else than the format says"

EDITS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "a unit was edited": (attribute(DATA, "units", "photon"), META),
    "an attribute was added": (attribute("/entry", "comment", "nice"), META),
    "an attribute was removed": (lambda f: f["/entry"].attrs.__delitem__("series"), META),
    "a number became the same number of another type": (attribute("/entry", "ordinal", np.int32(1)), META),
    "a text was edited": (lambda f: f["/entry/title"].__setitem__((), "mine"), META),
    "a gap was made larger": (lambda f: f["/entry/instrument/camera/image/gaps/count"].__setitem__(0, 3), META),
    "a group was added": (lambda f: f.create_group("/entry/more"), META),
    "a small dataset was added": (lambda f: f.__setitem__("/entry/more", [1, 2]), META),
    "a soft link was added": (lambda f: f.__setitem__("/entry/more", h5py.SoftLink(DATA)), META),
    "a hard link was added": (lambda f: f.__setitem__("/entry/more", f[DATA]), META),
    "a soft link was turned": (lambda f: (f.__delitem__("/entry/data"), f.__setitem__("/entry/data", h5py.SoftLink("/entry"))), META),
    "a chunked dataset was added": (
        lambda f: f.create_dataset("/entry/more", data=[1], chunks=(1,)),
        "/entry/more: a dataset that was not signed",
    ),
    "a dataset was removed": (lambda f: f.__delitem__(NUMBER), f"{NUMBER}: a signed dataset is missing"),
    "a dataset was renamed": (lambda f: f.move(NUMBER, NUMBER + "s"), f"{NUMBER}: a signed dataset is missing"),
    "a chunk was replaced": (
        lambda f: put(f, 3, chunk(f, 3)[1][:-1] + b"\xff"),
        f"{DATA} at (3, 0, 0): the stored bytes are not those that were signed",
    ),
    "a chunk was made longer": (lambda f: put(f, 3, chunk(f, 3)[1] + b"\0"), f"{DATA} at (3, 0, 0): size and filter mask are"),
    "two frames were swapped": (swap_frames, f"{DATA} at (1, 0, 0): "),
    "a filter mask was changed": (change_mask, f"{DATA} at (4, 0, 0): size and filter mask are"),
    "the last frame was dropped": (drop_last_frame, f"{DATA} at (5, 0, 0): a signed chunk is missing"),
    "the dataset was made longer": (lambda f: f[DATA].id.set_extent((9, 12, 16)), f"{DATA}: shape (9, 12, 16), and (6, 12, 16) was signed"),
    "a frame was moved": (move_frame, f"{DATA}: shape"),
    "the type was changed": (lambda f: replaced(f, DATA, dtype="<i2"), f"{DATA}: type "),
    "the byte order was changed": (lambda f: replaced(f, DATA, dtype=">u2"), f"{DATA}: type "),
    "the chunk shape was changed": (lambda f: replaced(f, DATA, chunk=(1, 6, 16)), f"{DATA}: chunk shape "),
    "the maximal shape was changed": (lambda f: replaced(f, DATA, maxdims=(h5s.UNLIMITED, 12, 32)), f"{DATA}: maximal shape "),
    "a filter value was changed": (lambda f: replaced(f, DATA, filters=((32008, 1, (0, 4, 4, 0, 2)),)), f"{DATA}: filters "),
    "the fill value was changed": (lambda f: replaced(f, DATA, fill=7), f"{DATA}: fill value "),
    "edge chunks are to be read without filters": (lambda f: replaced(f, DATA, options=2), f"{DATA}: chunk options 2, and 0 was signed"),
    "the tables were removed": (lambda f: f.__delitem__("/entry/integrity"), "the file has no /entry/integrity: it is not signed"),
    "something was added to the tables": (lambda f: f.__setitem__("/entry/integrity/more", 1), HOLDS),
    "the index was emptied": (lambda f: f.__delitem__("/entry/integrity/index/0"), HOLDS),
    "the descriptors were removed": (lambda f: f.__delitem__("/entry/integrity/descriptors"), "/entry/integrity: has no descriptors"),
    "the heads were removed": (lambda f: f.__delitem__("/entry/integrity/heads"), HOLDS),
    "another attribute stands on the tables": (attribute("/entry/integrity", "more", 1), "/entry/integrity: another format than"),
    "an attribute stands on a table": (attribute("/entry/integrity/leaves", "more", 1), "/entry/integrity/leaves: not a plain array"),
    "an attribute stands on the index": (attribute("/entry/integrity/index", "more", 1), HOLDS),
    "the format is another": (attribute("/entry/integrity", "format", "HSC/2"), "/entry/integrity: another format than HSC/1"),
    "the read-me was changed": (
        lambda f: f["/entry/integrity/README"].__setitem__((), "all fine"),
        "/entry/integrity/README: another text",
    ),
    "the index leads elsewhere": (lambda f: table(f, "index/0", flipped((0,))), "/entry/integrity/index/0: does not lead to its leaves"),
    "the events were changed": (lambda f: table(f, "events", flipped((200,))), "leaf "),
    "the events are longer": (
        lambda f: table(f, "events", lambda d: np.append(d, np.uint8(0))),
        "/entry/integrity/events: has bytes that no leaf points to",
    ),
    "the events are shorter": (lambda f: table(f, "events", lambda d: d[:-1]), "/entry/integrity/leaves: row"),
    "the padding of a leaf was used": (
        lambda f: table(f, "leaves", flipped((0, 40))),
        "/entry/integrity/leaves: row 0 is not padded with zeros",
    ),
    "a leaf is longer than the table is wide": (
        lambda f: table(f, "leaves", flipped((20, 2))),
        "/entry/integrity/leaves: row 20 is longer",
    ),
    "the leaves are too narrow": (
        lambda f: table(f, "leaves", lambda d: np.ascontiguousarray(d[:, :8])),
        "/entry/integrity/leaves: rows of 8 bytes",
    ),
    "the leaves are of another type": (
        lambda f: table(f, "leaves", lambda d: d.astype("<u2")),
        "/entry/integrity/leaves: an array of another type",
    ),
    "the heads are no list": (
        lambda f: table(f, "heads", lambda d: np.frombuffer(dumps({1: 2}), np.uint8)),
        "/entry/integrity/heads: not an array",
    ),
    "the heads are cut": (lambda f: table(f, "heads", lambda d: d[:-1]), "heads: cut short"),
    "the key chain was changed": (lambda f: table(f, "keychain", flipped((-1,))), "COSE: the signature is wrong"),
    "the descriptors were changed": (lambda f: table(f, "descriptors", flipped((60,))), ""),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_segment_is_damaged_and_the_first_wrong_thing_is_named(
    edit: str, frames_file: Path, facility: Any, tmp_path: Path
) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(frames_file, path)
    change, reason = EDITS[edit]
    with h5py.File(path, "r+", libver=("earliest", "latest")) as file:
        change(file)
    report = verify_segment(path, facility.root)
    assert report.level == 0, edit
    assert report.reason.startswith(reason), report.reason
    assert report.reason, edit


def test_copying_every_chunk_into_the_same_dataset_again_changes_nothing(frames_file: Path, facility: Any, tmp_path: Path) -> None:
    path = tmp_path / "same.h5"
    shutil.copy(frames_file, path)
    with h5py.File(path, "r+", libver=("earliest", "latest")) as file:
        replaced(file, DATA)
    assert verify_segment(path, facility.root).level == 2


# ---- The signer itself lies -----------------------------------------------------------------------------------------

Leaves = list[Any]


def without(kind: type) -> Callable[[Leaves], Leaves]:
    return lambda leaves: [item for item in leaves if not isinstance(item, kind)]


def frames_of(leaves: Leaves) -> list[leaf.Chunk]:
    return [item for item in leaves if isinstance(item, leaf.Chunk) and item.seq_first != leaf.NO_COUNTER]


def changed(pick: Callable[[Leaves], Any], **fields: Any) -> Callable[[Leaves], Leaves]:
    def change(leaves: Leaves) -> Leaves:
        chosen = pick(leaves)
        return [replace(item, **fields) if item is chosen else item for item in leaves]

    return change


def dropped(pick: Callable[[Leaves], Any]) -> Callable[[Leaves], Leaves]:
    def change(leaves: Leaves) -> Leaves:
        chosen = pick(leaves)
        return [item for item in leaves if item is not chosen]

    return change


def inserted(at: int, make: Callable[[Leaves], Any]) -> Callable[[Leaves], Leaves]:
    return lambda leaves: [*leaves[:at], make(leaves), *leaves[at:]]


def first(kind: type) -> Callable[[Leaves], Any]:
    return lambda leaves: next(item for item in leaves if isinstance(item, kind))


def close_of(leaves: Leaves) -> leaf.Close:
    closing = leaves[-1]
    assert isinstance(closing, leaf.Close)
    return closing


def closing(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Callable[[Leaves], Leaves]:
    return lambda leaves: [*leaves[:-1], replace(close_of(leaves), datasets=change(close_of(leaves).datasets))]


def gap(**fields: Any) -> leaf.GapLeaf:
    return leaf.GapLeaf(
        **{"source_id": "camera/image", "first": None, "last": None, "cause": "x", "count": None, "t_from": 0, "t_to": 0} | fields
    )


class Raw:
    """A leaf that is only bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def payload(self) -> bytes:
        return self.data


LIES: dict[str, tuple[Callable[[Leaves], Iterable[Any]], str]] = {
    "nothing at the beginning": (lambda given: given[1:], "leaf 0 is not OPEN"),
    "nothing at the end": (lambda given: given[:-1], "leaf "),
    "two beginnings": (lambda given: [given[0], *given], "leaf 1: a leaf of type 7 does not belong here"),
    "two ends": (lambda given: [*given, given[-1]], "leaf "),
    "no leaves but one": (lambda given: given[:1], "leaf 0, the last one, is not CLOSE"),
    "a leaf of the agent log": (
        inserted(3, lambda _: leaf.Boot(bytes(16), bytes(16), "1", 0)),
        "leaf 3: a leaf of type 64 does not belong",
    ),
    "a vendor file": (inserted(3, lambda _: leaf.FileLeaf("a", 1, bytes(32), bytes(32), 0)), "leaf 3: a leaf of type 10 does not belong"),
    "a leaf of an unknown type": (inserted(3, lambda _: Raw(b"HSC1\x0c\xa0")), "leaf 3: leaf: type 12 is unknown"),
    "an empty leaf": (inserted(3, lambda _: Raw(b"")), "leaf 3: leaf: does not begin with HSC1"),
    "a chunk before its dataset": (dropped(first(leaf.Dataset)), "leaf "),
    "a dataset that is introduced twice": (inserted(3, first(leaf.Dataset)), f"leaf 3: introduces {DATA} a second time"),
    "an unknown dataset": (inserted(3, lambda _: leaf.Dataset(bytes(32))), "leaf 3: introduces a dataset that has no descriptor"),
    "datasets in another order": (lambda g: [g[0], g[2], g[1], *g[3:]], "descriptors: not those that the DATASET leaves introduce"),
    "a chunk of another segment": (
        changed(lambda g: frames_of(g)[2], segment_id=bytes(16)),
        f"leaf 11: {DATA} at (2, 0, 0): a chunk of another",
    ),
    "a chunk off the grid": (
        changed(lambda g: frames_of(g)[2], offset=(2, 1, 0)),
        f"leaf 11: {DATA} at (2, 1, 0): not on a chunk boundary",
    ),
    "a chunk of another rank": (changed(lambda g: frames_of(g)[2], offset=(2,)), f"leaf 11: {DATA} at (2,): not on a chunk boundary"),
    "a mask of no filter": (changed(lambda g: frames_of(g)[2], filter_mask=2), f"leaf 11: {DATA} at (2, 0, 0): filter mask 0x2"),
    "two leaves for one chunk": (
        changed(lambda g: frames_of(g)[2], offset=(1, 0, 0)),
        f"leaf 11: {DATA} at (1, 0, 0): two leaves for one chunk",
    ),
    "a chunk without a number": (
        changed(lambda g: frames_of(g)[2], seq_first=leaf.NO_COUNTER, seq_last=leaf.NO_COUNTER),
        f"leaf 11: {DATA} at (2, 0, 0): does not carry one",
    ),
    "a number whose source does not count": (
        lambda g: [
            replace(item, seq_first=1, seq_last=1) if isinstance(item, leaf.Chunk) and len(item.offset) == 1 else item for item in g
        ],
        "leaf 16: /entry/instrument/camera/image/frame_number at (0,): a number, and its source does not count",
    ),
    "another label": (lambda g: [*g[:-1], replace(close_of(g), policy=bytes(32))], "CLOSE: names another policy than OPEN"),
    "a chunk of two frames": (
        changed(lambda g: frames_of(g)[2], seq_last=13),
        f"leaf 11: {DATA} at (2, 0, 0): does not carry one frame number",
    ),
    "a frame that jumps": (
        changed(lambda g: frames_of(g)[2], seq_first=14, seq_last=14),
        f"leaf 11: {DATA} at (2, 0, 0): frame number 14, and 12 must come next",
    ),
    "a frame twice": (
        changed(lambda g: frames_of(g)[2], seq_first=11, seq_last=11),
        f"leaf 11: {DATA} at (2, 0, 0): frame number 11, and 12 must",
    ),
    "a gap that is not declared": (dropped(first(leaf.GapLeaf)), f"leaf 12: {DATA} at (3, 0, 0): frame number 15, and 13 must come next"),
    "a gap that begins too late": (
        changed(first(leaf.GapLeaf), first=14),
        "leaf 12: gap of camera/image: it begins at 14, and 13 must come next",
    ),
    "a gap without an end": (changed(first(leaf.GapLeaf), last=None), "leaf 12: gap of camera/image: has only one of its two numbers"),
    "a gap that runs backwards": (changed(first(leaf.GapLeaf), last=12), "leaf 12: gap of camera/image: from 13 to 12 is no range"),
    "a reset to another number": (
        inserted(12, lambda _: leaf.SeqReset("camera/image", 12, 99, "restart")),
        "leaf 13: gap of camera/image: it begins",
    ),
    "a beginning that does not follow": (
        changed(first(leaf.Open), last_seq={"camera/image": 3}),
        f"leaf 9: {DATA} at (0, 0, 0): frame number 10, and 4",
    ),
    "another agent": (changed(first(leaf.Open), agent_id=bytes(16)), "OPEN names another agent than the key chain"),
    "another segment": (changed(first(leaf.Open), segment_id=bytes(16)), "leaf "),
    "an unknown reason": (lambda g: [*g[:-1], replace(close_of(g), reason="bored")], "CLOSE: reason 'bored' is unknown"),
    "no metadata": (without(leaf.Meta), "CLOSE: does not name the last META leaf"),
    "metadata of another moment": (
        lambda g: [*g[:-1], replace(close_of(g), meta=first(leaf.Meta)(g).digest)],
        "CLOSE: does not name the last META leaf",
    ),
    "a dataset that was not closed": (closing(lambda d: d[1:]), "CLOSE: does not name every dataset once"),
    "a dataset that was closed twice": (closing(lambda d: (*d, d[0])), "CLOSE: does not name every dataset once"),
    "another number of chunks": (closing(lambda d: ((d[0][0], d[0][1], 7), *d[1:])), f"{DATA}: CLOSE counts 7 chunks, and 6 were signed"),
    "another shape": (closing(lambda d: ((d[0][0], (7, 12, 16), 6), *d[1:])), f"{DATA}: shape (6, 12, 16), and (7, 12, 16) was signed"),
    "a chunk that is not there": (
        lambda g: [
            *g[:-2],
            replace(frames_of(g)[5], offset=(6, 0, 0), seq_first=18, seq_last=18),
            g[-2],
            replace(close_of(g), datasets=((close_of(g).datasets[0][0], (6, 12, 16), 7), *close_of(g).datasets[1:])),
        ],
        f"{DATA} at (6, 0, 0): a signed chunk is missing",
    ),
    "one chunk less": (
        lambda g: closing(lambda d: ((d[0][0], d[0][1], 5), *d[1:]))(dropped(lambda x: frames_of(x)[5])(g)),
        f"{DATA} at (5, 0, 0): a chunk that was not signed",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_segment_whose_signer_breaks_the_rules_is_damaged(lie: str, forge: Any, tmp_path: Path) -> None:
    change, reason = LIES[lie]
    path = forge.frames(tmp_path / "lie.h5").close(leaves=change).path
    report = verify_segment(path, forge.facility.root)
    assert report.level == 0, lie
    assert report.reason.startswith(reason), report.reason


def test_gaps_without_numbers_resets_and_a_first_gap_are_within_the_rules(forge: Any, tmp_path: Path) -> None:
    builder = forge.frames(tmp_path / "a.h5", last_seq={"camera/image": 9, "other/source": 3})
    at = len(builder.leaves) - 6
    builder.leaves[at:at] = [
        gap(),
        gap(source_id="other/source", first=9, last=3),
        leaf.SeqReset("other/source", None, 1, "restart"),
        gap(first=18, last=20, count=3),
        leaf.SeqReset("camera/image", 20, 0, "restart"),
    ]
    report = verify_segment(builder.close().path, forge.facility.root)
    assert (report.level, report.reason) == (2, "")
    assert report.last_seq == {"camera/image": -1}


def test_frame_numbers_that_people_read_must_be_the_signed_ones(forge: Any, tmp_path: Path, rows_of: Any) -> None:
    def builder(name: str, numbers: list[int]) -> Any:
        made = forge.frames(tmp_path / name, n=0)
        stream = next(iter(made.streams.values()))
        from edge_agent.segment import layout

        described = layout.stream_layout(stream, default=True)
        for number in (4, 5, 6):
            made.frame(described, np.zeros(stream.shape, stream.dtype), number)
        made.rows(described.table, rows_of(len(numbers), frame_number=np.array(numbers, "<u8")))
        return made.close().path

    assert verify_segment(builder("right.h5", [4, 5, 6]), forge.facility.root).level == 2
    wrong = verify_segment(builder("wrong.h5", [4, 6, 5]), forge.facility.root)
    assert (wrong.level, wrong.reason) == (0, f"{NUMBER} at (1,): is 6, and {DATA} was signed as frame 5")
    short = verify_segment(builder("short.h5", []), forge.facility.root)
    assert (short.level, short.reason) == (0, f"{NUMBER} at (0,): is missing, and {DATA} was signed as frame 4")


# ---- Heads and keys -------------------------------------------------------------------------------------------------


def test_a_head_that_was_left_out_doubled_or_turned_round_is_noticed(forge: Any, tmp_path: Path) -> None:
    reasons = {
        "none": (lambda heads: [], "heads: there is none"),
        "no close": (lambda heads: heads[:-1], "head 1: the last one, and no close head over all leaves"),
        "first missing": (lambda heads: heads[1:], "head 0: does not follow the one before it"),
        "middle missing": (lambda heads: [heads[0], heads[2]], "head 1: does not follow the one before it"),
        "twice": (lambda heads: [*heads, heads[-1]], "head 2: a close head that is not the last one"),
        "turned": (lambda heads: heads[::-1], "head 0: does not follow the one before it"),
        "garbage": (lambda heads: [b"\0"], "head 0: COSE: not a tagged COSE_Sign"),
    }
    for name, (change, reason) in reasons.items():
        path = forge.frames(tmp_path / f"{name}.h5").close(heads=change).path
        report = verify_segment(path, forge.facility.root)
        assert (report.level, report.reason) == (0, reason), name


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"state": State.OPEN}, "head 2: the last one, and no close head over all leaves"),
        ({"state": State.DAMAGED}, "head 2: the agent itself declared this tree damaged"),
        ({"size": 10**9}, "head 2: over 1000000000 leaves"),
        ({"size": 3}, "head 2: older than the one before it"),
        ({"size": -1}, "head 2: older than the one before it"),
        ({"head_seq": 1}, "head 2: older than the one before it"),
        ({"root": bytes(32)}, "head 2: the first"),
        ({"tree_id": bytes(16)}, "head 2: of another tree"),
        ({"agent_id": bytes(16)}, "head 2: names another agent than its key chain"),
        ({"previous": None}, "head 2: does not follow the one before it"),
        ({"boot_id": bytes(16)}, "head 2: names another boot than its session key"),
    ],
)
def test_a_signed_close_head_that_does_not_fit_is_damage(fields: dict[str, Any], reason: str, forge: Any, tmp_path: Path) -> None:
    path = forge.frames(tmp_path / "a.h5").close(head=lambda head: replace(head, **fields)).path
    report = verify_segment(path, forge.facility.root)
    assert report.level == 0
    assert report.reason.startswith(reason), report.reason


def test_leaves_that_were_swapped_dropped_or_doubled_do_not_give_the_signed_root(forge: Any, tmp_path: Path) -> None:
    changes: dict[str, Callable[[tuple[bytes, ...]], tuple[bytes, ...]]] = {
        "times": lambda p: (*p[:9], p[9].replace(p[9][-24:-16], p[10][-24:-16]), *p[10:]),
        "meta": lambda p: tuple(part for n, part in enumerate(p) if n != 8),
        "swapped": lambda p: (*p[:-4], p[-3], p[-4], *p[-2:]),
        "doubled": lambda p: (*p[:9], p[8], *p[9:]),
    }
    for name, change in changes.items():
        path = forge.frames(tmp_path / f"{name}.h5").close(tables=lambda t, change=change: replace(t, leaves=change(t.leaves))).path
        report = verify_segment(path, forge.facility.root)
        assert report.level == 0, name
        assert report.reason.startswith("head "), report.reason


def test_a_stranger_cannot_sign_for_the_agent(forge: Any, stranger: Any, tmp_path: Path) -> None:
    def judged(name: str, **options: Any) -> str:
        report = verify_segment(forge.frames(tmp_path / f"{name}.h5").close(**options).path, forge.facility.root)
        assert report.level == 0
        return report.reason

    mine, theirs = forge.facility.chain, stranger.chain
    other = cose.sign_all(stranger.keys, cose.HEAD, b"")
    assert judged("key", heads=lambda heads: [*heads[:-1], other]) == "head 2: signed by a key that is not in the key chain"
    assert judged("kind", heads=lambda heads: [forge.facility.record]) == "head 0: COSE: not a tagged COSE_Sign"
    assert judged("chain", tables=lambda t: replace(t, chain=theirs)) == "OPEN names another agent than the key chain"
    assert judged("none", tables=lambda t: replace(t, chain=KeyChain((), ()))) == "key chain: no identity certificate"
    half = KeyChain(mine.certificates, theirs.sessions)
    assert judged("half", tables=lambda t: replace(t, chain=half)).startswith(
        "key chain: a session record is signed by an identity that is not"
    )
    both = KeyChain((*mine.certificates, *theirs.certificates), (*mine.sessions, *theirs.sessions))
    assert judged("both", tables=lambda t: replace(t, chain=both)) == "key chain: identity certificates of several agents"


def test_descriptors_that_name_one_dataset_twice_are_refused(forge: Any, tmp_path: Path) -> None:
    from edge_agent.seal.dsd import parse_dsd

    def doubled(tables: Any) -> Any:
        again = replace(parse_dsd(tables.descriptors[0]), source_id="other/source").encode()
        return replace(tables, descriptors=(*tables.descriptors, again))

    report = verify_segment(forge.frames(tmp_path / "a.h5").close(tables=doubled).path, forge.facility.root)
    assert (report.level, report.reason) == (0, "descriptors: two for one dataset")

    def two_steps(tables: Any) -> Any:
        again = replace(parse_dsd(tables.descriptors[0]), path="/entry/other", step=2).encode()
        return replace(tables, descriptors=(*tables.descriptors, again))

    report = verify_segment(forge.frames(tmp_path / "b.h5").close(tables=two_steps).path, forge.facility.root)
    assert (report.level, report.reason) == (0, "descriptors: two steps for one source")


def test_a_hole_between_chunks_is_damage_although_the_signer_made_it(forge: Any, tmp_path: Path) -> None:
    builder = forge.rows(tmp_path / "a.h5", n=0)
    path = "/entry/instrument/balance/weight/value"
    dsd = builder.file.dsds[path]
    chunk = layout.ROW_CHUNK
    for row, rows in ((0, chunk), (2 * chunk, 3 * chunk)):
        builder._chunk(dsd, "shuffle-zstd", (row,), np.zeros(chunk), rows, leaf.NO_COUNTER)
    report = verify_segment(builder.close().path, forge.facility.root)
    assert (report.level, report.reason) == (0, f"{path} at ({chunk},): no chunk was signed, and readers would see something there")


def test_the_independent_verifier_gives_every_one_of_these_files_the_same_level(frames_file: Path, forge: Any, tmp_path: Path) -> None:
    folder, root = tmp_path / "files", tmp_path / "root.pem"
    folder.mkdir()
    root.write_bytes(forge.facility.root.public_bytes(Encoding.PEM))
    shutil.copy(frames_file, folder / "good.h5")
    for number, (change, _) in enumerate(EDITS.values()):
        path = folder / f"edit {number}.h5"
        shutil.copy(frames_file, path)
        with h5py.File(path, "r+", libver=("earliest", "latest")) as file:
            change(file)
    for number, (change_leaves, _) in enumerate(LIES.values()):
        forge.frames(folder / f"lie {number}.h5").close(leaves=change_leaves)
    theirs = {Path(item["path"]).stem: item["level"] for item in judged(folder, "--root", root)["items"]}
    ours = {path.stem: verify_segment(path, forge.facility.root).level for path in folder.iterdir()}
    assert ours.pop("good") == theirs.pop("good") == 2
    assert set(ours.values()) == {0}
    names = {f"edit {n}": name for n, name in enumerate(EDITS)} | {f"lie {n}": name for n, name in enumerate(LIES)}
    # h5py does not show the chunk options, so a verifier that needs nothing else cannot see them.
    blind = {"edge chunks are to be read without filters"}
    assert {names[key]: level for key, level in theirs.items() if level and names[key] not in blind} == {}
