"""What `verify_run` says of whole runs: complete ones, witnessed ones, and runs of which something was changed or taken away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edge_agent.seal import cose, leaf
from edge_agent.seal.head import State
from edge_agent.seal.keys import KeyChain
from edge_agent.seal.receipt import Custody, Inclusion, Receipts, Witness, parse_receipts, parse_witness
from edge_agent.seal.sidecar import NamedFile, Sidecar, parse_run, parse_sidecar
from edge_agent.seal.tree import inclusion_proof, leaf_hash, root_of
from edge_agent.segment.levels import verify_path
from edge_agent.segment.report import GapCount, RunReport, SegmentReport
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment


@dataclass
class Made:
    """A finished run of two segments and a series of one vendor file."""

    forge: Any
    folder: Path
    first: Any
    second: Any
    series: Any
    files: list[NamedFile]

    def judge(self) -> RunReport:
        return verify_run(self.folder, self.forge.facility.root, judge=verify_segment)

    def sign(self, **options: Any) -> None:
        """Write the sidecar again."""
        self.forge.sidecar(self.folder, [self.first, self.second], **{"series": [self.series], "files": self.files} | options)


@pytest.fixture(scope="session")
def template(shared_forge: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Built once; every test gets a copy."""
    forge, folder = shared_forge, tmp_path_factory.mktemp("run")
    first = forge.frames(folder / "000123_camera_image_000001.h5").close(reason="rolled")
    follow = {"first": 18, "previous": (first.segment_id, first.head), "last_seq": {"camera/image": 17}}
    second = forge.frames(folder / "000123_camera_image_000002.h5", ordinal=2, **follow).close()
    series, files = forge.file_series(folder, ordinal=3)
    run = Made(forge, folder, first, second, series, files)
    run.sign(**{"ro-crate-metadata.json": b"{}", "preview.png": b"png"})
    return run


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    folder = tmp_path / "000123"
    shutil.copytree(template.folder, folder)
    parts = (template.first, template.second, template.series)
    first, second, series = (replace(part, path=folder / part.path.relative_to(template.folder)) for part in parts)
    return Made(replace(template.forge), folder, first, second, series, list(template.files))


def test_a_complete_run_is_signed_and_says_what_it_holds(made: Made) -> None:
    report = made.judge()
    assert (report.level, report.reason) == (2, "")
    assert [s.ordinal for s in report.segments] == [1, 2]
    assert (report.files, report.chunks, report.outcome, report.run_no) == (1, 24, "complete", 123)
    assert report.gaps == (GapCount("camera/image", 2, 4),)
    assert report.notes == ("no receipts beside the run yet",)
    assert verify_run(made.folder / "000123.hsc", made.forge.facility.root).level == 2


def test_without_a_root_a_run_is_only_intact(made: Made, stranger: Any) -> None:
    unknown = verify_run(made.folder, None, judge=verify_segment)
    assert (unknown.level, unknown.reason) == (1, "signed by an unknown key")
    other = verify_run(made.folder, stranger.root, judge=verify_segment)
    assert (other.level, other.reason) == (1, "the key chain does not lead to the given root")


def test_receipts_under_the_root_make_a_run_witnessed(made: Made) -> None:
    made.forge.receipts(made.folder, [made.first, made.second, made.series])
    report = made.judge()
    assert (report.level, report.reason, report.witnessed, report.notes) == (3, "", 3, ())
    assert report.witnessed_ns == 1_795_000_000_000_000_005
    assert report.as_json()["segments"][0]["level"] == 2


def receipts(made: Made, change: Callable[[Receipts], Receipts]) -> tuple[int, str]:
    """Level and note of the run with other receipts."""
    made.forge.receipts(made.folder, [made.first, made.second, made.series], change=change)
    report = made.judge()
    assert report.reason == ""
    (note,) = report.notes or ("",)
    return report.level, note


def custody(made: Made, **fields: Any) -> bytes:
    entry = parse_run(cose.payload_of(parse_sidecar((made.folder / "000123.hsc").read_bytes()).statement)).segments[0]
    agent = made.forge.facility.agent_id
    said = Custody(agent, entry.segment_id, entry.head, entry.sha256, entry.size, "folder", "fsynced", 1, "a")
    return cose.sign(made.forge.facility.receipts_key, cose.CUSTODY, replace(said, **fields).payload())


def test_custody_receipts_are_no_witnesses_and_must_be_right(made: Made) -> None:
    right = custody(made)
    assert receipts(made, lambda r: replace(r, receipts=(*r.receipts, right, custody(made, segment_id=bytes(16), head=bytes(32))))) == (
        3,
        "",
    )
    assert receipts(made, lambda r: replace(r, receipts=(right,)))[0] == 2
    for fields, note in (
        ({"sha256": bytes(32)}, "custody of other bytes than those of segment 1"),
        ({"size": 1}, "custody of other bytes than those of segment 1"),
        ({"agent_id": bytes(16)}, "of another agent, or of an unknown kind of proof"),
        ({"durable": "perhaps"}, "of another agent, or of an unknown kind of proof"),
    ):
        wrong = custody(made, **fields)
        assert receipts(made, lambda r, wrong=wrong: replace(r, receipts=(wrong, *r.receipts))) == (
            2,
            f"000123.receipts: receipt 0: {note}",
        )


def test_one_receipt_or_proof_that_does_not_hold_and_the_run_is_only_signed(made: Made, stranger: Any) -> None:
    def witness(**fields: Any) -> bytes:
        made.forge.receipts(made.folder, [made.first, made.second, made.series])
        known = parse_witness(cose.parse(parse_receipts((made.folder / "000123.receipts").read_bytes()).receipts[0]).payload)
        return cose.sign(made.forge.facility.receipts_key, cose.WITNESS, replace(known, **fields).payload())

    unknown = "000123.receipts: receipt 0: not signed by a receipt key under the given root"
    by_stranger = cose.sign(stranger.receipts_key, cose.WITNESS, cose.parse(witness()).payload)
    assert receipts(made, lambda r: replace(r, receipts=(by_stranger,))) == (2, unknown)
    assert receipts(made, lambda r: replace(r, certificates=())) == (2, unknown)
    assert receipts(made, lambda r: replace(r, certificates=(b"x", *r.certificates)))[1].startswith(
        "000123.receipts: certificate: "
    )
    assert receipts(made, lambda r: replace(r, receipts=(b"x",)))[1].startswith("000123.receipts: receipt 0: COSE: ")
    other, fork, later = witness(agent_id=bytes(16)), witness(root=bytes(32)), witness(t_ns=9 * 10**18)
    assert receipts(made, lambda r: replace(r, receipts=(other,))) == (2, "000123.receipts: receipt 0: of another agent")
    forked = "000123.receipts: receipt 1: a fork, another root of the same log and size"
    assert receipts(made, lambda r: replace(r, receipts=(*r.receipts, fork))) == (2, forked)
    assert receipts(made, lambda r: replace(r, receipts=(later, *r.receipts))) == (3, "")
    assert made.judge().witnessed_ns == 1_795_000_000_000_000_005

    def first(**fields: Any) -> Callable[[Receipts], Receipts]:
        return lambda r: replace(r, inclusions=(replace(r.inclusions[0], **fields), *r.inclusions[1:]))

    nowhere = "000123.receipts: proof 0: leads to no valid witness"
    for fields in ({"index": 2}, {"payload": b"x"}, {"log_id": bytes(16)}, {"size": 3}, {"proof": ()}):
        assert receipts(made, first(**fields)) == (2, nowhere)
    assert receipts(made, lambda r: replace(r, receipts=())) == (2, nowhere)
    assert receipts(made, lambda r: replace(r, inclusions=r.inclusions[:2])) == (2, "2 of 3 segments are witnessed")
    (made.folder / "000123.receipts").write_bytes(b"x")
    assert made.judge().notes[0].startswith("000123.receipts: receipts: ")


def test_a_witness_of_another_head_does_not_count(made: Made) -> None:
    other = replace(made.first, head=bytes(32))
    made.forge.receipts(made.folder, [other, made.second, made.series])
    assert (made.judge().level, made.judge().witnessed) == (2, 2)


def test_other_leaves_of_a_witnessed_log_are_no_segments_and_garbage_is_refused(made: Made) -> None:
    facility, log_id = made.forge.facility, b"another log id 1"

    def change(log: list[bytes]) -> Callable[[Receipts], Receipts]:
        hashed = [leaf_hash(payload) for payload in log]
        witness = Witness(facility.agent_id, log_id, len(log), root_of(hashed), bytes(32), 1)
        proofs = tuple(Inclusion(log_id, len(log), n, payload, tuple(inclusion_proof(hashed, n))) for n, payload in enumerate(log))
        signed = cose.sign(facility.receipts_key, cose.WITNESS, witness.payload())
        return lambda r: replace(r, receipts=(*r.receipts, signed), inclusions=(*r.inclusions, *proofs))

    boot = leaf.Boot(facility.agent_id, facility.boot_id, "1", 0).payload()
    assert receipts(made, change([boot, boot])) == (3, "")
    assert receipts(made, change([boot, b"no leaf"]))[1].startswith("000123.receipts: proof 4: leaf: ")


def test_a_run_without_data_is_signed_at_most(forge: Any, tmp_path: Path) -> None:
    forge.sidecar(tmp_path, [])
    forge.receipts(tmp_path, [])
    report = verify_run(tmp_path, forge.facility.root)
    assert (report.level, report.notes) == (2, ("0 of 0 segments are witnessed",))


FIRST = "000123_camera_image_000001.h5"
SECOND = "000123_camera_image_000002.h5"


def append(name: str) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        with (made.folder / name).open("ab") as file:
            file.write(b"\0")

    return change


def flip(name: str, at: int = -1) -> Callable[[Made], None]:
    def change(made: Made) -> None:
        data = bytearray((made.folder / name).read_bytes())
        data[at] ^= 1
        (made.folder / name).write_bytes(data)

    return change


def swap(made: Made) -> None:
    (made.folder / FIRST).rename(made.folder / "x")
    (made.folder / SECOND).rename(made.folder / FIRST)
    (made.folder / "x").rename(made.folder / SECOND)


def resealed(change: Callable[[Sidecar], Sidecar]) -> Callable[[Made], None]:
    def apply(made: Made) -> None:
        path = made.folder / "000123.hsc"
        path.write_bytes(change(parse_sidecar(path.read_bytes())).encode())

    return apply


def restated(change: Callable[[Any], Any]) -> Callable[[Made], None]:
    return lambda made: made.sign(change=change)


def entries(change: Callable[[list[Any]], list[Any]]) -> Callable[[Made], None]:
    return restated(lambda s: replace(s, segments=tuple(change(list(s.segments)))))


def entry(number: int, **fields: Any) -> Callable[[Made], None]:
    return entries(lambda e: [replace(x, **fields) if n == number else x for n, x in enumerate(e)])


def tree(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Made], None]:
    return resealed(lambda s: replace(s, trees={key: tuple(change(list(leaves))) for key, leaves in s.trees.items()}))


def unlink(name: str) -> Callable[[Made], None]:
    return lambda made: (made.folder / name).unlink()


def outside(name: str) -> Callable[[Made], None]:
    return restated(lambda s: replace(s, master=NamedFile(name, 1, bytes(32))))


VENDOR = "files/scan 01.csv"

WRONG: dict[str, tuple[Callable[[Made], Any], str]] = {
    "a segment is missing": (unlink(SECOND), f"{SECOND}: missing"),
    "a segment has slack bytes flipped": (append(FIRST), f"{FIRST}: has "),
    "a segment's data were flipped": (flip(FIRST, 30_000), f"{FIRST}: "),
    "two segments were swapped": (swap, f"{FIRST}: not the segment that the run statement names"),
    "a vendor file is missing": (unlink(VENDOR), f"{VENDOR}: missing"),
    "a vendor file was changed": (flip(VENDOR), f"{VENDOR}: its SHA-256 is not the one that was signed"),
    "a vendor file is longer": (append(VENDOR), f"{VENDOR}: has 12001 bytes, and 12000 were signed"),
    "the crate is missing": (unlink("ro-crate-metadata.json"), "ro-crate-metadata.json: missing"),
    "the preview was changed": (flip("preview.png"), "preview.png: its SHA-256 is not the one that was signed"),
    "the sidecar is missing": (unlink("000123.hsc"), "no .hsc file in this folder: no run, or one that is still open"),
    "there are two sidecars": (lambda m: shutil.copy(m.folder / "000123.hsc", m.folder / "2.hsc"), "2 .hsc files in this folder"),
    "the sidecar is cut": (lambda m: os.truncate(m.folder / "000123.hsc", 500), "sidecar: cut short"),
    "the sidecar is empty": (lambda m: os.truncate(m.folder / "000123.hsc", 0), "sidecar: cut short"),
    "the statement was changed": (
        resealed(lambda s: replace(s, statement=s.statement[:-1] + bytes((s.statement[-1] ^ 1,)))),
        "run statement: COSE: the signature is wrong",
    ),
    "a head was left out": (resealed(lambda s: replace(s, heads=s.heads[1:])), "2 close heads for 3 segments"),
    "a head stands twice": (resealed(lambda s: replace(s, heads=(s.heads[0], s.heads[0], s.heads[2]))), "2 close heads for 3 segments"),
    "a head is garbage": (resealed(lambda s: replace(s, heads=(b"", *s.heads[1:]))), "close head 1: COSE: cut short"),
    "the key chain is empty": (resealed(lambda s: replace(s, chain=KeyChain((), ()))), "key chain: no identity certificate"),
    "the tree of the files is missing": (resealed(lambda s: replace(s, trees={})), "the trees of vendor files are not those of the run"),
    "the tree of the files is another": (
        resealed(lambda s: replace(s, trees={bytes(16): next(iter(s.trees.values()))})),
        "the trees of vendor files are not those of the run",
    ),
    "a leaf of the files was dropped": (tree(lambda t: [t[0], t[2]]), "segment 3 (vendor files): the last one, and no close head over all"),
    "a leaf of the files was changed": (
        tree(lambda t: [t[0], leaf.FileLeaf("a", 1, bytes(32), bytes(32), 0).payload(), t[2]]),
        "segment 3 (vendor files): close head: the leaves are not those that were signed",
    ),
    "the files end with nothing": (tree(lambda t: t[:2]), "segment 3 (vendor files): leaf 1, the last one, is not CLOSE"),
    "the files hold a dataset": (
        tree(lambda t: [t[0], leaf.Dataset(bytes(32)).payload(), t[2]]),
        "segment 3 (vendor files): leaf 1: a leaf of type 2 does not belong",
    ),
    "the files are of another run": (
        restated(lambda s: replace(s, run_id=bytes(16))),
        f"{FIRST}: not the segment that the run statement names",
    ),
    "a vendor file is not stated": (restated(lambda s: replace(s, files=())), "the vendor files of the run statement are not those"),
    "a vendor file is stated twice": (restated(lambda s: replace(s, files=(*s.files, *s.files))), "the vendor files of the run statement"),
    "another label is stated": (restated(lambda s: replace(s, policy=bytes(32))), f"{FIRST}: not the segment that the run statement names"),
    "fewer gaps are stated": (
        restated(lambda s: replace(s, gaps=())),
        "run statement: the gaps of camera/image are not those of its segments",
    ),
    "another number of missing frames is stated": (
        restated(lambda s: replace(s, gaps=(("camera/image", 2, None),))),
        "run statement: the gaps of camera/image are not those of its segments",
    ),
    "another agent is stated": (
        restated(lambda s: replace(s, agent_id=bytes(16))),
        "run statement: names another agent than its key chain",
    ),
    "a segment is not stated": (entries(lambda e: e[1:]), "run statement: segment 2 stands where segment 1 belongs"),
    "segments stand in another order": (entries(lambda e: [e[1], e[0], e[2]]), "run statement: segment 2 stands where segment 1 belongs"),
    "another head is stated": (entry(0, head=bytes(32)), "segment 1: no close head for it"),
    "another state is stated": (entry(0, state=2), "segment 1: no close head for it"),
    "another segment is stated": (entry(0, segment_id=bytes(16)), "segment 1: no close head for it"),
    "another name is stated": (entry(0, name=SECOND), f"{SECOND}: not the segment that the run"),
    "a name outside of the run is stated": (
        entry(0, name="../000123/" + FIRST),
        f"{FIRST}: '../000123/{FIRST}': not a path within the run",
    ),
    "an absolute master is stated": (outside("/etc/passwd"), "'/etc/passwd': not a path within the run"),
    "a master on another drive is stated": (outside("C:/master.nxs"), "'C:/master.nxs': not a path within the run"),
    "a master behind back-slashes is stated": (outside("..\\master.nxs"), r"'..\\master.nxs': not a path within the run"),
    "a nameless master is stated": (outside(""), "'': not a path within the run"),
    "a master that is a folder is stated": (outside("files"), "files: missing"),
    "a master of another size is stated": (outside(FIRST), f"{FIRST}: has "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_run_of_which_something_is_wrong_is_damaged_and_the_first_thing_is_named(what: str, made: Made) -> None:
    change, reason = WRONG[what]
    change(made)
    report = made.judge()
    assert report.level == 0, what
    assert report.reason.startswith(reason), report.reason


def test_a_statement_that_a_stranger_signed_is_refused(made: Made, stranger: Any) -> None:
    path = made.folder / "000123.hsc"
    sidecar = parse_sidecar(path.read_bytes())
    payload = cose.payload_of(sidecar.statement)
    path.write_bytes(replace(sidecar, statement=cose.sign_all(stranger.keys, cose.RUN, payload)).encode())
    assert made.judge().reason == "run statement: signed by a key that is not in the key chain"


def test_a_vendor_file_whose_pieces_differ_from_their_root_is_damaged(made: Made) -> None:
    content = b"vendor data\n" * 1000
    made.series, made.files = made.forge.file_series(made.folder, ordinal=3, content=content)
    wrong = replace(leaf.parse(made.series.leaves[1]), root=bytes(32))  # type: ignore[type-var]
    resigned = _series_with(made, [made.series.leaves[0], wrong.payload(), made.series.leaves[2]])
    made.series = resigned
    made.sign()
    assert made.judge().reason == f"{VENDOR}: its pieces are not those that were signed"


def test_the_series_of_another_segment_or_of_another_run_is_not_this_one(made: Made) -> None:
    opening = leaf.parse(made.series.leaves[0])
    assert isinstance(opening, leaf.Open)
    for fields in ({"ordinal": 9}, {"run_no": 9}, {"segment_id": bytes(16)}, {"agent_id": bytes(16)}):
        made.series = _series_with(made, [replace(opening, **fields).payload(), *made.series.leaves[1:]])
        made.sign()
        assert made.judge().reason.startswith("segment 3 (vendor files): "), fields
        assert made.judge().level == 0
    made.series = replace(_series_with(made, made.series.leaves), segment_id=bytes(16))
    made.sign()
    assert made.judge().reason == "segment 3: no close head for it"


def _series_with(made: Made, leaves: list[bytes]) -> Any:
    from edge_agent.seal.head import head_hash
    from edge_agent.seal.tree import Frontier

    frontier = Frontier()
    for payload in leaves:
        frontier.append(payload)
    head = made.forge.facility.head(made.series.segment_id, frontier, 0, None, State.CLOSED)
    return replace(made.series, leaves=leaves, heads=[made.forge.facility.sign_head(head)], head=head_hash(head))


def test_a_vendor_file_has_one_leaf_in_one_series(made: Made) -> None:
    wanted = f"segment 3 (vendor files): leaf 2: {VENDOR}: a second leaf for one file"
    made.series = _series_with(made, [made.series.leaves[0], made.series.leaves[1], *made.series.leaves[1:]])
    made.sign()
    assert (made.judge().level, made.judge().reason) == (0, wanted)
    series, files = made.forge.file_series(made.folder, ordinal=3)
    again, _ = made.forge.file_series(made.folder, ordinal=4)
    made.forge.sidecar(made.folder, [made.first, made.second], series=[series, again], files=files)
    assert made.judge().reason == f"segment 4 (vendor files): {VENDOR}: a second leaf for one file"


def test_an_empty_vendor_file_and_one_of_several_pieces_verify(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", os.urandom(leaf.PIECE) + b"tail"):
        made.series, made.files = made.forge.file_series(made.folder, ordinal=3, content=content)
        made.sign()
        assert made.judge().level == 2


def test_a_segment_must_follow_the_one_that_it_names(forge: Any, tmp_path: Path) -> None:
    def judged(name: str, previous: Callable[[Any], Any], **options: Any) -> RunReport:
        folder = tmp_path / name
        folder.mkdir()
        first = forge.frames(folder / FIRST).close(reason="rolled")
        second = forge.frames(folder / SECOND, ordinal=2, previous=previous(first), **{"first": 18} | options).close()
        forge.sidecar(folder, [first, second])
        return verify_run(folder, forge.facility.root, judge=verify_segment)

    assert judged("right", lambda first: (first.segment_id, first.head)).level == 2
    for name, previous in (("none", None), ("other", (bytes(16), bytes(32)))):
        report = judged(name, lambda first, previous=previous: previous)
        assert (report.level, report.reason) == (0, f"{SECOND}: does not follow segment 1 as it was closed")
    wrong = judged("another head", lambda first: (first.segment_id, bytes(32)))
    assert (wrong.level, wrong.reason) == (0, f"{SECOND}: does not follow segment 1 as it was closed")
    late = judged("late", lambda first: (first.segment_id, first.head), last_seq={"camera/image": 18, "other": 5}, first=19)
    assert (late.level, late.reason) == (0, f"{SECOND}: camera/image goes on after 18, and segment 1 ended at 17")


def test_a_run_of_which_a_part_is_not_signed_under_the_root_has_the_level_of_that_part(made: Made) -> None:
    def judge(identity: bytes) -> RunReport:
        def lower(path: Path, root: Any) -> SegmentReport:
            report = verify_segment(path, root)
            return replace(report, level=1, rooted=False, identity=identity or report.identity) if path.name == SECOND else report

        return verify_run(made.folder, made.forge.facility.root, judge=lower)

    assert (judge(b"").level, judge(b"").reason) == (1, "the key chain does not lead to the given root")
    assert (judge(bytes(32)).level, judge(bytes(32)).reason) == (
        0,
        "signed by several identity keys, of which not all lead to the given root",
    )


def test_a_sidecar_that_is_too_large_or_not_readable_is_said(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_agent.segment import statement

    monkeypatch.setattr(statement, "MAX_SIDECAR", 10)
    assert made.judge().reason == "000123.hsc: larger than 10 bytes"
    (made.folder / "000123.hsc").unlink()
    (made.folder / "000123.hsc").mkdir()
    assert made.judge().reason.startswith("000123.hsc: cannot be read: ")


def test_a_tree_of_folders_gives_runs_and_single_segments_in_order(made: Made, forge: Any, tmp_path: Path) -> None:
    shutil.copy(made.folder / FIRST, tmp_path / "alone.h5")
    (tmp_path / "notes.txt").write_text("not a segment")
    (made.folder / "files" / "vendor.h5").write_bytes(b"a vendor's own HDF5 belongs to the run")
    root = forge.facility.root
    found = list(verify_path(tmp_path, root, judge=verify_segment))
    assert [(type(r).__name__, Path(r.path).name, r.level) for r in found] == [
        ("SegmentReport", "alone.h5", 2),
        ("RunReport", "000123.hsc", 2),
    ]
    assert [r.level for r in verify_path(tmp_path / "alone.h5", root, judge=verify_segment)] == [2]
    shutil.copy(made.folder / FIRST, made.folder / "000123.nxs")
    for name in ("000123.hsc", "000123.nxs"):
        (report,) = verify_path(made.folder / name, root, judge=verify_segment)
        assert isinstance(report, RunReport)
    with pytest.raises(FileNotFoundError):
        list(verify_path(tmp_path / "nothing", root))
