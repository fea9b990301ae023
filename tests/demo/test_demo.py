"""The main job, end to end, as a user starts it; each demo judges itself by the truth files, and its judgement is checked again here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def over_https(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a demo, and what it said."""
    folder = tmp_path_factory.mktemp("https") / "demo"
    return folder, demo(folder, "--seconds", "6")


def test_everything_that_was_sent_lands_signed_and_witnessed_over_https(over_https: tuple[Path, dict[str, Any]]) -> None:
    folder, result = over_https
    check(folder, result)
    assert [stream["lost"] for stream in result["streams"]] == [0] * len(NAMES)


def test_a_landed_run_reads_the_same_in_every_hdf5_without_the_project(over_https: tuple[Path, dict[str, Any]]) -> None:
    folder, result = over_https
    run = folder / "space" / result["runs"][0]["path"]
    files = sorted([*run.glob("*.h5"), *run.glob("*.nxs")])
    assert len(files) == 3, "two segments and their master"
    for path in files:
        first, *others = (read(version, path) for version in READERS)
        assert first, path
        assert all(other == first for other in others), path


@pytest.mark.needs("mosquitto")
def test_everything_that_was_sent_lands_signed_and_witnessed_over_mqtt(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", "--seconds", "6", "--via", "mqtt", "--seed", "2")
    check(tmp_path / "demo", result)
    assert [stream["lost"] for stream in result["streams"]] == [0] * len(NAMES)


def test_a_kill_in_the_middle_loses_nothing_durable_and_declares_the_rest(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", "--seconds", "8", "--crash", "--seed", "3")
    check(tmp_path / "demo", result)
    by_name = {stream["name"]: stream for stream in result["streams"]}
    assert by_name["camera"]["lost"] > 0, "frames that came while the agent was down"
    assert by_name["camera"]["gaps"] >= 1
    assert by_name["vendor"]["lost"] == 0, "files wait in their folder"
    assert "recovered" in result["recovered"]
