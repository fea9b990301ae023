"""A run with a part missing, exchanged or signed by somebody else is reported; receipts count only when they are right."""

from __future__ import annotations

import os
import shutil

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

WITNESSED = 3


def run_item(hsc, run, root, level=WITNESSED):
    _, out = hsc.verify(run.folder, root=root, level=level)
    (item,) = [item for item in out["items"] if item["kind"] == "run"]
    return item


def test_a_missing_segment_is_damage(hsc, copy, root):
    copy.parts[1].path.unlink()
    item = run_item(hsc, copy, root)
    assert (item["level"], item["reason"]) == (0, "000001_camera_000002.h5: is missing")


def test_a_renamed_segment_is_damage_and_is_still_verified_by_itself(hsc, copy, root):
    copy.parts[1].path.rename(copy.folder / "renamed.h5")
    _, out = hsc.verify(copy.folder, root=root)
    assert sorted((i["kind"], i["level"]) for i in out["items"]) == [("run", 0), ("segment", 2)]


def test_two_segments_in_each_others_place_are_damage(hsc, copy, root):
    first, second = copy.parts[0].path, copy.parts[1].path
    first.rename(copy.folder / "x")
    second.rename(first)
    (copy.folder / "x").rename(second)
    assert "000001_camera_000001.h5: is a segment of another place or run" in run_item(hsc, copy, root)["reason"]


def test_a_segment_of_another_run_of_the_same_agent_is_damage(hsc, copy, ca, root, tmp_path):
    other = hsc.make_run(tmp_path / "000002", ca, copy.agent, 2)
    shutil.copy(other.parts[0].path, copy.parts[0].path)
    item = run_item(hsc, copy, root)
    assert item["level"] == 0
    assert "is a segment of another place or run" in item["reason"]


def test_a_statement_that_adopts_a_segment_of_another_run_is_damage(hsc, copy, ca, root, tmp_path):
    other = hsc.make_run(tmp_path / "000002", ca, copy.agent, 2)
    shutil.copy(other.parts[2].path, copy.parts[2].path)
    copy.parts[2] = hsc.Part(other.parts[2].id, 3, other.parts[2].close, 1, copy.parts[2].path, other.parts[2].leaves)
    hsc.write_sidecar(copy)
    assert "000001_rows_000001.h5: is a segment of another place or run" in run_item(hsc, copy, root)["reason"]


def test_slack_bytes_that_no_reader_sees_are_reported_with_the_sidecar(hsc, copy, root):
    with copy.parts[0].path.open("ab") as file:
        file.write(b"\0")
    assert hsc.verify(copy.parts[0].path, root=root)[0] == 0
    assert "is not byte for byte the file of the run statement" in run_item(hsc, copy, root)["reason"]


def test_a_damaged_segment_is_named_in_its_run_with_the_coordinate(hsc, copy, root):
    raw = bytearray(copy.parts[1].path.read_bytes())
    with hsc.h5py.File(copy.parts[1].path) as file:
        at = file["entry/camera/data"].id.get_chunk_info_by_coord((3, 0, 0)).byte_offset
    raw[at] ^= 0x80
    copy.parts[1].path.write_bytes(raw)
    reason = run_item(hsc, copy, root)["reason"]
    assert reason == "000001_camera_000002.h5: /entry/camera/data chunk at [3, 0, 0]: the stored bytes are not the signed ones"


@pytest.mark.parametrize(
    "name", ["files/scan.dat", "files/ゼロ.txt", "preview.png", "ro-crate-metadata.json", "manifest-sha256.txt", "000001.nxs"]
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_changed_or_missing_file_is_named(hsc, copy, root, name, missing):
    if missing:
        (copy.folder / name).unlink()
    else:
        with (copy.folder / name).open("ab") as file:
            file.write(b"\0")
    item = run_item(hsc, copy, root)
    assert (item["level"], item["reason"]) == (0, f"{name}: is missing" if missing else f"{name}: is not the signed file")


def test_a_segment_beside_the_run_that_the_statement_does_not_name_is_a_line_of_its_own(hsc, copy, root):
    (copy.folder / "extra.h5").write_bytes(b"unsigned")
    code, out = hsc.verify(copy.folder, root=root)
    assert code == 1
    assert [(i["kind"], i["level"]) for i in out["items"]] == [("run", 3), ("segment", 0)]


def test_a_sidecar_signed_again_by_a_stranger_is_never_level_two(hsc, copy, root):
    hsc.write_sidecar(copy, hsc.Agent(None, copy.agent.id))
    for given in (root, None):
        item = run_item(hsc, copy, given)
        assert item["level"] == 0
        assert item["reason"] == "the run statement and the segments are signed by different identity keys"


def test_a_sidecar_signed_by_another_agent_of_the_facility_is_damage(hsc, copy, ca, root):
    hsc.write_sidecar(copy, hsc.Agent(ca))
    item = run_item(hsc, copy, root)
    assert item["level"] == 0
    assert "has identity certificates of no agent or of several" in item["reason"]


STATEMENTS = {
    "a segment left out": (lambda s: {5: s[5][1:]}, "are not numbered 1, 2, 3"),
    "the last segment left out": (lambda s: {5: s[5][:-1]}, "close heads are not those of the run statement"),
    "another state": (lambda s: {5: [[*s[5][0][:6], 2], *s[5][1:]]}, "its close head has another tree or state"),
    "another size": (lambda s: {5: [[*s[5][0][:3], 1, *s[5][0][4:]], *s[5][1:]]}, "is not byte for byte the file"),
    "another run number": (lambda s: {3: 7}, "its run_no is 1, but the run statement says 7"),
    "another run": (lambda s: {4: bytes(16)}, "is a segment of another place or run"),
    "another policy": (lambda s: {11: bytes(32)}, "its policy is"),
    "a vendor file left out": (lambda s: {6: s[6][1:]}, "lists other files than the FILE leaves"),
    "a gap less": (lambda s: {9: [["camera/image", 2, 9]]}, "the run statement counts the gaps"),
    "a gap count unknown": (lambda s: {9: [["camera/image", 3, None]]}, "the run statement counts the gaps"),
    "a path out of the run": (lambda s: {8: {"../000001.hsc": bytes(32)}}, "is no name of a file in the run"),
    "an absolute path": (lambda s: {8: {"/etc/passwd": bytes(32)}}, "is no name of a file in the run"),
    "a file series with a size": (lambda s: {5: [*s[5][:3], [*s[5][3][:3], 1, *s[5][3][4:]]]}, "a series of files has a size or digest"),
    "a field more": (lambda s: {12: None}, "the run statement: has other fields"),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_a_statement_that_does_not_fit_its_parts_is_damage(hsc, copy, root, case):
    change, sentence = STATEMENTS[case]
    body = cbor2.loads(hsc.payload_of(cbor2.loads(copy.sidecar.read_bytes())[2]))
    hsc.write_sidecar(copy, **{f"_{key}": value for key, value in change(body).items()})
    item = run_item(hsc, copy, root)
    assert item["level"] == 0
    assert sentence in item["reason"]


def test_a_segment_that_does_not_name_the_one_before_it_or_leaves_a_hole_is_damage(hsc, copy, root):
    cases = {"does not name the segment before": {"previous": None}, "goes on after 109, the segment before ended at 107":
             {"previous": copy.parts[0], "first": 110, "last": {"camera/image": 109}}}  # fmt: skip
    for sentence, options in cases.items():
        copy.parts[1] = hsc.make_segment(copy, copy.parts[1].path.name, 2, **options)
        hsc.write_sidecar(copy)
        assert sentence in run_item(hsc, copy, root)["reason"]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=[pytest.mark.slow(80), pytest.mark.timeout(1500)])])
def test_every_flip_in_a_sidecar_is_reported(hsc, tool, run, ca, root, step):
    run.parts = [hsc.make_segment(run, "000001_a.h5"), hsc.make_file_series(run, 2, {"files/x": b"x"})]
    for name in ("preview.png", "manifest-sha256.txt", "ro-crate-metadata.json", "000001.nxs"):
        (run.folder / name).write_bytes(b"")
    hsc.write_sidecar(run)
    hsc.write_receipts(run, ca)
    roots = tool.load_roots(str(root))
    files = {path: path.read_bytes() for path in (run.sidecar, run.receipts)}
    assert len(tool.read_run(str(run.sidecar), roots)["witnessed"]) == 2
    for path, raw in files.items():
        for at in range(0, len(raw), step):
            changed = bytearray(raw)
            changed[at] ^= 1 << at % 8
            path.write_bytes(changed)
            try:
                answer = tool.read_run(str(run.sidecar), roots)
            except tool.Bad:
                continue
            assert not answer["trusted"] or (path == run.receipts and len(answer["witnessed"]) < 2), at
        path.write_bytes(raw)


RECEIPTS = {
    "a witness of a stranger": ({"witness": "stranger"}, "receipt 0: is signed by a key that nothing here vouches for"),
    "a forged signature": ({"witness": "flip"}, "receipt 0: the signature is wrong"),
    "a key that is not for receipts": ({"uri": "urn:hsc:agent:" + "0" * 32}, "a certificate is not one of a receipt key"),
    "custody of other bytes": ({"custody": {6: 1}}, "receipt 1: custody was given for other bytes of segment 1"),
    "custody for another agent": ({"custody": {2: bytes(16)}}, "receipt 1: is for another agent"),
    "custody of unknown strength": ({"custody": {8: "promised"}}, "receipt 1: has an unknown durability"),
    "a proof left out": ({"skip": 1}, "no witness has seen segment 2"),
}


@pytest.mark.parametrize("case", RECEIPTS)
def test_wrong_receipts_leave_a_run_at_level_two(hsc, copy, ca, root, case):
    options, sentence = RECEIPTS[case]
    stranger = Ed25519PrivateKey.generate()
    witnesses = {
        "stranger": lambda cose: hsc.sign(stranger, "witness", cbor2.loads(hsc.payload_of(cose))),
        "flip": lambda cose: cose[:-1] + bytes([cose[-1] ^ 1]),
    }
    made = dict(options)
    if "witness" in made:
        made["witness"] = witnesses[made["witness"]]
    if "custody" in made:
        made["custody"] = lambda body: body | options["custody"]
    hsc.write_receipts(copy, ca, **made)
    item = run_item(hsc, copy, root)
    assert item["level"] == 2
    assert sentence in item["reason"]


def test_receipts_of_another_facility_or_none_leave_a_run_at_level_two(hsc, copy, root):
    hsc.write_receipts(copy, hsc.Authority("elsewhere"))
    assert run_item(hsc, copy, root)["level"] == 2
    copy.receipts.unlink()
    item = run_item(hsc, copy, root)
    assert (item["level"], "no witness has seen segment 1" in item["reason"]) == (2, True)


def test_a_proof_in_a_log_that_nobody_witnessed_does_not_count(hsc, copy, root):
    body = cbor2.loads(copy.receipts.read_bytes())
    body[4][0][1] = os.urandom(16)
    copy.receipts.write_bytes(hsc.cbor(body))
    item = run_item(hsc, copy, root)
    assert item["level"] == 2
    assert "proof 0: does not lead to a root that a witness signed" in item["reason"]
