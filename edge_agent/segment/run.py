"""Judges a whole run: the signed statement beside it, every file that it names, every segment, and who has seen it.

A run has the lowest level of its parts, and level 0 when a part is missing (docs/signed-chunks.md, Beside a run and Levels). Segments
are foreign HDF5 and are judged in workers unless the caller says otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography import x509

from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.head import head_hash
from edge_agent.seal.keys import Trusted, check_chain
from edge_agent.seal.leaf import FileLeaf
from edge_agent.seal.receipt import parse_receipts
from edge_agent.seal.sidecar import NamedFile, RunStatement, SegmentEntry, Sidecar, parse_run, parse_sidecar
from edge_agent.segment import judge as judging
from edge_agent.segment.account import Account, GapCount, account
from edge_agent.segment.disk import check_file, check_vendor_file, inside
from edge_agent.segment.heads import check_close_head, signed_head
from edge_agent.segment.report import INTACT, SIGNED, WITNESSED, RunReport, SegmentReport
from edge_agent.segment.witness import seen

MAX_SIDECAR = 512 << 20


def verify_run(path: Path, root: x509.Certificate | None, *, judge: judging.Judge = judging.judge) -> RunReport:
    """Judge a run.

    Args:
        path: its folder, or its ``.hsc`` file.
        root: certificate of the facility's CA; without one the highest level is 1.
        judge: how each segment is judged.

    Returns:
        The report; ``reason`` is the first thing wrong, by file and, within a segment, by dataset and coordinate.
    """
    report = RunReport(str(path), 0)
    try:
        file = _sidecar_of(path)
        sidecar = parse_sidecar(_read(file))
        trusted = check_chain(sidecar.chain, root)
        statement = _statement(sidecar, trusted)
        report = _described(report, statement, trusted)
        _check_heads(sidecar, statement, trusted)
        segments = tuple(_segment(file.parent, entry, statement, root, judge) for entry in statement.segments if entry.name is not None)
        report = replace(report, segments=segments)
        for segment in segments:
            if segment.level < INTACT:
                raise SealError(f"{Path(segment.path).name}: {segment.reason}")
        files = _series(file.parent, sidecar, statement, trusted)
        report = replace(report, files=files)
        _check_order(statement, segments)
        _check_others(file.parent, statement)
    except SealError as error:
        return replace(report, reason=str(error))
    if not trusted.rooted or root is None:
        unknown = "signed by an unknown key" if root is None else "the key chain does not lead to the given root"
        return replace(report, level=INTACT, reason=unknown)
    report = replace(report, level=min([SIGNED, *(segment.level for segment in segments)]))
    if report.level < SIGNED:
        return replace(report, reason=next(segment.reason for segment in segments if segment.level == report.level))
    return _witnessed(report, file.with_suffix(".receipts"), statement, root)


def _sidecar_of(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.hsc"))
    if not found:
        raise SealError("no .hsc file in this folder: no run, or one that is still open")
    if len(found) > 1:
        raise SealError(f"{len(found)} .hsc files in this folder, where one belongs")
    return found[0]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIDECAR + 1)
    except OSError as error:
        raise SealError(f"{path.name}: cannot be read: {error}") from error
    if len(data) > MAX_SIDECAR:
        raise SealError(f"{path.name}: larger than {MAX_SIDECAR} bytes")
    return data


def _statement(sidecar: Sidecar, trusted: Trusted) -> RunStatement:
    signed = cose.parse(sidecar.statement)
    record = trusted.sessions.get(signed.kid)
    if record is None:
        raise SealError("run statement: signed by a key that is not in the key chain")
    statement = parse_run(signed.check(record.key, cose.RUN))
    if statement.agent_id != trusted.agent_id:
        raise SealError("run statement: names another agent than its key chain")
    for number, entry in enumerate(statement.segments, 1):
        if entry.ordinal != number:
            raise SealError(f"run statement: segment {entry.ordinal} stands where segment {number} belongs")
    return statement


def _described(report: RunReport, statement: RunStatement, trusted: Trusted) -> RunReport:
    return replace(
        report,
        agent_id=statement.agent_id,
        run_id=statement.run_id,
        run_no=statement.run_no,
        outcome=statement.outcome,
        policy=statement.policy,
        identity=trusted.identity,
        gaps=tuple(GapCount(source, gaps, missing) for source, gaps, missing in statement.gaps),
    )


def _check_heads(sidecar: Sidecar, statement: RunStatement, trusted: Trusted) -> None:
    heads = {}
    for number, data in enumerate(sidecar.heads, 1):
        try:
            head, digest = signed_head(data, trusted)
        except SealError as error:
            raise SealError(f"close head {number}: {error}") from error
        heads[digest] = (head.tree_id, int(head.state))
    if len(heads) != len(statement.segments):
        raise SealError(f"{len(heads)} close heads for {len(statement.segments)} segments")
    for entry in statement.segments:
        if heads.get(entry.head) != (entry.segment_id, entry.state):
            raise SealError(f"segment {entry.ordinal}: no close head for it")


def _segment(
    folder: Path, entry: SegmentEntry, statement: RunStatement, root: x509.Certificate | None, judge: judging.Judge
) -> SegmentReport:
    name = entry.name or ""
    try:
        report = judge(inside(folder, name), root)
        if report.level < INTACT:
            return report
        said = (report.segment_id, report.head, report.ordinal, report.run_id, report.run_no, report.agent_id)
        signed = (entry.segment_id, entry.head, entry.ordinal, statement.run_id, statement.run_no, statement.agent_id)
        if said != signed:
            raise SealError("not the segment that the run statement names")
        # Last, because what the judge finds is named by dataset and coordinate.
        check_file(folder, name, entry.size, entry.sha256)
    except SealError as error:
        return SegmentReport(str(folder / name), 0, str(error).removeprefix(f"{name}: "))
    return report


def _series(folder: Path, sidecar: Sidecar, statement: RunStatement, trusted: Trusted) -> int:
    """Check the series of vendor files; returns the number of files."""
    entries = [entry for entry in statement.segments if entry.name is None]
    if {entry.segment_id for entry in entries} != set(sidecar.trees) or len(entries) != len(sidecar.trees):
        raise SealError("the trees of vendor files are not those of the run statement")
    heads = {head_hash(cose.parse(data).payload): data for data in sidecar.heads}
    latest: dict[str, FileLeaf] = {}
    for entry in entries:
        where = f"segment {entry.ordinal} (vendor files)"
        leaves = sidecar.trees[entry.segment_id]
        try:
            found = account(leaves, (), files=True)
            _check_opening(found, entry, statement)
            check_close_head(heads[entry.head], trusted, entry.segment_id, leaves)
        except SealError as error:
            raise SealError(f"{where}: {error}") from error
        # A file that changed later in the run was adopted again: the last leaf is what lies there now.
        latest |= {item.path: item for item in found.files}
    signed = {NamedFile(item.path, item.size, item.digest) for item in latest.values()}
    if set(statement.files) != signed or len(statement.files) != len(signed):
        raise SealError("the vendor files of the run statement are not those of the FILE leaves")
    for item in latest.values():
        check_vendor_file(folder, item)
    return len(latest)


def _check_opening(found: Account, entry: SegmentEntry, statement: RunStatement) -> None:
    opening = found.opening
    said = (opening.segment_id, opening.ordinal, opening.run_id, opening.run_no, opening.agent_id)
    if said != (entry.segment_id, entry.ordinal, statement.run_id, statement.run_no, statement.agent_id):
        raise SealError("OPEN is not of this run")


def _check_order(statement: RunStatement, segments: tuple[SegmentReport, ...]) -> None:
    """That every segment which names one of this run as the one before it names it rightly."""
    entries = {entry.segment_id: entry for entry in statement.segments}
    for segment in segments:
        before = entries.get(segment.previous[0]) if segment.previous else None
        if before is not None and segment.previous and (before.head != segment.previous[1] or before.ordinal >= segment.ordinal):
            raise SealError(f"{Path(segment.path).name}: does not follow segment {before.ordinal} as it was closed")


def _check_others(folder: Path, statement: RunStatement) -> None:
    if statement.master is not None:
        check_file(folder, statement.master.name, statement.master.size, statement.master.sha256)
    for name, digest in sorted(statement.others.items()):
        check_file(folder, name, None, digest)


def _witnessed(report: RunReport, path: Path, statement: RunStatement, root: x509.Certificate) -> RunReport:
    """Level 3 when every segment is in a witnessed log; what is wrong with the receipts is a note, for they come later."""
    if not path.is_file():
        return replace(report, notes=("no receipts beside the run yet",))
    try:
        known = seen(parse_receipts(_read(path)), statement.agent_id, root)
    except SealError as error:
        return replace(report, notes=(f"{path.name}: {error}",))
    times = {(item.segment_id, item.head, item.run_id, item.ordinal): t_ns for item, t_ns in known.times.items()}
    wanted = [(entry.segment_id, entry.head, statement.run_id, entry.ordinal) for entry in statement.segments]
    found = [times[key] for key in wanted if key in times]
    report = replace(report, witnessed=len(found), notes=known.notes)
    if len(found) < len(wanted) or not wanted:
        return replace(report, notes=(*known.notes, f"{len(found)} of {len(wanted)} segments are witnessed"))
    return replace(report, level=WITNESSED, witnessed_ns=max(found))
