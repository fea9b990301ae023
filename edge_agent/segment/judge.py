"""Has a foreign segment judged by a worker process, so that a file that breaks the HDF5 library breaks nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.segment.report import SegmentReport, segment_from_json
from edge_agent.segment.slice import SliceReport, slice_from_json

Judge = Callable[[Path, x509.Certificate | None], SegmentReport]
"""How `verify_run` has a segment judged: `judge`, or `verify_segment` for files that this process wrote itself."""

Report = TypeVar("Report")

BASE_SECONDS = 60.0
BYTES_PER_SECOND = 20 << 20


def judge(path: Path, root: x509.Certificate | None, timeout: float | None = None) -> SegmentReport:
    """Judge ``path`` in a limited worker.

    Args:
        path: the file.
        root: certificate of the facility's CA.
        timeout: seconds; by default what a slow disk needs for a file of that size.

    Returns:
        The worker's report; level 0 when the worker died, hung or said nothing.
    """
    try:
        return _ask(path, root, timeout, segment_from_json)
    except ValueError as error:
        return SegmentReport(str(path), 0, str(error))


def judge_slice(path: Path, dataset: str, slice_: str, root: x509.Certificate | None, timeout: float | None = None) -> SliceReport:
    """Judge a slice of ``path`` in a limited worker, as `judge`; ``slice_`` is written as on the command line."""
    try:
        return _ask(path, root, timeout, slice_from_json, "--dataset", dataset, "--slice", slice_)
    except ValueError as error:
        return SliceReport(str(path), dataset, 0, str(error))


def _ask(
    path: Path, root: x509.Certificate | None, timeout: float | None, read: Callable[[Mapping[str, Any]], Report], *more: str
) -> Report:
    """What a worker printed, as ``read`` understands it.

    Raises:
        ValueError: it died, hung or said nothing, in a sentence.
    """
    seconds = timeout if timeout is not None else BASE_SECONDS + _size(path) / BYTES_PER_SECOND
    with tempfile.TemporaryDirectory(prefix="edge-agent-verify-") as folder:
        limits = ["--json", "--seconds", str(int(seconds) + 1)]
        command = [sys.executable, "-m", "edge_agent.segment.worker", str(path.absolute()), *limits, *more]
        if root is not None:
            pem = Path(folder, "root.pem")
            pem.write_bytes(root.public_bytes(Encoding.PEM))
            command += ["--root", str(pem)]
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, cwd=folder, env=_environment(), check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"the HDF5 library did not finish with this file in {seconds:.0f} s") from error
    if done.returncode < 0:
        raise ValueError(f"the HDF5 library did not survive this file ({_name(-done.returncode)})")
    try:
        return read(json.loads(done.stdout))
    except ValueError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"the verifier stopped without an answer (exit {done.returncode}): {said[-1] if said else ''}") from error


def _environment() -> dict[str, str]:
    # One thread: each thread of a linear algebra library reserves address space that the limit would count.
    code = str(Path(__file__).parents[2])
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP") if name in os.environ}
    return kept | {"PYTHONPATH": code, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PATH": "::"}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _name(number: int) -> str:
    try:
        return f"signal {number}, {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"
