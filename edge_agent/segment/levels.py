"""Finds everything that can be judged below a path: runs by their ``.hsc``, and segments that belong to no run yet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.seal.slice_proof import MAGIC
from edge_agent.segment import judge as judging
from edge_agent.segment.report import RunReport, SegmentReport

if TYPE_CHECKING:
    from cryptography import x509

SUFFIXES = frozenset({".h5", ".hdf5", ".nxs"})


def verify_path(
    path: Path, root: x509.Certificate | None, *, tsa_roots: Sequence[x509.Certificate] = (), judge: judging.Judge = judging.judge
) -> Iterator[RunReport | SegmentReport]:
    """Judge a run, a segment, or every run and single segment below a folder, in the order of their names.

    ``<run>.nxs`` beside ``<run>.hsc`` stands for its run, because it may be a master without a signature of its own. Symbolic links to
    folders are not followed; what lies below a run's folder belongs to the run.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if not path.is_dir():
        beside = path if path.suffix == ".hsc" else path.with_suffix(".hsc")
        whole = path.suffix == ".hsc" or (path.suffix == ".nxs" and beside.is_file())
        yield _run(beside, root, tsa_roots, judge) if whole else judge(path, root)
        return
    for folder, below, names in os.walk(path):
        sidecars = sorted(name for name in names if name.endswith(".hsc"))
        if sidecars:
            below.clear()
            for name in sidecars:
                yield _run(Path(folder, name), root, tsa_roots, judge)
            continue
        below.sort()
        for name in sorted(names):
            if Path(name).suffix in SUFFIXES:
                yield judge(Path(folder, name), root)


def is_proof(path: Path) -> bool:
    """Whether a file begins like an exported slice."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _run(path: Path, root: x509.Certificate | None, tsa_roots: Sequence[x509.Certificate], judge: judging.Judge) -> RunReport:
    # Only now, because it takes longer to load than a worker that judges a single segment.
    from edge_agent.segment.run import verify_run

    return verify_run(path, root, tsa_roots=tsa_roots, judge=judge)
