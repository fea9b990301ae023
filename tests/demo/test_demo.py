"""The main job, end to end, as a user starts it; each demo judges itself by the truth files, and its judgement is checked again here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.segment import peek
from tests.compat.readers import READERS, read

ROOT = Path(__file__).parents[2]
NAMES = {"balance", "furnace/Temperature", "furnace/HeaterPower", "ioc/TEMP", "ioc/CURRENT", "ioc/COUNT", "camera", "vendor"}
KEYS = {"name", "source", "sent", "arrived", "landed", "spooled", "quarantined", "lost", "ignored", "gaps", "same_as_source"}

pytestmark = pytest.mark.timeout(400)


def demo(folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "edge_agent.cli", "demo", "--json", "--dir", str(folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    log = folder / "logs" / "agent.log"
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}\n{log.read_text()[-3000:] if log.exists() else ''}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def check(folder: Path, result: dict[str, Any]) -> None:
    assert result["ok"] is True
    assert {stream["name"] for stream in result["streams"]} == NAMES
    for stream in result["streams"]:
        assert stream.keys() >= KEYS
        assert stream["same_as_source"], stream
        assert stream["sent"] == stream["landed"] + stream["lost"], stream
        assert (stream["spooled"], stream["quarantined"]) == (0, 0), stream
    assert Path(result["root"]).is_file()
    for run in result["runs"]:
        assert run.keys() >= {"path", "level", "segments", "chunks", "outcome"}
        assert (run["level"], run["outcome"]) == (3, "complete"), run
        place = folder / "space" / run["path"]
        number = place.name
        assert {path.name for path in place.iterdir()} >= {
            f"{number}.nxs", f"{number}.hsc", f"{number}.receipts", "manifest-sha256.txt", "preview.png", "ro-crate-metadata.json", "files",
        }  # fmt: skip
    verifier = [sys.executable, str(ROOT / "tools/verify_hsc1.py"), "--level", "3", "--root", result["root"], str(folder / "space")]
    done = subprocess.run(verifier, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_that_was_sent_lands_signed_and_witnessed_over_https(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", "--seconds", "6")
    check(tmp_path / "demo", result)
    assert [stream["lost"] for stream in result["streams"]] == [0] * len(NAMES)


@pytest.mark.slow(30)
@pytest.mark.needs("mosquitto")
def test_everything_that_was_sent_lands_signed_and_witnessed_over_mqtt(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", "--seconds", "6", "--via", "mqtt", "--seed", "2")
    check(tmp_path / "demo", result)
    assert [stream["lost"] for stream in result["streams"]] == [0] * len(NAMES)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a demo whose agent was killed half-way, and what it said: every stream has several segments."""
    folder = tmp_path_factory.mktemp("killed") / "demo"
    return folder, demo(folder, "--seconds", "8", "--crash", "--seed", "3")


def test_a_kill_in_the_middle_loses_nothing_durable_and_declares_the_rest(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, result = killed
    check(folder, result)
    by_name = {stream["name"]: stream for stream in result["streams"]}
    assert by_name["camera"]["lost"] > 0, "frames that came while the agent was down"
    assert by_name["camera"]["gaps"] >= 1
    assert by_name["vendor"]["lost"] == 0, "files wait in their folder"
    assert "recovered" in result["recovered"]


def joined(run: Path) -> dict[str, str]:
    """SHA-256 of every chunked dataset over all segments in order, decoded by us: what a master must show."""
    parts: dict[str, list[np.ndarray[Any, Any]]] = {}
    for path in sorted(run.glob("*.h5"), key=lambda p: int(p.stem[-6:])):
        names: list[str] = []
        with h5py.File(path) as file:
            file["entry/instrument"].visititems(lambda _, node, names=names: names.append(node.name) if getattr(node, "chunks", None) else None)
        for name in names:
            parts.setdefault(name, []).append(peek.rows(path, name))
    return {name: hashlib.sha256(np.concatenate(arrays).tobytes()).hexdigest() for name, arrays in parts.items()}


def test_a_landed_run_reads_the_same_in_every_hdf5_without_the_project(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, result = killed
    run = folder / "space" / result["runs"][0]["path"]
    segments, wanted = sorted(run.glob("*.h5")), joined(run)
    assert min(sum(f"_{series}_" in path.name for path in segments) for series in ("camera_image", "rows")) >= 2
    assert {"/entry/instrument/camera/image/data", "/entry/instrument/furnace/Temperature/value"} <= set(wanted)
    for path in (*segments, run / f"{run.name}.nxs"):
        first, *others = (read(version, path) for version in READERS)
        assert {"/entry/provenance/data", "/entry/start_time"} <= set(first), path
        assert all(other == first for other in others), path
    assert {name: first[name][2] for name in wanted} == wanted, "the master joins the segments"


def test_vendor_files_land_as_files_that_the_manifest_names(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, result = killed
    run = folder / "space" / result["runs"][0]["path"]
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in (run / "manifest-sha256.txt").read_text().splitlines())}
    files = {p.relative_to(run).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in run.glob("files/**/*") if p.is_file()}
    assert files
    assert files.items() <= listed.items()
