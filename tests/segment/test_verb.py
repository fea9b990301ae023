"""``edge-agent verify``: what people read, what programs read, and the exit code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.cli import main
from edge_agent.seal import cose
from edge_agent.seal.amendment import Amendment, Change
from edge_agent.seal.receipt import parse_receipts
from edge_agent.wire.words import six_words
from tests.tsa import Tsa


@pytest.fixture(autouse=True)
def in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "en")


@pytest.fixture
def run(forge: Any, tmp_path: Path) -> tuple[Path, str]:
    """A run of frames and rows, and its facility's root certificate."""
    folder = tmp_path / "space" / "000123"
    folder.mkdir(parents=True)
    root = tmp_path / "root.pem"
    root.write_bytes(forge.facility.root.public_bytes(Encoding.PEM))
    segments = [forge.frames(folder / "000123_a_000001.h5").close(), forge.rows(folder / "000123_rows_000002.h5", ordinal=2).close()]
    series, files = forge.file_series(folder, ordinal=3)
    forge.sidecar(folder, segments, series=[series], files=files)
    forge.receipts(folder, [*segments, series])
    return folder, str(root)


def test_a_witnessed_run_gets_one_plain_sentence_and_one_line(run: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, root = run
    assert main(["verify", str(folder.parent), "--root", root, "--level", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Everything is intact, signed and witnessed (1 checked).",
        f"{folder}  witnessed, 2 segments, 1 file, 2 gaps (2 + ? missing)",
        "  no counter at the source, so continuity is not promised: balance/line, balance/weight, motor/position",
    ]


def test_without_a_root_the_words_of_the_key_are_shown_and_the_exit_code_is_seven(
    run: tuple[Path, str], forge: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge_agent.seal.cose import thumbprint

    folder, _ = run
    assert main(["verify", str(folder)]) == 7
    lines = capsys.readouterr().out.splitlines()
    words = six_words(thumbprint(forge.facility.identity.public_key()))
    assert lines[0] == "Everything is intact (1 checked), and signed by a key that nobody vouches for here."
    assert lines[1] == f"{folder}  intact, 2 segments, 1 file, 2 gaps (2 + ? missing): signed by an unknown key ({words})"
    assert lines[-1] == "Try: give the facility's root certificate with --root, to learn whose key it is"
    assert main(["verify", str(folder), "--level", "1"]) == 0


def test_a_root_that_does_not_know_the_key_is_said(
    run: tuple[Path, str], stranger: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(stranger.root.public_bytes(Encoding.PEM))
    assert main(["verify", str(run[0]), "--root", str(other)]) == 7
    out = capsys.readouterr().out
    assert out.startswith("Everything is intact (1 checked), but not all of it is signed by a key that the given root knows.\n")
    assert "Try:" not in out


def test_damage_is_named_and_the_exit_code_is_seven(run: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, root = run
    (folder / "000123_rows_000002.h5").unlink()
    assert main(["verify", str(folder), str(folder / "000123_a_000001.h5"), "--root", root, "--level", "0"]) == 0
    assert main(["verify", str(folder), str(folder / "000123_a_000001.h5"), "--root", root]) == 7
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 of 2 cannot be trusted: something is damaged, missing or not signed."
    assert lines[1] == f"{folder}  not verified, 2 segments: 000123_rows_000002.h5: missing"
    assert lines[2] == f"{folder}/000123_a_000001.h5  signed, 1 gap (2 missing)"


def test_json_is_one_object_with_every_report(run: tuple[Path, str], forge: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, root = run
    assert main(["verify", str(folder), str(folder / "000123_a_000001.h5"), "--root", root, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["level"], said["asked"]) == (True, 2, 2)
    assert [(item["kind"], item["level"]) for item in said["items"]] == [("run", 3), ("segment", 2)]
    assert said["items"][0]["run_id"] == forge.run.run_id.hex()
    assert said["items"][0]["segments"][1]["gaps"] == [{"source_id": "balance/weight", "gaps": 1, "missing": None}]


def test_gaps_of_unknown_size_are_a_question_mark_and_never_zero(
    forge: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = forge.frames(tmp_path / "a.h5")
    builder.gap("camera/image", None, None, None)
    builder.close()
    forge.rows(tmp_path / "b.h5").close()
    forge.frames(tmp_path / "c.h5", n=2).close()
    main(["verify", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert "intact, 2 gaps (? missing): " in lines[1]
    assert "intact, 1 gap (? missing): " in lines[2]
    assert "intact, no gaps: " in lines[4]


def test_nothing_to_verify_is_an_error_of_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "Error: There is nothing at " in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 2
    assert "Error: There is no run and no segment below " in capsys.readouterr().err
    assert main(["verify", str(tmp_path), "--root", str(tmp_path / "no.pem")]) == 3
    assert main(["verify", str(tmp_path), "--level", "4"]) == 2


@pytest.mark.needs("openssl")
def test_amendments_and_the_time_of_a_time_stamp_are_shown(
    run: tuple[Path, str], forge: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, root = run
    tsa = Tsa(tmp_path / "tsa")
    sidecar = (folder / "000123.hsc").read_bytes()
    path = folder / "000123.receipts"
    amendment = Amendment(
        forge.facility.agent_id, forge.run.run_id, hashlib.sha256(sidecar).digest(), 1, None,
        (Change("sample.name", None, "SiC"), Change("title", "a", "b")), "Ada", "forgot it", 1_795_000_000_000_000_000,
    )  # fmt: skip
    signed = cose.sign_all(forge.facility.keys, cose.AMENDMENT, amendment.payload())
    receipts = replace(parse_receipts(path.read_bytes()), tokens=(tsa.token(sidecar),), amendments=(signed,), chain=forge.facility.chain)
    path.write_bytes(receipts.encode())
    assert main(["verify", str(folder), "--root", root, "--tsa-root", str(tsa.root_file), "--level", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Everything is intact, signed, witnessed and time-stamped (1 checked)."
    assert lines[1].startswith(f"{folder}  time-stamped, 2 segments, 1 file, 2 gaps (2 + ? missing), stamped 20")
    assert lines[3] == "  amended 2026-11-18 11:06:40 UTC by Ada: sample.name: not given -> 'SiC', title: 'a' -> 'b' (forgot it)"
    assert main(["verify", str(folder), "--root", root, "--level", "4"]) == 7


def test_a_slice_is_checked_alone(run: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, root = run
    path, dataset = folder / "000123_a_000001.h5", "/entry/instrument/camera/image/data"
    asked = ["verify", str(path), "--dataset", dataset, "--slice", "1:3"]
    assert main([*asked, "--root", root, "--level", "3"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path} {dataset}[1:3,0:12,0:16]  witnessed, 2 chunks of ")
    assert line.endswith(" leaves read, frames 11 to 12")
    assert main([*asked, "--json"]) == 7
    said = json.loads(capsys.readouterr().out)
    assert (said["level"], said["items"][0]["kind"], said["items"][0]["chunks"]) == (1, "slice", 2)
    assert main(asked) == 7
    assert "signed by an unknown key (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slice", "1:2"], "--slice and --export need --dataset."),
        (["--dataset", "/entry/data/data", "--export", "x"], "A slice is checked in one run or one segment file."),
        (["--dataset", "/entry/data/data", "--slice", "x", "FILE"], "'x' is no slice"),
    ],
)
def test_a_slice_that_cannot_be_meant_is_a_mistake_of_usage(
    arguments: list[str], said: str, run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = run
    path = folder / "000123_a_000001.h5" if "FILE" in arguments else folder.parent
    assert main(["verify", str(path), *(a for a in arguments if a != "FILE")]) == 2
    assert said in capsys.readouterr().err
