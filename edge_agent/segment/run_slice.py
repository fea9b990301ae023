"""Judges a slice of a whole run, its elements counted over all segments, and opens only the segments that hold it.

Where an element lies is told by the master file, whose digest stands in the signed run statement; a run of one segment is that segment.
What each segment holds is judged as in any slice (docs/signed-chunks.md, One slice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509

from edge_agent.seal.cbor import SealError
from edge_agent.segment.disk import check_file, inside
from edge_agent.segment.proof import together
from edge_agent.segment.report import INTACT, SIGNED, Joined, SliceReport
from edge_agent.segment.slice import Bounds, with_statement
from edge_agent.segment.statement import Stated, open_sidecar

Judge = Callable[[Path, str, str, x509.Certificate | None], SliceReport]
"""How a slice of one segment is judged: in a worker, for foreign files."""
Sources = Callable[[Path, str], Joined]


@dataclass(frozen=True, slots=True)
class Found:
    """The report of a slice of a run, and the places in its segments, for `proof.export`."""

    report: SliceReport
    places: tuple[tuple[Path, str, Bounds], ...] = ()


def run_of(path: Path) -> Path | None:
    """The ``.hsc`` file of the run that a path stands for: a folder, the file itself, or a master; None when it is a segment."""
    if path.is_dir():
        found = sorted(path.glob("*.hsc"))
        return found[0] if len(found) == 1 else None
    beside = path.with_suffix(".hsc")
    return beside if path.suffix in (".hsc", ".nxs") and beside.is_file() else None


def verify_run_slice(
    path: Path, dataset: str, bounds: Bounds, root: x509.Certificate | None, *, judge: Judge, sources: Sources,
    tsa_roots: Sequence[x509.Certificate] = (),
) -> Found:  # fmt: skip
    """Judge a slice of a run.

    Args:
        path: its ``.hsc`` file.
        dataset: absolute path of a dataset in its segments.
        bounds: the slice; along the first axis over the whole run.
        root: certificate of the facility's CA; without one the highest level is 1.
        judge: how each segment's part is judged.
        sources: how the master file is read.
        tsa_roots: authorities of time-stamping services.

    Returns:
        The report, with ``bounds`` over the whole run; whatever is wrong is its ``reason``.
    """
    report = SliceReport(str(path), dataset, 0)
    try:
        stated = open_sidecar(path, root)
        where = _members(stated, dataset, sources)
        places = tuple(_places(stated, where, bounds))
        found = [with_statement(_judged(stated, place, root, judge), stated, root, tsa_roots) for place, _ in places]
    except SealError as error:
        return Found(replace(report, reason=str(error)))
    first, last = found[0].bounds, found[-1].bounds
    whole = ((places[0][1] + first[0][0], places[-1][1] + last[0][1]), *first[1:])
    return Found(together(found, replace(report, bounds=whole)), tuple(place for place, _ in places))


def _members(stated: Stated, dataset: str, sources: Sources) -> Joined:
    master = stated.statement.master
    if master is not None:
        found = sources(check_file(stated.folder, master.name, master.size, master.sha256), dataset)
        if not found.members:
            raise SealError(found.error or f"{found.dataset}: the master file joins nothing")
        return found
    names = [entry.name for entry in stated.statement.segments if entry.name is not None]
    if len(names) != 1:
        raise SealError("the run has no master file that says where its data lie")
    return Joined(dataset, ((names[0], 0),))


def _places(stated: Stated, where: Joined, bounds: Bounds) -> list[tuple[tuple[Path, str, Bounds], int]]:
    """The places that hold the slice, each with where its segment begins in the run."""
    first_axis = bounds[0] if bounds else (None, None)
    if stated.statement.master is None:
        return [((inside(stated.folder, where.members[0][0]), where.dataset, bounds), 0)]
    total = sum(length for _, length in where.members)
    begin, end = first_axis[0] or 0, total if first_axis[1] is None else first_axis[1]
    if not begin < end <= total:
        raise SealError(f"{where.dataset}: the slice {begin}:{end} is empty or outside of the {total} elements of the run")
    found, at = [], 0
    for name, length in where.members:
        if begin < at + length and at < end:
            part = (max(begin - at, 0), min(end - at, length))
            found.append(((inside(stated.folder, name), where.dataset, (part, *bounds[1:])), at))
        at += length
    return found


def _judged(stated: Stated, place: tuple[Path, str, Bounds], root: x509.Certificate | None, judge: Judge) -> SliceReport:
    path, dataset, bounds = place
    report = judge(path, dataset, text_of(bounds), root)
    if report.level == 0:
        raise SealError(f"{path.name}: {report.reason}")
    entries = {entry.name: (entry.segment_id, entry.head) for entry in stated.statement.segments}
    if entries.get(path.name) != (report.segment_id, report.head):
        raise SealError(f"{path.name}: not the segment that the run statement names")
    wrong = stated.downgrade if stated.trusted.rooted else "the key chain of the run statement does not lead to the given root"
    return replace(report, level=INTACT, reason=wrong) if wrong and report.level == SIGNED else report


def text_of(bounds: Bounds) -> str:
    """Bounds as they are written on a command line."""
    written = (f"{'' if first is None else first}:{'' if end is None else end}" for first, end in bounds)
    return ",".join(written) or ":"
