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
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from edge_agent.segment.report import Joined, SegmentReport, SliceReport, joined_from_json, segment_from_json, slice_from_json

if TYPE_CHECKING:
    # Only named: who waits for a worker need not load what the worker loads.
    from cryptography import x509

Judge = Callable[[Path, "x509.Certificate | None"], SegmentReport]
"""How `verify_run` has a segment judged: `judge`, or `verify_segment` for files that this process wrote itself."""

Report = TypeVar("Report")

BASE_SECONDS = 60.0
BYTES_PER_SECOND = 20 << 20


class Worker:
    """A process that loads what judging needs, and then waits to be told once what to judge. Not told, it ends with its owner."""

    def __init__(self) -> None:
        """Start it."""
        self._folder = tempfile.TemporaryDirectory(prefix="edge-agent-verify-")
        command = [sys.executable, "-P", "-m", "edge_agent.segment.worker", "--wait"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self._folder.name, env=_environment())

    def ask(
        self, path: Path, root: x509.Certificate | None, timeout: float | None, read: Callable[[Mapping[str, Any]], Report], *more: str
    ) -> Report:
        """What it answers, as ``read`` understands it; it is gone afterwards.

        Raises:
            ValueError: it died, hung or said nothing, in a sentence.
        """
        seconds = timeout if timeout is not None else BASE_SECONDS + _size(path) / BYTES_PER_SECOND
        arguments = [str(path.absolute()), "--json", "--seconds", str(int(seconds) + 1), *more]
        if root is not None:
            pem = Path(self._folder.name, "root.pem")
            pem.write_bytes(_pem(root))
            arguments += ["--root", str(pem)]
        try:
            out, err = self._process.communicate(json.dumps(arguments).encode() + b"\n", timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"the HDF5 library did not finish with this file in {seconds:.0f} s") from error
        finally:
            self.close()
        code = self._process.returncode
        if code < 0:
            raise ValueError(f"the HDF5 library did not survive this file ({_name(-code)})")
        try:
            return read(json.loads(out))
        except ValueError as error:
            raise _no_answer(code, err) from error

    def close(self) -> None:
        """End it; callable twice."""
        self._process.kill()
        with self._process:
            pass
        self._folder.cleanup()


class Ready:
    """`judge` and `judge_slice` with a first worker that loads while its owner still loads what it needs itself."""

    def __init__(self) -> None:
        """Start the worker."""
        self._first: Worker | None = Worker()

    def __enter__(self) -> Ready:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the worker if nobody asked it."""
        if self._first is not None:
            self._first.close()

    def judge(self, path: Path, root: x509.Certificate | None) -> SegmentReport:
        """See `judge`."""
        return judge(path, root, worker=self._take())

    def judge_slice(self, path: Path, dataset: str, slice_: str, root: x509.Certificate | None) -> SliceReport:
        """See `judge_slice`."""
        return judge_slice(path, dataset, slice_, root, worker=self._take())

    def judge_sources(self, path: Path, dataset: str) -> Joined:
        """See `judge_sources`."""
        return judge_sources(path, dataset, worker=self._take())

    def _take(self) -> Worker | None:
        worker, self._first = self._first, None
        return worker


def judge(path: Path, root: x509.Certificate | None, timeout: float | None = None, worker: Worker | None = None) -> SegmentReport:
    """Judge ``path`` in a limited worker.

    Args:
        path: the file.
        root: certificate of the facility's CA.
        timeout: seconds; by default what a slow disk needs for a file of that size.
        worker: one that was started before.

    Returns:
        The worker's report; level 0 when the worker died, hung or said nothing.
    """
    try:
        return (worker or Worker()).ask(path, root, timeout, segment_from_json)
    except ValueError as error:
        return SegmentReport(str(path), 0, str(error))


def judge_slice(
    path: Path, dataset: str, slice_: str, root: x509.Certificate | None, timeout: float | None = None, worker: Worker | None = None
) -> SliceReport:
    """Judge a slice of ``path`` in a limited worker, as `judge`; ``slice_`` is written as on the command line."""
    try:
        return (worker or Worker()).ask(path, root, timeout, slice_from_json, "--dataset", dataset, "--slice", slice_)
    except ValueError as error:
        return SliceReport(str(path), dataset, 0, str(error))


def judge_sources(path: Path, dataset: str, timeout: float | None = None, worker: Worker | None = None) -> Joined:
    """Have a limited worker say which segments a master file joins into a dataset."""
    try:
        return (worker or Worker()).ask(path, None, timeout, joined_from_json, "--sources", dataset)
    except ValueError as error:
        return Joined(dataset, error=f"{path.name}: {error}")


def _no_answer(code: int, err: bytes) -> ValueError:
    said = err.decode(errors="replace").strip().splitlines()
    return ValueError(f"the verifier stopped without an answer (exit {code}): {said[-1] if said else ''}")


def _pem(root: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return root.public_bytes(Encoding.PEM)


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
