"""A slice is handed to a stranger with its proof, and a slice of a whole run is found over its segments; both verifiers agree."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.cli import main
from edge_agent.errors import IntegrityError
from edge_agent.seal.cbor import loads
from edge_agent.seal.keys import KeyChain
from edge_agent.seal.sidecar import NamedFile
from edge_agent.seal.slice_proof import ProvenLeaf, SliceProof, parse_slice_proof
from edge_agent.segment.joined import joined
from edge_agent.segment.judge import judge_sources
from edge_agent.segment.levels import is_proof
from edge_agent.segment.master import Part, write_master
from edge_agent.segment.proof import export, verify_proof
from edge_agent.segment.report import SliceReport, joined_from_json
from edge_agent.segment.run_slice import run_of, verify_run_slice
from edge_agent.segment.slice import parse_bounds, verify_slice
from tests.independent import item, module

CAMERA = "/entry/instrument/camera/image/data"
NUMBER = "/entry/instrument/camera/image/frame_number"
LENGTHS = (6, 4, 5)


@dataclass
class Run:
    """A run of three camera segments and one of rows, with a master file and receipts."""

    folder: Path
    root: Path
    facility: Any

    @property
    def sidecar(self) -> Path:
        return self.folder / "000123.hsc"

    @property
    def master(self) -> Path:
        return self.folder / "000123.nxs"

    def proof(self, text: str = "4:12", dataset: str = CAMERA) -> Path:
        """An exported slice, made once."""
        path = self.folder.parent / f"{text}.hsc1"
        if not path.exists():
            found = verify_run_slice(self.sidecar, dataset, parse_bounds(text), self.facility.root, judge=judged, sources=joined)
            assert found.report.level == 3, found.report
            export(found.places, path)
        return path


def judged(path: Path, dataset: str, text: str, root: Any) -> SliceReport:
    """In this process: these files are our own."""
    return verify_slice(path, dataset, parse_bounds(text), root)


@pytest.fixture(scope="module")
def made(shared_forge: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    forge = shared_forge
    folder = tmp_path_factory.mktemp("run") / "000123"
    folder.mkdir()
    built, first, previous = [], 10, None
    for ordinal, n in enumerate(LENGTHS, 1):
        options = {} if previous is None else {"previous": previous, "last_seq": {"camera/image": first - 1}}
        one = forge.frames(folder / f"000123_camera_image_{ordinal:06d}.h5", n=n, first=first, ordinal=ordinal, **options)
        built.append(one.close(reason="rolled"))
        first += n + 2
        previous = (built[-1].segment_id, built[-1].head)
    built.append(forge.rows(folder / "000123_rows_000004.h5", ordinal=4).close())
    parts = []
    for each in built:
        with h5py.File(each.path) as file:
            names: list[str] = []
            file.visititems(
                lambda name, node, names=names: names.append(f"/{name}") if isinstance(node, h5py.Dataset) and node.chunks else None
            )
            chunked = [name for name in names if not name.startswith("/entry/integrity")]
            parts.append(Part(each.path.name, {n: file[n].shape for n in chunked}, {n: file[n].dtype.str for n in chunked}))
    master = folder / "000123.nxs"
    write_master(master, forge.run, "BL05", "complete", "{}", parts)
    data = master.read_bytes()
    named = NamedFile(master.name, len(data), hashlib.sha256(data).digest())
    forge.sidecar(folder, built, change=lambda said: replace(said, master=named))
    forge.receipts(folder, built)
    root = folder.parent / "root.pem"
    root.write_bytes(forge.facility.root.public_bytes(Encoding.PEM))
    return Run(folder, root, forge.facility)


@pytest.fixture
def copy(made: Run, tmp_path: Path) -> Run:
    folder = tmp_path / "000123"
    shutil.copytree(made.folder, folder)
    return replace(made, folder=folder)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The independent verifier as a module."""
    return module()


def independent(path: Path, root: Path, *more: str) -> dict[str, Any]:
    return item(path, "--root", root, *more)


# ---- a slice of a run


@pytest.mark.parametrize(
    ("text", "segments", "chunks", "bounds"),
    [("0:6", 1, 6, (0, 6)), ("4:12", 3, 8, (4, 12)), ("7", 1, 1, (7, 8)), ("10:,0:3", 1, 5, (10, 15))],
)
def test_the_frames_of_a_run_are_counted_over_its_segments(
    made: Run, text: str, segments: int, chunks: int, bounds: tuple[int, int]
) -> None:
    found = verify_run_slice(made.sidecar, CAMERA, parse_bounds(text), made.facility.root, judge=judged, sources=joined)
    report = found.report
    assert (report.level, report.reason, report.segments, report.chunks, report.bounds[0]) == (3, "", segments, chunks, bounds)
    theirs = independent(made.master, made.root, "--dataset", CAMERA, "--slice", text)
    assert (theirs["level"], theirs["segments"], theirs["chunks"], theirs["leaves"]) == (3, segments, chunks, report.leaves)


def test_soft_links_of_the_master_lead_to_the_dataset(made: Run) -> None:
    found = verify_run_slice(made.sidecar, "/entry/data/data", parse_bounds("8:10"), made.facility.root, judge=judged, sources=joined)
    assert (found.report.level, found.report.dataset, found.report.chunks) == (3, CAMERA, 2)
    assert independent(made.folder, made.root, "--dataset", "/entry/data/data", "--slice", "8:10")["level"] == 3


def test_only_the_segments_that_hold_the_slice_are_opened(copy: Run) -> None:
    for name in ("000123_camera_image_000001.h5", "000123_camera_image_000003.h5", "000123_rows_000004.h5"):
        (copy.folder / name).write_bytes(b"gone")
    found = verify_run_slice(copy.sidecar, CAMERA, parse_bounds("6:10"), copy.facility.root, judge=judged, sources=joined)
    assert (found.report.level, found.report.segments) == (3, 1)
    assert independent(copy.master, copy.root, "--dataset", CAMERA, "--slice", "6:10")["level"] == 3
    found = verify_run_slice(copy.sidecar, CAMERA, parse_bounds("5:10"), copy.facility.root, judge=judged, sources=joined)
    assert (found.report.level, found.report.reason.startswith("000123_camera_image_000001.h5: ")) == (0, True)
    assert independent(copy.master, copy.root, "--dataset", CAMERA, "--slice", "5:10")["level"] == 0


WRONG: dict[str, tuple[Callable[[Run], Any], str, str]] = {
    "outside": (lambda run: None, "14:16", "is empty or outside"),
    "empty": (lambda run: None, "3:3", "is empty or outside"),
    "a segment is gone": (lambda run: (run.folder / "000123_camera_image_000002.h5").unlink(), "4:12", "missing"),
    "another segment in its place": (
        lambda run: shutil.copy(run.folder / "000123_camera_image_000003.h5", run.folder / "000123_camera_image_000002.h5"), "6:8",
        "not the segment that the run statement names",
    ),
    "the master was changed": (lambda run: flip(run.master, 3000), "4:12", "its SHA-256 is not the one that was signed"),
    "the statement was changed": (lambda run: flip(run.sidecar, 400), "4:12", ""),
}  # fmt: skip


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("case", WRONG)
def test_a_slice_of_a_run_that_does_not_hold_is_not_verified(case: str, copy: Run) -> None:
    change, text, reason = WRONG[case]
    change(copy)
    report = verify_run_slice(copy.sidecar, CAMERA, parse_bounds(text), copy.facility.root, judge=judged, sources=joined).report
    assert (report.level, reason in report.reason) == (0, True), report.reason
    assert independent(copy.sidecar, copy.root, "--dataset", CAMERA, "--slice", text)["level"] == 0


def test_what_a_master_does_not_join_is_said(made: Run, tmp_path: Path) -> None:
    for dataset in ("/entry/title", "/entry/instrument", "/nothing"):
        assert joined(made.master, dataset).error
        assert judge_sources(made.master, dataset) == joined(made.master, dataset)
        assert independent(made.master, made.root, "--dataset", dataset)["level"] == 0
    assert judge_sources(made.master, CAMERA).members == tuple(
        (f"000123_camera_image_{n:06d}.h5", length) for n, length in enumerate(LENGTHS, 1)
    )
    (tmp_path / "a.nxs").write_bytes(b"no file")
    assert "HDF5 cannot read a.nxs" in judge_sources(tmp_path / "a.nxs", CAMERA).error
    with h5py.File(tmp_path / "b.nxs", "w", libver=("earliest", "v110")) as file:
        virtual = h5py.VirtualLayout((4,), "<i4")
        virtual[1:4] = h5py.VirtualSource("x.h5", "/d", (4,), "<i4")[0:3]
        file.create_virtual_dataset("d", virtual)
    assert "is not the whole dataset of the next segment" in joined(tmp_path / "b.nxs", "/d").error
    with pytest.raises(ValueError, match="not what a master joins"):
        joined_from_json({"dataset": "x", "members": 1, "error": ""})


def test_which_run_a_path_stands_for(made: Run, tmp_path: Path) -> None:
    assert run_of(made.folder) == run_of(made.master) == run_of(made.sidecar) == made.sidecar
    assert run_of(made.folder / "000123_camera_image_000001.h5") is None
    assert run_of(tmp_path) is None


# ---- an exported slice


def test_an_exported_slice_is_verified_without_any_segment(made: Run, tmp_path: Path) -> None:
    path = shutil.copy(made.proof(), tmp_path / "slice.hsc1")
    assert is_proof(path)
    report = verify_proof(path, made.facility.root)
    assert (report.level, report.reason, report.segments, report.chunks, report.first, report.last) == (3, "", 3, 8, 16, 25)
    theirs = independent(path, made.root)
    assert (theirs["level"], theirs["kind"], theirs["segments"], theirs["chunks"], theirs["leaves"]) == (3, "slice", 3, 8, report.leaves)
    assert (min(theirs["numbers"]), max(theirs["numbers"])) == (16, 25)
    assert verify_proof(path, None).level == 1
    proof = parse_slice_proof(path.read_bytes())
    assert proof.encode() == path.read_bytes()
    with h5py.File(made.folder / "000123_camera_image_000002.h5") as file:
        assert proof.parts[1].chunks[0] == file[CAMERA].id.read_direct_chunk((0, 0, 0))[1]
        units = loads(proof.parts[1].meta, "META")[CAMERA]["a"]["units"]
        assert units[2] == [file[CAMERA].attrs["units"].encode()]


def test_a_segment_alone_exports_what_it_has(forge: Any, stranger: Any, tmp_path: Path) -> None:
    built = forge.frames(tmp_path / "a.h5").close()
    path = tmp_path / "slice.hsc1"
    export([(built.path, "/entry/data/data", parse_bounds("2:4"))], path)
    built.path.unlink()
    root = tmp_path / "root.pem"
    root.write_bytes(forge.facility.root.public_bytes(Encoding.PEM))
    report = verify_proof(path, forge.facility.root)
    assert (report.level, report.dataset, report.chunks, report.bounds[0], report.segments) == (2, CAMERA, 2, (2, 4), 1)
    assert independent(path, root)["level"] == 2
    assert verify_proof(path, stranger.root).level == 1


def test_what_does_not_hold_or_is_too_large_is_not_exported(made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad.h5"
    bad.write_bytes((made.folder / "000123_camera_image_000001.h5").read_bytes()[:5000])
    target = tmp_path / "slice.hsc1"
    with pytest.raises(IntegrityError, match=r"bad.h5 is not exported"):
        export([(bad, CAMERA, ())], target)
    with pytest.raises(IntegrityError, match="outside of the signed shape"):
        export([(made.folder / "000123_camera_image_000001.h5", CAMERA, parse_bounds("0:99"))], target)
    monkeypatch.setattr("edge_agent.segment.proof.MOST", 100)
    with pytest.raises(IntegrityError, match="at most 100 are exported"):
        export([(made.folder / "000123_camera_image_000001.h5", CAMERA, ())], target)
    assert not target.exists()


def test_no_flipped_byte_of_an_exported_slice_goes_unnoticed(made: Run, tool: ModuleType, tmp_path: Path) -> None:
    """Every 197th; what is wrong in the receipts costs the level that they give, what is wrong in certificates the trust."""
    path = made.proof("5:8,0:12", CAMERA)
    data, roots = path.read_bytes(), tool.load_roots(str(made.root))
    changed = tmp_path / "changed.hsc1"
    for at in range(0, len(data), 197):
        other = bytearray(data)
        other[at] ^= 1 << at % 8
        changed.write_bytes(other)
        ours = verify_proof(changed, made.facility.root)
        assert ours.level < 3, at
        try:
            found = tool.read_proof(str(changed), roots)
            level = tool.together("", [tool.slice_line("", part, roots, found["run"]) for part in found["parts"]])["level"]
        except Exception:  # what a child process answers with level 0
            level = 0
        assert level == ours.level, (at, ours.reason)


def edit(part: int, **fields: Any) -> Callable[[SliceProof], SliceProof]:
    """A proof of which one part has other fields."""

    def change(proof: SliceProof) -> SliceProof:
        made = {name: value(getattr(proof.parts[part], name)) if callable(value) else value for name, value in fields.items()}
        parts = list(proof.parts)
        parts[part] = replace(parts[part], **made)
        return replace(proof, parts=tuple(parts))

    return change


def renumbered(leaves: tuple[ProvenLeaf, ...]) -> tuple[ProvenLeaf, ...]:
    return (*leaves[:2], replace(leaves[2], number=leaves[2].number + 1), *leaves[3:])


LIES: dict[str, Callable[[SliceProof], SliceProof]] = {
    "chunks swapped": edit(0, chunks=lambda chunks: chunks[::-1]),
    "leaves swapped": edit(0, leaves=lambda leaves: (*leaves[:2], *leaves[:1:-1])),
    "both swapped": lambda proof: edit(0, leaves=lambda leaves: (*leaves[:2], *leaves[:1:-1]))(edit(0, chunks=lambda c: c[::-1])(proof)),
    "a chunk dropped": edit(0, chunks=lambda chunks: chunks[1:]),
    "a chunk and its leaf dropped": edit(0, chunks=lambda chunks: chunks[1:], leaves=lambda leaves: (*leaves[:2], *leaves[3:])),
    "a chunk doubled": edit(0, chunks=lambda c: (*c, c[0]), leaves=lambda leaves: (*leaves, leaves[2])),
    "a leaf at another place": edit(0, leaves=renumbered),
    "no OPEN": edit(0, leaves=lambda leaves: leaves[1:]),
    "OPEN twice": edit(0, leaves=lambda leaves: (leaves[0], leaves[0], *leaves[2:])),
    "other bounds": edit(0, bounds=((3, 5), (0, 12), (0, 16))),
    "bounds below zero": edit(0, bounds=((-1, 1), (0, 12), (0, 16))),
    "fewer axes": edit(0, bounds=((4, 6),)),
    "no axes": edit(0, bounds=()),
    "another unit": edit(0, meta=lambda meta: meta.replace(b"count", b"photo")),
    "another descriptor": lambda proof: edit(0, dsd=lambda dsd: dsd.replace(b"/data", b"/date"))(proof),
    "the head of the next segment": lambda proof: edit(0, head=proof.parts[1].head)(proof),
    "the leaves of the next segment": lambda proof: edit(0, leaves=proof.parts[1].leaves, chunks=proof.parts[1].chunks)(proof),
    "no keys": edit(0, chain=KeyChain((), ())),
    "parts in another order": lambda proof: replace(proof, parts=proof.parts[::-1]),
    "a part twice": lambda proof: replace(proof, parts=(proof.parts[0], *proof.parts)),
    "no parts": lambda proof: replace(proof, parts=()),
    "another dataset": lambda proof: replace(proof, dataset=NUMBER),
    "no run statement": lambda proof: replace(proof, sidecar=None),
    "no statement, with receipts": lambda proof: replace(proof, sidecar=None, parts=proof.parts[:1]),
    "a statement cut": lambda proof: replace(proof, sidecar=(proof.sidecar or b"")[:-1]),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_exported_slice_that_was_put_together_otherwise_is_not_verified(lie: str, made: Run, tool: ModuleType, tmp_path: Path) -> None:
    changed = tmp_path / "changed.hsc1"
    changed.write_bytes(LIES[lie](parse_slice_proof(made.proof().read_bytes())).encode())
    assert verify_proof(changed, made.facility.root).level == 0
    with pytest.raises((tool.Bad, LookupError, ValueError, TypeError)):
        tool.read_proof(str(changed), tool.load_roots(str(made.root)))


def test_a_part_of_another_run_is_not_one_of_this(made: Run, forge: Any, tool: ModuleType, tmp_path: Path) -> None:
    forge.frames(tmp_path / "b.h5", ordinal=4).close()
    export([(tmp_path / "b.h5", CAMERA, parse_bounds("0:1"))], tmp_path / "other.hsc1")
    (foreign,) = parse_slice_proof((tmp_path / "other.hsc1").read_bytes()).parts
    proof = parse_slice_proof(made.proof().read_bytes())
    changed = tmp_path / "changed.hsc1"
    for lie in (replace(proof, parts=(*proof.parts, foreign)), replace(proof, parts=(foreign,))):
        changed.write_bytes(lie.encode())
        assert verify_proof(changed, made.facility.root).level == 0
        with pytest.raises(tool.Bad):
            tool.read_proof(str(changed), tool.load_roots(str(made.root)))


def test_what_does_not_begin_like_an_exported_slice_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert not is_proof(tmp_path / "a")
    assert not is_proof(tmp_path)


def test_the_verb_exports_a_slice_of_a_run_and_verifies_it_alone(made: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "for you.hsc1"
    asked = ["verify", str(made.master), "--dataset", "/entry/data/data", "--slice", "5:7", "--root", str(made.root), "--level", "3"]
    assert main([*asked, "--export", str(target)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{made.sidecar} {CAMERA}[5:7,0:12,0:16]  witnessed, 2 chunks of ")
    assert main(["verify", str(target), "--root", str(made.root), "--level", "3"]) == 0
    assert "  witnessed, 2 chunks of " in capsys.readouterr().out
    assert main(["verify", str(target), "--json"]) == 7
    assert json.loads(capsys.readouterr().out)["items"][0]["kind"] == "slice"
    flip(target, 3000)
    assert main(["verify", str(target), "--root", str(made.root)]) == 7
    assert main(["verify", str(made.master), "--dataset", "/nothing", "--export", str(tmp_path / "none")]) == 7
    assert not (tmp_path / "none").exists()
