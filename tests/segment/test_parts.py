"""The smaller parts: writing objects, types in the grammar of the page, the master file, reading back, notes of the verifier."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5o, h5p, h5s

from edge_agent.codec import encoder
from edge_agent.errors import IntegrityError
from edge_agent.model import Kind, Stream
from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError, dumps
from edge_agent.seal.dsd import parse_dsd
from edge_agent.seal.keys import check_chain
from edge_agent.seal.meta import encode_meta
from edge_agent.segment import hdf5, heads, layout, peek, reader, stored, types
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.master import Part, write_master
from edge_agent.segment.numbers import check_numbers
from edge_agent.segment.skeleton import parse_meta
from edge_agent.segment.verify import verify_segment

DATA = "/entry/instrument/camera/image/data"
NUMBER = "/entry/instrument/camera/image/frame_number"
MODIFIED = 0x12
"""The message of an object header that holds when the object was modified (HDF5 file format, IV.A.2.s)."""


@pytest.mark.parametrize("dtype", ["<i8", ">u2", "<f4", ">f8", "|u1", "|S7", "<f2"])
def test_types_of_the_agent_go_to_the_grammar_and_back(dtype: str) -> None:
    assert types.numpy_dtype(types.dtype_grammar(dtype)) == np.dtype(dtype)


def test_the_grammar_is_that_of_the_page() -> None:
    assert types.dtype_grammar("<i4") == ["int", 4, 0, 1, 32, 0]
    assert types.dtype_grammar(">f8") == ["flt", 8, 1, [63, 52, 11, 0, 52], 1023, 64]
    assert types.dtype_grammar("S5") == ["str", 5, 1, 0]
    assert types.dtype_grammar(np.dtype([("a", "u1"), ("b", "<i2", (2,))])) == [
        "cmp", 5, [["a", 0, ["int", 1, 0, 0, 8, 0]], ["b", 1, ["arr", [2], ["int", 2, 0, 1, 16, 0]]]],
    ]  # fmt: skip
    assert types.dtype_grammar(h5py.opaque_dtype(np.dtype("M8[s]")))[:2] == ["opq", 8]
    with pytest.raises(SealError, match="not written by this agent"):
        types.numpy_dtype(["opq", 8, ""])


def test_values_of_every_kind_survive_a_file(tmp_path: Path) -> None:
    wanted = {
        "t": types.text("größe"), "i": types.integer(-5), "f": types.of(1.5), "n": types.of(3), "s": types.of("x"),
        "l": types.texts(["a", ""]), "a": types.array(np.arange(3, dtype="<u2")),
    }  # fmt: skip
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in wanted.items():
            hdf5.set_attribute(file.id, name, value)
            hdf5.write_value(file, name, value)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        found = reader.walk(file).objects
    assert found["/"].attributes == wanted  # type: ignore[union-attr]
    assert {path[1:]: thing.value for path, thing in found.items() if path != "/"} == wanted  # type: ignore[union-attr]


def test_the_metadata_of_a_finished_segment_are_those_that_were_planned(forge: Any, tmp_path: Path) -> None:
    builder = forge.rows(tmp_path / "a.h5")
    builder.close()
    with h5py.File(tmp_path / "a.h5", "r") as file:
        found = reader.walk(file).objects
    planned = builder.file.objects
    # HDF5 makes no difference between a fixed and a variable string only where the plan says so: they are equal to the byte.
    assert encode_meta(found) == encode_meta(planned)
    assert encode_meta(parse_meta(encode_meta(planned))) == encode_meta(planned)


@pytest.mark.parametrize("data", [b"", dumps([]), dumps({"/": 1}), dumps({"/": {}}), dumps({"/": {"k": "d", "a": {"x": [1]}, "t": []}})])
def test_a_skeleton_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(SealError, match="skeleton"):
        parse_meta(data)


def test_rows_are_read_back_without_any_filter_registered(rows_file: Path, frames_file: Path) -> None:
    texts = peek.rows(rows_file, "/entry/instrument/balance/line/value")
    assert texts.shape == (20,)
    assert texts[3] == b"S S    3.000 g"
    frames = peek.rows(frames_file, DATA, 4)
    assert (frames.shape, frames.dtype) == ((2, 12, 16), np.dtype("<u2"))
    assert peek.rows(frames_file, NUMBER, -2).tolist() == [16, 17]
    assert peek.rows(frames_file, NUMBER, 3, 3).tolist() == []


def test_a_master_shows_all_segments_of_a_stream_as_one(forge: Any, tmp_path: Path) -> None:
    parts = []
    for ordinal in (1, 2):
        builder = forge.frames(tmp_path / f"s{ordinal}.h5", ordinal=ordinal, first=10 * ordinal)
        dtypes = {path: types.numpy_dtype(d.type).str for path, d in builder.file.dsds.items()}
        built = builder.close()
        parts.append(Part(built.path.name, builder.file.shapes, dtypes))
    rows = forge.rows(tmp_path / "s3.h5", ordinal=3)
    rows_dtypes = {path: types.numpy_dtype(d.type).str for path, d in rows.file.dsds.items()}
    parts.append(Part(rows.close().path.name, rows.file.shapes, rows_dtypes))
    other = replace(parts[0], shapes={DATA: (3, 9, 9)}, dtypes={DATA: "<u2"})
    write_master(tmp_path / "000123.nxs", forge.run, "BL05", "complete", "{}", [*parts, other])
    code = (
        "import sys, h5py, hdf5plugin\n"
        "with h5py.File(sys.argv[1]) as f:\n"
        "    d = f['entry/data']; print(f['entry/data/data'].shape, f['entry/data/frame_number'][:].tolist(), d.attrs['signal'])\n"
        "    print(f['entry/instrument/balance/weight/value'].shape, int(f['entry/data/data'][7].sum() > 0))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "000123.nxs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    numbers = [10, 11, 12, 15, 16, 17, 20, 21, 22, 25, 26, 27]
    assert done.stdout == f"(12, 12, 16) {numbers} data\n(20,) 1\n"
    assert verify_segment(tmp_path / "000123.nxs", None).reason.endswith(": a virtual dataset")


def test_a_master_says_units_and_sources_and_does_without_a_segment_that_is_gone(forge: Any, tmp_path: Path) -> None:
    builder = forge.rows(tmp_path / "s1.h5")
    dtypes = {path: types.numpy_dtype(d.type).str for path, d in builder.file.dsds.items()}
    part = Part(builder.close().path.name, builder.file.shapes, dtypes)
    for name in ("with.nxs", "without.nxs"):
        write_master(tmp_path / name, forge.run, "BL05", "complete", "{}", [part])
        with h5py.File(tmp_path / name, "r") as file:
            group = file["entry/instrument/balance/weight"]
            assert file["entry/data"].attrs["signal"] == "value"
            assert (group.attrs["NX_class"], group.attrs["signal"]) == ("NXdata", "value")
            assert ("source_uri" in group.attrs, group["value"].attrs["units"]) == ((True, "g") if name == "with.nxs" else (False, ""))
            assert group["time"].attrs["units"] == "ns"
        (tmp_path / part.name).unlink(missing_ok=True)


def test_a_master_of_nothing_is_still_a_file_that_opens(forge: Any, tmp_path: Path) -> None:
    write_master(tmp_path / "m.nxs", forge.run, "BL05", "aborted", "{}", [])
    with h5py.File(tmp_path / "m.nxs", "r") as file:
        assert file["entry/outcome"][()] == b"aborted"


# ---- Faults that only a broken library, disk or signer makes --------------------------------------------------------


def test_a_segment_whose_chunk_index_is_not_what_was_written_is_not_finished(forge: Any, tmp_path: Path) -> None:
    builder = forge.frames(tmp_path / "a.h5")

    def lose(file: SegmentFile) -> None:
        file._datasets[DATA].set_extent((5, 12, 16))

    with pytest.raises(IntegrityError, match="chunk index"):
        builder.close(before=lose)
    builder.file.abandon()


def test_no_dataset_holds_the_time_when_hdf5_wrote_it(frames_file: Path) -> None:
    """Nothing signs it, and a segment that is recovered twice would have other bytes."""
    timed: list[str] = []
    with h5py.File(frames_file) as file:
        file.visititems(lambda name, node: timed.append(name) if h5o.get_info(node.id).hdr.mesg.present & 1 << MODIFIED else None)
        assert len(file["entry"]) > 10
    assert timed == []


def test_filter_values_that_hdf5_changed_are_noticed(tmp_path: Path, forge: Any) -> None:
    builder = forge.frames(tmp_path / "a.h5")
    dsd = replace(builder.file.dsds[DATA], path="/entry/other", filters=((2, 1, (7,)),))
    with h5py.File(tmp_path / "b.h5", "w") as file, pytest.raises(IntegrityError, match="changed the filter values of /entry/other"):
        # HDF5's own shuffle filter sets its value to the size of an element.
        hdf5.create_chunked(file, dsd)
    builder.file.abandon()


def test_an_undefined_fill_value_is_not_the_signed_one(frames_file: Path, tmp_path: Path, forge: Any) -> None:
    builder = forge.frames(tmp_path / "a.h5")
    dsd = builder.file.dsds[DATA]
    builder.file.abandon()
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(dsd.chunk)
    for number, flags, numbers in dsd.filters:
        properties.set_filter(number, flags, numbers)
    _undefine(properties)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        space = h5s.create_simple((0, 12, 16), (h5s.UNLIMITED, 12, 16))
        dataset = h5d.create(file.id, b"x", h5py.h5t.py_create(np.dtype("<u2")), space, properties)
        with pytest.raises(SealError, match="fill value None, and"):
            stored.check_properties(dataset, dsd)


def _undefine(properties: Any) -> None:
    import ctypes

    library = ctypes.CDLL(h5p.__file__)
    library.H5Pset_fill_value.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    assert library.H5Pset_fill_value(properties.id, -1, None) == 0


def test_a_library_that_does_not_tell_the_chunk_options_is_an_error() -> None:
    class Closed:
        id = -1

    with pytest.raises(IntegrityError, match="chunk options"):
        stored.chunk_options(Closed())


def test_a_chunk_outside_of_the_shape_is_refused(forge: Any, tmp_path: Path) -> None:
    def beyond(leaves: list[Any]) -> list[Any]:
        closing = leaves[-1]
        return [*leaves[:-1], replace(closing, datasets=((closing.datasets[0][0], (5, 12, 16), 6), *closing.datasets[1:]))]

    path = forge.frames(tmp_path / "a.h5").close(leaves=beyond).path
    assert verify_segment(path, None).reason == f"{DATA}: shape (6, 12, 16), and (5, 12, 16) was signed"
    with h5py.File(path, "r") as file:
        dataset = file[DATA].id
        chunk = leaf.Chunk(bytes(16), bytes(32), (0, 0, 0), 0, 1, bytes(32), 0)

        class Shrunk:
            shape = (0, 12, 16)

            def chunk_iter(self, note: Any) -> None:
                first: list[Any] = []
                dataset.chunk_iter(first.append)
                note(first[0])
                note(first[0])

        dsd = forge.frames(tmp_path / "b.h5").file.dsds[DATA]
        with pytest.raises(SealError, match="a chunk that was not signed"):
            stored.check_chunks(Shrunk(), dsd, {(0, 0, 0): chunk}, (0, 12, 16))  # type: ignore[arg-type]


def test_frame_numbers_that_do_not_decode_are_damage_and_those_of_another_filter_a_note(forge: Any, tmp_path: Path) -> None:
    def built(name: str, data: bytes, mask: int, filters: tuple[Any, ...] | None = None) -> Path:
        builder = forge.frames(tmp_path / name, n=0)
        stream = builder.streams["camera/image"]
        made = layout.stream_layout(stream, default=True)
        builder.frame(made, np.zeros(stream.shape, stream.dtype), 0)
        dsd = builder.file.dsds[NUMBER]
        builder.file.write_chunk(NUMBER, (0,), data, mask, 1)
        builder.leaves.append(leaf.Chunk(builder.segment_id, dsd.digest(), (0,), mask, len(data), hashlib.sha256(data).digest(), 0))
        return Path(builder.close().path)

    raw = np.zeros(layout.ROW_CHUNK, "<u8")
    assert verify_segment(built("right.h5", raw.tobytes(), 3), None).level == 1
    report = verify_segment(built("garbage.h5", b"garbage", 0), None)
    assert (report.level, report.reason[:31]) == (0, "A stored chunk does not decode.")
    dsd = parse_dsd(forge.frames(tmp_path / "c.h5").file.dsds[NUMBER].encode())
    other = replace(dsd, filters=((32000, 1, ()),))
    note = check_numbers(dsd, {}, other, {}, None)  # type: ignore[arg-type]
    assert note.startswith(f"{NUMBER}: not compared with the signed frame numbers")


def test_a_close_head_of_another_tree_stands_for_nothing(forge: Any, tmp_path: Path) -> None:
    built, _ = forge.file_series(tmp_path)
    trusted = check_chain(forge.facility.chain, None)
    heads.check_close_head(built.heads[0], trusted, built.segment_id, built.leaves)
    with pytest.raises(SealError, match="of another tree"):
        heads.check_close_head(built.heads[0], trusted, bytes(16), built.leaves)


def test_large_items_get_fewer_rows_in_a_chunk() -> None:
    wave = Stream("scope", "trace", Kind.ROWS, "<f4", (100_000,))
    made = layout.stream_layout(wave, default=False)
    assert made.table.chunk == 2
    assert made.table.dsds[0].chunk == (2, 100_000)
    assert encoder(made.codec).name == "shuffle-zstd"
