"""The worker and `judge`: a file that breaks the HDF5 library breaks only its worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.errors import ConfigError
from edge_agent.segment import judge as judging
from edge_agent.segment.judge import Ready, judge
from edge_agent.segment.report import SegmentReport, segment_from_json
from edge_agent.segment.roots import load_root
from edge_agent.segment.verify import verify_segment

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


@pytest.fixture
def root_file(facility: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(facility.root.public_bytes(Encoding.PEM))
    return path


def worker(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "edge_agent.segment.worker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=200, check=False)


def test_the_worker_prints_one_object_with_all_that_a_landing_needs(frames_file: Path, facility: Any, root_file: Path) -> None:
    done = worker(frames_file, "--root", root_file, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    said = json.loads(done.stdout)
    assert (said["level"], said["reason"], said["series"], said["chunks"]) == (2, "", "camera/image", 12)
    assert {"segment_id", "agent_id", "run_id", "run_no", "ordinal", "head", "policy", "gaps", "last_seq", "previous"} <= set(said)
    assert said["agent_id"] == facility.agent_id.hex()
    assert said["gaps"] == [{"source_id": "camera/image", "gaps": 1, "missing": 2}]
    assert segment_from_json(said) == verify_segment(frames_file, facility.root)


def test_the_worker_exits_zero_for_damage_too_because_it_could_judge(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"nothing")
    done = worker(tmp_path / "a.h5")
    assert done.returncode == 0
    assert json.loads(done.stdout)["level"] == 0


def test_judge_says_the_same_as_the_verifier_itself(frames_file: Path, rows_file: Path, facility: Any, stranger: Any) -> None:
    assert judge(frames_file, facility.root) == verify_segment(frames_file, facility.root)
    assert judge(rows_file, None) == verify_segment(rows_file, None)
    assert judge(rows_file, stranger.root).level == 1


def test_der_and_pem_roots_are_read_and_anything_else_is_a_clear_error(facility: Any, root_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "root.der"
    other.write_bytes(facility.root.public_bytes(Encoding.DER))
    assert load_root(root_file) == load_root(other) == facility.root
    other.write_text("-----BEGIN nonsense")
    with pytest.raises(ConfigError, match="holds no certificate") as caught:
        load_root(other)
    assert caught.value.code == "ROOT_PARSE"
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_root(tmp_path / "nothing.pem")
    assert "root.pem" in caught.value.try_


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Make `judge` start a program of ours instead of Python with the worker."""
    program = tmp_path / "python"
    program.write_text(f"#!{PYTHON}\nimport os, sys, time, signal\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(judging.sys, "executable", str(program))


def test_a_worker_that_dies_is_level_zero_with_the_signal_that_killed_it(
    frames_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)")
    report = judge(frames_file, None)
    assert (report.level, report.reason) == (0, "the HDF5 library did not survive this file (signal 11, SIGSEGV)")
    stand_in(tmp_path, monkeypatch, "os.kill(os.getpid(), signal.SIGRTMIN + 2)")
    number = signal.SIGRTMIN + 2
    assert judge(frames_file, None).reason == f"the HDF5 library did not survive this file (signal {number})"


def test_a_worker_that_hangs_is_level_zero(frames_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "signal.pause()")
    report = judge(frames_file, None, timeout=0.5)
    assert (report.level, report.reason) == (0, "the HDF5 library did not finish with this file in 0 s")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"level": 2}',
        json.dumps(SegmentReport("x", 3).as_json()),
        json.dumps(SegmentReport("x", 2).as_json() | {"more": 1}),
    ],
)
def test_a_worker_that_answers_something_else_is_level_zero(
    answer: str, frames_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, f"print({answer!r}); print('first', 'last words', sep='\\n', file=sys.stderr); sys.exit(4)")
    report = judge(frames_file, None)
    assert (report.level, report.reason) == (0, "the verifier stopped without an answer (exit 4): last words")


def test_a_worker_that_is_ready_before_it_is_asked_says_the_same_and_one_that_nobody_asks_ends(frames_file: Path, facility: Any) -> None:
    with Ready() as ready:
        first, second = ready.judge(frames_file, facility.root), ready.judge(frames_file, facility.root)
    assert first == second == verify_segment(frames_file, facility.root)
    with Ready() as ready:
        process = ready._first._process
    assert process.poll() is not None
    alone = subprocess.run([PYTHON, "-m", "edge_agent.segment.worker", "--wait"], cwd=ROOT, stdin=subprocess.DEVNULL, timeout=200, check=False)
    assert alone.returncode == 0


def test_who_asks_a_worker_loads_nothing_that_reads_hdf5(frames_file: Path) -> None:
    code = "import sys, edge_agent.segment.run, edge_agent.segment.levels; sys.exit('h5py' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([PYTHON, "-c", code], cwd=ROOT, timeout=100, check=False).returncode == 0


def test_a_file_that_is_not_there_is_level_zero(tmp_path: Path) -> None:
    assert judge(tmp_path / "nothing.h5", None).level == 0


def test_memory_and_time_are_limited_within_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "big.h5"
    # A sparse file, so that the declared value fits in it and only the limit stops its reading.
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/integrity/leaves", (512 << 20,), "u1").id.write(*_one_byte())
    os.truncate(path, 700 << 20)
    done = worker(path, "--memory", 200 << 20, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"].startswith("HDF5 cannot read this file: MemoryError")
    done = worker(path, "--seconds", 0)
    assert done.returncode == -signal.SIGKILL


def _one_byte() -> tuple[Any, ...]:
    import numpy as np
    from h5py import h5s

    space = h5s.create_simple((512 << 20,))
    space.select_elements(np.array([[(512 << 20) - 1]]))
    return h5s.create_simple((1,)), space, np.zeros(1, "u1")


def test_a_report_survives_json_and_nonsense_does_not(frames_file: Path, facility: Any) -> None:
    from dataclasses import replace

    report = replace(verify_segment(frames_file, facility.root), previous=(b"a" * 16, b"b" * 32), notes=("one",), uncounted=("x/y",))
    assert segment_from_json(json.loads(json.dumps(report.as_json()))) == report
    for name, value in {"gaps": [1], "last_seq": [], "previous": ["00"], "head": 1, "level": "2"}.items():
        with pytest.raises(ValueError, match=r"report of a segment|unpack"):
            segment_from_json(report.as_json() | {name: value})
