"""Hostile HDF5 files: the reader refuses them before HDF5 touches anything else on the machine, and says which object it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from edge_agent.seal.cbor import SealError
from edge_agent.seal.meta import DatasetMeta, GroupMeta, HardLink, SoftLink, Value, meta_digest
from edge_agent.segment import reader, types, values
from edge_agent.segment.verify import verify_segment


def walked(path: Path) -> reader.Contents:
    with h5py.File(path, "r") as file:
        return reader.walk(file)


def refused(path: Path) -> str:
    with pytest.raises(SealError) as caught:
        walked(path)
    report = verify_segment(path, None)
    assert (report.level, report.reason) == (0, str(caught.value))
    return report.reason


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hostile.h5"


def test_names_and_values_come_back_as_the_page_says(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["größe"] = np.array([1, 2], ">i2")
        group = file.create_group("b")
        group["text"] = ["one", "two"]
        group["fixed"] = np.array(b"abc", "S5")
        group["flags"] = np.array([True, False])
        file["a-first"] = group
        file["a"] = h5py.SoftLink("/nowhere")
        file["z"] = np.float32(1.5)
        file.create_dataset("chunked", data=[1, 2], chunks=(1,), maxshape=(None,))
    contents = walked(path)
    order = types.dtype_grammar(">i2")
    text: list[Any] = ["vstr", 0, 1]
    assert contents.objects == {
        "/": GroupMeta({"größe": Value(order, (2,), b"\0\1\0\2")}),
        "/a": SoftLink("/nowhere"),
        "/a-first": GroupMeta(),
        "/a-first/fixed": DatasetMeta(["str", 5, 1, 0], {}, Value(["str", 5, 1, 0], None, b"abc\0\0")),
        "/a-first/flags": DatasetMeta(
            ["enum", ["int", 1, 0, 1, 8, 0], [["FALSE", 0], ["TRUE", 1]]],
            {},
            Value(["enum", ["int", 1, 0, 1, 8, 0], [["FALSE", 0], ["TRUE", 1]]], (2,), b"\1\0"),
        ),
        "/a-first/text": DatasetMeta(text, {}, Value(text, (2,), (b"one", b"two"))),
        "/b": HardLink("/a-first"),
        "/chunked": DatasetMeta(types.dtype_grammar("<i8"), {}),
        "/z": DatasetMeta(types.dtype_grammar("<f4"), {}, Value(types.dtype_grammar("<f4"), None, np.float32(1.5).tobytes())),
    }
    assert list(contents.chunked) == ["/chunked"]
    assert len(meta_digest(contents.objects)) == 32


def test_paths_are_ordered_by_their_bytes_and_not_by_their_depth(path: Path) -> None:
    with h5py.File(path, "w") as file:
        inner = file.create_group("a/x")
        file["a-b"] = inner
    # '-' comes before '/', so the link in the root is the first path that reaches the object.
    assert walked(path).objects["/a-b"] == GroupMeta()
    assert walked(path).objects["/a/x"] == HardLink("/a-b")


def test_a_group_that_contains_itself_is_walked_once(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["loop"] = file["/"]
        file["b"] = file.create_group("a")
        file["a/up"] = file["/"]
    assert walked(path).objects == {
        "/": GroupMeta(),
        "/a": GroupMeta(),
        "/a/up": HardLink("/"),
        "/b": HardLink("/a"),
        "/loop": HardLink("/"),
    }


def test_compound_padding_is_zeroed_and_members_are_kept(path: Path) -> None:
    kind = np.dtype({"names": ["a", "b"], "formats": ["u1", ("<u2", (2,))], "offsets": [1, 4], "itemsize": 10})
    noise = np.frombuffer(bytes(range(1, 11)), np.uint8)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("table", (1,), kind)
        dataset.id.write(h5s.ALL, h5s.ALL, noise.view("V10").copy(), dataset.id.get_type())
    thing = walked(path).objects["/table"]
    assert isinstance(thing, DatasetMeta)
    assert thing.value is not None
    assert thing.type[0] == "cmp"
    assert thing.value.data == bytes((0, 2, 0, 0, 5, 6, 7, 8, 0, 0))


def test_used_bytes_of_every_kind_of_type() -> None:
    number = ["int", 2, 0, 0, 16, 0]
    assert values.used_bytes(["opq", 3, "tag"]).tolist() == [True] * 3
    assert values.used_bytes(["enum", number, []]).tolist() == [True] * 2
    assert values.used_bytes(["arr", [2], ["cmp", 3, [["a", 0, number]]]]).tolist() == [True, True, False] * 2
    with pytest.raises(SealError, match="variable-length string inside"):
        values.used_bytes(["arr", [2], ["vstr", 0, 1]])


def test_an_external_link_is_refused_and_its_file_never_opened(path: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary.h5"
    with h5py.File(canary, "w") as file:
        file["secret"] = 42
    before = canary.stat().st_atime_ns
    with h5py.File(path, "w") as file:
        file["entry/out"] = h5py.ExternalLink(str(canary), "/secret")
    assert refused(path) == "/entry/out: an external or user-defined link"
    assert canary.stat().st_atime_ns == before


def test_external_storage_is_refused_before_anything_is_read(path: Path, tmp_path: Path) -> None:
    canary = tmp_path / "secret.bin"
    canary.write_bytes(b"password")
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/secret", (8,), "u1", external=[(str(canary), 0, 8)])
    assert refused(path) == "/entry/secret: external storage"


def test_a_virtual_dataset_is_refused_before_its_sources_are_opened(path: Path, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((2,), "u1", maxshape=(None,))
    layout[:] = h5py.VirtualSource(str(tmp_path / "no-such-file.h5"), "data", (2,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry/virtual", layout)
    assert refused(path) == "/entry/virtual: a virtual dataset"


def write(file: h5py.File, kind: Any, name: bytes = b"x") -> None:
    h5d.create(file.id, name, kind, h5s.create_simple((1,)))


def padded(kind: Any) -> Any:
    made = kind.copy()
    made.set_precision(12)
    made.set_pad(h5t.PAD_ZERO, h5t.PAD_ONE)
    return made


def unnormalised() -> Any:
    made = h5t.IEEE_F32LE.copy()
    made.set_norm(h5t.NORM_NONE)
    return made


HOSTILE: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "an object reference": (lambda f: f.create_dataset("x", data=f["/"].ref, dtype=h5py.ref_dtype), "/x: a type of HDF5 class 7"),
    "a region reference": (
        lambda f: f.attrs.create("x", f.create_dataset("d", data=[1]).regionref[:]),
        "/: attribute x: a type of HDF5 class 7",
    ),
    "a list of variable length": (lambda f: f.create_dataset("x", (1,), h5py.vlen_dtype(np.int32)), "/x: a type of HDF5 class 9"),
    "a bit field": (lambda f: write(f, h5t.STD_B8LE), "/x: a type of HDF5 class 4"),
    "a committed type": (lambda f: f.__setitem__("x", np.dtype("<i4")), "/x: a committed type"),
    "a dataset of a committed type": (
        lambda f: (f.__setitem__("t", np.dtype("<i4")), f.create_dataset("a", data=1, dtype=f["t"])),
        "/a: a committed type",
    ),
    "text within a compound": (
        lambda f: f.create_dataset("x", (1,), np.dtype([("a", "i4"), ("b", h5py.string_dtype())])),
        "/x: a variable-length string inside another type",
    ),
    "chunks of text": (
        lambda f: f.create_dataset("x", data=["a"], chunks=(1,), dtype=h5py.string_dtype()),
        "/x: a variable-length string inside another type",
    ),
    "a fill value": (lambda f: f.create_dataset("x", data=[1], fillvalue=3), "/x: a fill value, in what is not chunked"),
    "an integer with padding of ones": (lambda f: write(f, padded(h5t.STD_I16LE)), "/x: a number whose unused bits are not zero"),
    "a float without an implied one": (lambda f: write(f, unnormalised()), "/x: a float of another kind"),
    "an empty dataspace": (lambda f: f.create_dataset("x", dtype="i4", shape=None), "/x: an empty dataspace"),
    "an empty attribute": (lambda f: f.attrs.create("x", h5py.Empty("i4")), "/: attribute x: an empty dataspace"),
    "a file of sixteen terabytes": (lambda f: f.create_dataset("x", (1 << 44,), "u1"), "/x: 17592186044416 bytes declared where at most"),
    "a billion texts": (lambda f: f.create_dataset("x", (1 << 30,), h5py.string_dtype()), "/x: 1073741824 strings, more than"),
    "a name that is not UTF-8": (lambda f: f.id.links.create_soft(b"\xff", b"/x"), "a name that is not UTF-8"),
    "a target that is not UTF-8": (lambda f: f.id.links.create_soft(b"x", b"/\xff"), "/x: a name that is not UTF-8"),
    "a second name for the tables": (
        lambda f: f.__setitem__("x", f.create_group("entry/integrity")),
        "/entry/integrity: has further links",
    ),
    "a second name for a table": (
        lambda f: f.__setitem__("a", f.create_dataset("entry/integrity/leaves", data=1)),
        "/entry/integrity/leaves: the same object as /a",
    ),
    "a table of text in chunks": (
        lambda f: f.create_dataset("entry/integrity/leaves", data=["a"], chunks=(1,), dtype=h5py.string_dtype()),
        "/entry/integrity/leaves: a variable-length string",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_segment_may_not_hold_is_refused_by_path(what: str, path: Path) -> None:
    make, reason = HOSTILE[what]
    with h5py.File(path, "w") as file:
        make(file)
    assert refused(path).startswith(reason)


def test_a_table_that_is_a_soft_link_does_not_count_as_a_table(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["entry/integrity"] = h5py.SoftLink("/entry/other")
        file.create_group("entry/other")
    report = verify_segment(path, None)
    assert (report.level, report.reason) == (0, "the file has no /entry/integrity: it is not signed")


def test_depth_number_of_objects_links_and_attributes_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("/".join("a" * 40))
    assert refused(path).endswith(f"nested more than {reader.MAX_DEPTH} deep")
    with h5py.File(path, "w") as file:
        for number in range(9):
            file.create_group(f"g{number}")
            file.attrs[str(number)] = 1
    monkeypatch.setattr(reader, "MAX_OBJECTS", 8)
    assert refused(path) == "/: 9 links, more than 8"
    monkeypatch.setattr(reader, "MAX_OBJECTS", 9)
    assert refused(path) == "more than 9 objects"
    monkeypatch.setattr(values, "MAX_ATTRIBUTES", 8)
    assert refused(path) == "/: has 9 attributes, more than 8"


def test_small_arrays_may_not_be_extendible(path: Path, frames_file: Path) -> None:
    data = bytearray(frames_file.read_bytes())
    # The dataspace message of gaps/count: version 1, rank 1, flags 1 (maximal dims follow), dims [1], maximal dims [1].
    message = bytes((1, 1, 1, 0, 0, 0, 0, 0)) + (1).to_bytes(8, "little") * 2
    at = data.index(message)
    data[at + 16 : at + 24] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(data)
    assert "elements that could become more, in what is not chunked" in refused(path)


def test_a_compact_dataset_is_a_small_value_like_any_other(path: Path) -> None:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.COMPACT)
    with h5py.File(path, "w") as file:
        dataset = h5d.create(file.id, b"x", h5t.STD_I16LE, h5s.create_simple((2,)), properties)
        dataset.write(h5s.ALL, h5s.ALL, np.array([1, -1], "<i2"))
    assert walked(path).objects["/x"] == DatasetMeta(
        types.dtype_grammar("<i2"), {}, Value(types.dtype_grammar("<i2"), (2,), b"\1\0\xff\xff")
    )
