"""Judges a whole run: the signed statement beside it, every file that it names, every segment, who has seen it, what was amended.

A run has the lowest level of its parts, and level 0 when a part is missing (docs/signed-chunks.md, Beside a run and Levels). Segments
are foreign HDF5 and are judged in workers unless the caller says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cryptography import x509

from edge_agent.seal.cbor import SealError
from edge_agent.seal.sidecar import RunStatement, SegmentEntry
from edge_agent.segment import judge as judging
from edge_agent.segment.disk import check_file, inside
from edge_agent.segment.late import with_receipts
from edge_agent.segment.report import INTACT, SIGNED, GapCount, RunReport, SegmentReport
from edge_agent.segment.statement import Stated, open_sidecar, sidecar_of
from edge_agent.segment.vendor import check_series


def verify_run(
    path: Path, root: x509.Certificate | None, *, tsa_roots: Sequence[x509.Certificate] = (), judge: judging.Judge = judging.judge
) -> RunReport:
    """Judge a run.

    Args:
        path: its folder, or its ``.hsc`` file.
        root: certificate of the facility's CA; without one the highest level is 1.
        tsa_roots: authorities of time-stamping services; without one the highest level is 3.
        judge: how each segment is judged.

    Returns:
        The report; ``reason`` is the first thing wrong, by file and, within a segment, by dataset and coordinate.
    """
    report = RunReport(str(path), 0)
    try:
        file = sidecar_of(path)
        stated = open_sidecar(file, root)
        report = _described(report, stated)
        segments = tuple(_segment(stated, entry, root, judge) for entry in stated.statement.segments if entry.name is not None)
        report = replace(report, segments=segments)
        for segment in segments:
            if segment.level < INTACT:
                raise SealError(f"{Path(segment.path).name}: {segment.reason}")
        series = check_series(stated)
        report = replace(report, files=len(stated.statement.files))
        parts = sorted((*segments, *series), key=lambda part: part.ordinal)
        _check_parts(stated.statement, parts)
        _check_others(stated)
        downgrade = stated.downgrade or next((s.reason for s in segments if s.level == INTACT and s.rooted), "")
        rooted = stated.trusted.rooted and all(segment.rooted for segment in segments)
        if not rooted and len({stated.trusted.identity, *(part.identity for part in parts)}) > 1:
            raise SealError("signed by several identity keys, of which not all lead to the given root")
    except SealError as error:
        return replace(report, reason=str(error))
    if root is None or not rooted:
        unknown = "signed by an unknown key" if root is None else "the key chain does not lead to the given root"
        return _capped(with_receipts(replace(report, level=INTACT, reason=unknown), stated, None, ()))
    if downgrade:
        return _capped(with_receipts(replace(report, level=INTACT, reason=downgrade), stated, None, ()))
    return _capped(with_receipts(replace(report, level=SIGNED), stated, root, tsa_roots))


def _capped(report: RunReport) -> RunReport:
    """At most level 2 when a clock told a time that cannot be."""
    told = (f"{Path(segment.path).name}: {segment.warning}" for segment in report.segments if segment.warning)
    warnings = (*told, *report.warnings)
    return replace(report, warnings=warnings, level=min(report.level, SIGNED)) if warnings else report


def _described(report: RunReport, stated: Stated) -> RunReport:
    statement = stated.statement
    return replace(
        report,
        agent_id=statement.agent_id,
        run_id=statement.run_id,
        run_no=statement.run_no,
        outcome=statement.outcome,
        policy=statement.policy,
        identity=stated.trusted.identity,
        gaps=tuple(GapCount(source, gaps, missing) for source, gaps, missing in statement.gaps),
    )


def _segment(stated: Stated, entry: SegmentEntry, root: x509.Certificate | None, judge: judging.Judge) -> SegmentReport:
    name = entry.name or ""
    try:
        path = inside(stated.folder, name)
        # Both read the whole file: one in this process, one in the worker.
        with ThreadPoolExecutor(1) as beside:
            whole = beside.submit(check_file, stated.folder, name, entry.size, entry.sha256)
            report = judge(path, root)
        if report.level < INTACT:
            return report
        if report.segment_id != entry.segment_id:
            raise SealError("not the segment that the run statement names")
        # Last, because what the judge finds is named by dataset and coordinate.
        whole.result()
    except SealError as error:
        return SegmentReport(str(stated.folder / name), 0, str(error).removeprefix(f"{name}: "))
    return report


def _check_parts(statement: RunStatement, parts: list[SegmentReport]) -> None:
    """That the parts are those of this run, follow each other, and have the gaps that the statement counts."""
    before: dict[str, SegmentReport] = {}
    gaps: dict[str, list[GapCount]] = {}
    for entry, part in zip(statement.segments, parts, strict=True):
        try:
            said = (part.segment_id, part.head, part.ordinal, part.run_id, part.run_no, part.agent_id, part.policy)
            if said != (
                entry.segment_id, entry.head, entry.ordinal, statement.run_id, statement.run_no, statement.agent_id, statement.policy
            ):  # fmt: skip
                raise SealError("not the segment that the run statement names")
            if part.series in before:
                _check_follows(part, before[part.series])
        except SealError as error:
            raise SealError(f"{entry.name or f'segment {entry.ordinal} (vendor files)'}: {error}") from error
        before[part.series] = part
        for gap in part.gaps:
            gaps.setdefault(gap.source_id, []).append(gap)
    counted = set(map(_added, gaps.values()))
    stated = {GapCount(source, n, missing) for source, n, missing in statement.gaps if n}
    if counted != stated:
        first = min(counted ^ stated, key=lambda gap: gap.source_id)
        raise SealError(f"run statement: the gaps of {first.source_id} are not those of its segments")


def _check_follows(part: SegmentReport, earlier: SegmentReport) -> None:
    if part.previous != (earlier.segment_id, earlier.head):
        raise SealError(f"does not follow segment {earlier.ordinal} as it was closed")
    for source, start in part.start_seq.items():
        if earlier.last_seq.get(source, start) != start:
            raise SealError(f"{source} goes on after {start}, and segment {earlier.ordinal} ended at {earlier.last_seq[source]}")


def _added(gaps: list[GapCount]) -> GapCount:
    missing = [gap.missing for gap in gaps]
    known = sum(count for count in missing if count is not None)
    return GapCount(gaps[0].source_id, sum(gap.gaps for gap in gaps), None if None in missing else known)


def _check_others(stated: Stated) -> None:
    master = stated.statement.master
    if master is not None:
        check_file(stated.folder, master.name, master.size, master.sha256)
    for name, digest in sorted(stated.statement.others.items()):
        check_file(stated.folder, name, None, digest)
