"""What is right is accepted, at the level that its keys and receipts allow."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

import pytest


def only(out):
    assert len(out["items"]) == 1
    return out["items"][0]


def test_a_complete_run_is_witnessed_under_its_root(hsc, finished, root):
    code, out = hsc.verify(finished.folder, root=root, level=3)
    item = only(out)
    assert (code, out["ok"], out["level"]) == (0, True, 3), item
    assert {k: item[k] for k in ("kind", "level", "segments", "chunks", "gaps")} == {
        "kind": "run", "level": 3, "segments": 4, "chunks": 30, "gaps": 3,
    }  # fmt: skip


def test_a_run_without_root_is_intact_and_names_the_fingerprint_of_its_key(hsc, finished):
    code, out = hsc.verify(finished.folder, level=1)
    key = hsc.h(hsc.cbor(hsc.cose_key(finished.agent.identity))).hex()
    assert code == 0
    assert only(out)["level"] == 1
    assert " ".join(key[n : n + 4] for n in range(0, 64, 4)) in only(out)["reason"]
    assert hsc.verify(finished.folder)[0] == 1  # the default level is 2


def test_a_run_under_another_facilitys_root_stays_at_level_one(hsc, finished, tmp_path):
    other = hsc.Authority("facility")
    (tmp_path / "other.pem").write_bytes(other.certificate.public_bytes(hsc.Encoding.PEM))
    code, out = hsc.verify(finished.folder, root=tmp_path / "other.pem")
    assert code == 1
    assert only(out)["level"] == 1
    assert "the given root did not certify it" in only(out)["reason"]


def test_a_single_segment_reaches_level_two_and_says_which_sources_have_no_counter(hsc, finished, root):
    code, out = hsc.verify(finished.parts[0].path, root=root)
    assert code == 0
    assert only(out)["kind"] == "segment"
    assert only(out)["level"] == 2
    assert "continuity is not promised: balance/weight" in only(out)["reason"]


def test_a_fingerprint_serves_as_root_when_the_key_chain_carries_the_certificate(hsc, ca, tmp_path):
    fingerprint = hashlib.sha256(ca.der).hexdigest()
    for carry, level in ((True, 2), (False, 1)):
        folder = tmp_path / str(carry)
        folder.mkdir()
        part = hsc.make_segment(hsc.Run(hsc.Agent(ca, carry_root=carry), folder), "a.h5")
        spelled = ":".join(fingerprint[n : n + 2] for n in range(0, 64, 2)).upper()
        assert only(hsc.verify(part.path, root=spelled)[1])["level"] == level


def test_a_self_signed_agent_is_level_one_until_its_own_certificate_is_the_root(hsc, tmp_path):
    agent = hsc.Agent(None)
    part = hsc.make_segment(hsc.Run(agent, tmp_path), "a.nxs")
    assert only(hsc.verify(part.path)[1])["level"] == 1
    (tmp_path / "own.der").write_bytes(agent.certificates[0])
    assert only(hsc.verify(part.path, root=tmp_path / "own.der")[1])["level"] == 2


def test_a_segment_closed_by_recovery_is_accepted(hsc, run, root):
    assert only(hsc.verify(hsc.make_segment(run, "a.h5", state=2).path, root=root)[1])["level"] == 2


def test_a_folder_tree_gives_one_line_a_run_and_one_a_stray_segment(hsc, finished, ca, root, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "p" / "2026-11-24" / "000001")
    hsc.make_run(tmp_path / "p" / "2026-11-25" / "000002", ca, finished.agent, 2)
    shutil.copy(finished.parts[0].path, tmp_path / "p" / "stray.h5")
    code, out = hsc.verify(tmp_path, root=root)
    assert code == 0
    assert sorted((i["kind"], i["level"]) for i in out["items"]) == [("run", 3), ("run", 3), ("segment", 2)]
    assert out["level"] == 2


def test_the_lines_for_people_say_level_path_and_reason(hsc, finished, root):
    done = subprocess.run([sys.executable, hsc.TOOL, "--root", root, finished.folder], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"level 3  {finished.sidecar} (4 segments, 30 chunks, 3 gaps): witnessed")
    assert done.stdout.count("\n") == 1


def test_nothing_to_verify_is_not_ok(hsc, tmp_path):
    code, out = hsc.verify(tmp_path, tmp_path / "absent", level=0)
    assert [i["reason"] for i in out["items"]] == ["holds no run and no segment", "does not exist"]
    assert hsc.verify(tmp_path)[0] == 1
    assert code == 0  # level 0 was asked


@pytest.mark.parametrize("argument", ["nowhere.pem", "12ab", "README"])
def test_a_root_that_is_none_is_wrong_usage(hsc, tmp_path, argument):
    (tmp_path / "README").write_text("no certificate")
    done = subprocess.run([sys.executable, hsc.TOOL, "--root", argument, "."], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--root {argument}: is n" in done.stderr


def test_the_tree_agrees_with_the_recursive_definition(hsc, tool):
    for size in range(1, 40):
        leaves = [bytes([n]) * n for n in range(size)]
        frontier = tool.Frontier()
        for n, leaf in enumerate(leaves):
            frontier.push(leaf)
            assert frontier.root() == hsc.root_of(leaves[: n + 1])
        root = hsc.root_of(leaves)
        for n in range(size):
            proof = hsc.proof_of(n, leaves)
            assert tool.included(leaves[n], n, size, proof, root)
            assert not tool.included(leaves[n], (n + 1) % size, size, proof, root) or size == 1
            assert not tool.included(leaves[n], n, size, [*proof, root], root)
            assert not tool.included(b"x", n, size, proof, root)


@pytest.mark.parametrize(
    "raw",
    ["1801", "a2020101 02".replace(" ", ""), "a201010101", "5f4101ff", "fb3ff0000000000000", "0101", "c24101", "9b7fffffffffffffff", ""],
)
def test_cbor_that_is_not_deterministic_is_refused(tool, raw):
    with pytest.raises(tool.Bad, match="CBOR"):
        tool.decode(bytes.fromhex(raw), "this")
