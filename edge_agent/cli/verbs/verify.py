"""``edge-agent verify PATH...``: whether runs and segments are intact, signed, witnessed and time-stamped; one plain sentence first."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from edge_agent.seal.amendment import Amendment
    from edge_agent.segment.judge import Ready
    from edge_agent.segment.report import RunReport, SegmentReport, SliceReport

    Found = RunReport | SegmentReport


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("verify", help=t("Check that runs and segments are intact, signed and witnessed."))(verify)


def verify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help=t("A run's folder, a segment, or any folder above them."))],
    root: Annotated[
        Path | None, typer.Option("--root", metavar="FILE", help=t("The facility's root certificate; without it nobody knows the signer."))
    ] = None,
    tsa_root: Annotated[
        Path | None, typer.Option("--tsa-root", metavar="FILE", help=t("Roots of time-stamping services, to judge time-stamps."))
    ] = None,
    level: Annotated[
        int, typer.Option("--level", min=0, max=4, help=t("What is asked: 1 intact, 2 signed, 3 witnessed, 4 time-stamped."))
    ] = 2,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="PATH", help=t("Check only this dataset of a segment, as /entry/data/data."))
    ] = "",
    slice_: Annotated[
        str, typer.Option("--slice", metavar="A:B,C:D", help=t("Check only these elements of it, and read no more than that needs."))
    ] = ":",
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help=t("Write the slice with its proof to a file that can be checked alone."))
    ] = None,
    as_json: JsonFlag = False,
) -> int:
    """Judge everything; exit code 0 only when all of it reaches ``--level``, else 7."""
    from edge_agent.errors import UsageError
    from edge_agent.segment.judge import Ready

    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UsageError(t("There is nothing at {paths}.", paths=", ".join(missing)), try_=t("give a run's folder or a segment"))
    if not dataset and (export is not None or slice_ != ":"):
        raise UsageError(t("--slice and --export need --dataset."), try_=t("name a dataset of the segment, as --dataset /entry/data/data"))
    with Ready() as ready:
        # Only now: what this loads, it loads while the worker loads.
        from edge_agent.segment.levels import is_proof, verify_path

        certificate = _certificates(root)[0] if root is not None else None
        stampers = _certificates(tsa_root) if tsa_root is not None else []
        if dataset:
            return _slice(ready, paths, dataset, slice_, certificate, stampers, level, export, as_json=as_json)
        if all(path.is_file() and is_proof(path) for path in paths):
            from edge_agent.segment.proof import verify_proof

            return _told([verify_proof(path, certificate, stampers) for path in paths], level, rooted=root is not None, as_json=as_json)
        found = [report for path in paths for report in verify_path(path, certificate, tsa_roots=stampers, judge=ready.judge)]
    if not found:
        raise UsageError(t("There is no run and no segment below {paths}.", paths=", ".join(map(str, paths))))
    return _judged(found, level, rooted=root is not None, as_json=as_json)


def _judged(found: list[Found], level: int, *, rooted: bool, as_json: bool) -> int:
    """Say what runs and segments are worth; the exit code."""
    from edge_agent.cli import output
    from edge_agent.errors import IntegrityError
    from edge_agent.segment.report import RunReport

    lowest = min(report.level for report in found)
    if as_json:
        items = [{"kind": "run" if isinstance(report, RunReport) else "segment", **report.as_json()} for report in found]
        output.emit({"ok": lowest >= level, "level": lowest, "asked": level, "items": items})
    else:
        output.say(_sentence(found, rooted=rooted))
        for report in found:
            output.say(_line(report))
        if lowest == 1 and not rooted:
            output.say(t("Try: {what}", what=t("give the facility's root certificate with --root, to learn whose key it is")))
    return 0 if lowest >= level else IntegrityError.exit_code


def _certificates(file: Path) -> list[Certificate]:
    from edge_agent.segment.roots import load_roots

    return load_roots(file)


def _slice(
    ready: Ready, paths: list[Path], dataset: str, slice_: str, root: Certificate | None, stampers: Sequence[Certificate], level: int,
    target: Path | None, *, as_json: bool,
) -> int:  # fmt: skip
    """Judge one slice of one segment or of a whole run; write it to ``target`` when it reaches level 1."""
    from edge_agent.errors import UsageError
    from edge_agent.segment.proof import export
    from edge_agent.segment.run_slice import Found, run_of, verify_run_slice
    from edge_agent.segment.slice import parse_bounds, with_run

    bounds = parse_bounds(slice_)  # says what is wrong with it before the worker is asked
    run = run_of(paths[0]) if len(paths) == 1 else None
    if run is not None:
        found = verify_run_slice(
            run, dataset, bounds, root, judge=ready.judge_slice, sources=ready.judge_sources, tsa_roots=stampers
        )
    elif len(paths) == 1 and paths[0].is_file():
        report = with_run(ready.judge_slice(paths[0], dataset, slice_, root), root, stampers)
        found = Found(report, ((paths[0], report.dataset, bounds),))
    else:
        raise UsageError(t("A slice is checked in one run or one segment file."), try_=t("give one, as RUN/RUN.nxs"))
    if target is not None and found.report.level:
        export(found.places, target)
    return _told([found.report], level, rooted=root is not None, as_json=as_json)


def _told(reports: Sequence[SliceReport], level: int, *, rooted: bool, as_json: bool) -> int:
    """Say what slices are worth; the exit code."""
    from edge_agent.cli import output
    from edge_agent.errors import IntegrityError

    lowest = min(report.level for report in reports)
    if as_json:
        items = [{"kind": "slice", **report.as_json()} for report in reports]
        output.emit({"ok": lowest >= level, "level": lowest, "asked": level, "items": items})
    else:
        for report in reports:
            output.say(_slice_line(report))
        if lowest == 1 and not rooted:
            output.say(t("Try: {what}", what=t("give the facility's root certificate with --root, to learn whose key it is")))
    return 0 if lowest >= level else IntegrityError.exit_code


def _slice_line(report: SliceReport) -> str:
    from edge_agent.wire.words import six_words

    where = ",".join(f"{first}:{end}" for first, end in report.bounds)
    line = f"{report.path} {report.dataset}[{where}]  {_words()[report.level]}"
    if report.level:
        amounts = {"chunks": report.chunks, "bytes": report.stored, "leaves": report.leaves}
        line += ", " + t("{chunks} chunks of {bytes} bytes checked, {leaves} leaves read", **amounts)
    if report.first is not None:
        line += ", " + t("frames {first} to {last}", first=report.first, last=report.last)
    line += f": {report.reason}" if report.reason else ""
    line += f" ({six_words(report.identity)})" if report.level == 1 else ""
    return line + "".join(f"\n  {note}" for note in report.notes)


def _words() -> tuple[str, ...]:
    """The levels in words."""
    return t("not verified"), t("intact"), t("signed"), t("witnessed"), t("time-stamped")


def _sentence(found: list[Found], *, rooted: bool) -> str:
    """What all of it comes to, in the words of people who record data."""
    lowest = min(report.level for report in found)
    n = len(found)
    if lowest == 0:
        bad = sum(report.level == 0 for report in found)
        return t("{bad} of {n} cannot be trusted: something is damaged, missing or not signed.", bad=bad, n=n)
    if lowest == 1 and rooted:
        return t("Everything is intact ({n} checked), but not all of it is signed by a key that the given root knows.", n=n)
    if lowest == 1:
        return t("Everything is intact ({n} checked), and signed by a key that nobody vouches for here.", n=n)
    if lowest == 2:
        return t("Everything is intact and signed ({n} checked).", n=n)
    if lowest == 4:
        return t("Everything is intact, signed, witnessed and time-stamped ({n} checked).", n=n)
    return t("Everything is intact, signed and witnessed ({n} checked).", n=n)


def _line(report: Found) -> str:
    """One line: the path, what it is worth, how much it holds; then what is wrong, and what is not promised."""
    from edge_agent.segment.report import RunReport
    from edge_agent.wire.words import six_words

    path = Path(report.path)
    # A run is a folder to people, whatever file it was found by.
    line = f"{path.parent if path.suffix == '.hsc' else path}  {_words()[report.level]}"
    amounts = []
    if isinstance(report, RunReport) and report.segments:
        n = len(report.segments)
        amounts.append(t("1 segment") if n == 1 else t("{n} segments", n=n))
    if isinstance(report, RunReport) and report.files:
        amounts.append(t("1 file") if report.files == 1 else t("{n} files", n=report.files))
    if report.level:
        amounts.append(_gaps(report))
    if isinstance(report, RunReport) and report.stamped_ns:
        amounts.append(t("stamped {time}", time=_time(report.stamped_ns)))
    line += "".join(f", {amount}" for amount in amounts)
    if report.reason:
        line += f": {report.reason}"
    if report.level == 1:
        line += f" ({six_words(report.identity)})"
    if isinstance(report, RunReport):
        uncounted = sorted({source for segment in report.segments for source in segment.uncounted})
    else:
        uncounted = list(report.uncounted)
    if uncounted:
        line += "\n  " + t("no counter at the source, so continuity is not promised: {sources}", sources=", ".join(uncounted))
    if isinstance(report, RunReport):
        line += "".join(f"\n  {_amended(amendment)}" for amendment in report.amendments)
    warnings = report.warnings if isinstance(report, RunReport) else tuple(filter(None, (report.warning,)))
    line += "".join("\n  " + t("warning: {what}", what=warning) for warning in warnings)
    return line + "".join(f"\n  {note}" for note in report.notes)


def _amended(amendment: Amendment) -> str:
    """One amendment: who, when, what, why."""
    none = t("not given")
    changes = ", ".join(f"{c.field}: {none if c.old is None else repr(c.old)} -> {c.new!r}" for c in amendment.changes)
    when, who, why = _time(amendment.t_ns), amendment.author, amendment.reason
    return t("amended {time} by {author}: {changes} ({reason})", time=when, author=who, changes=changes, reason=why)


def _time(t_ns: int) -> str:
    return datetime.fromtimestamp(t_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _gaps(report: Found) -> str:
    gaps = sum(gap.gaps for gap in report.gaps)
    if not gaps:
        return t("no gaps")
    missing = [gap.missing for gap in report.gaps]
    known = sum(count for count in missing if count is not None)
    items = f"{known} + ?" if None in missing and known else "?" if None in missing else str(known)
    return t("1 gap ({items} missing)", items=items) if gaps == 1 else t("{n} gaps ({items} missing)", n=gaps, items=items)
