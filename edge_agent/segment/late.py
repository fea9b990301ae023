"""What came after a run was closed and raises its level or adds to it: ``<run>.receipts`` with receipts, time-stamps and amendments.

One wrong receipt, proof or amendment, and the file proves nothing. A time-stamp that the given authorities do not vouch for counts for
nothing by itself: whoever adds one must not be able to take the others' worth away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cryptography import x509

from edge_agent.seal import cose
from edge_agent.seal.amendment import Amendment, check_amendments
from edge_agent.seal.cbor import SealError
from edge_agent.seal.head import parse_head
from edge_agent.seal.keys import check_chain, check_receipt_certificates
from edge_agent.seal.receipt import NO_KEYS, Receipts, parse_receipts, parse_witness
from edge_agent.seal.sidecar import SegmentEntry
from edge_agent.segment.clock import ALLOWED_NS
from edge_agent.segment.positions import misplaced
from edge_agent.segment.report import INTACT, SIGNED, STAMPED, WITNESSED, RunReport
from edge_agent.segment.statement import Stated, read_small
from edge_agent.segment.witness import seen


def with_receipts(
    report: RunReport, stated: Stated, root: x509.Certificate | None, tsa_roots: Sequence[x509.Certificate], data: bytes | None = None
) -> RunReport:
    """The report with what the receipts add; what is wrong with them is a note, for they come later.

    Args:
        report: of the run, at level 2 with a root, at level 1 without.
        stated: its checked sidecar.
        root: certificate of the facility's CA, if the run leads to it.
        tsa_roots: authorities of time-stamping services.
        data: the receipts; default: those beside the run.
    """
    path = stated.path.with_suffix(".receipts")
    if data is None and not path.is_file():
        return replace(report, notes=("no receipts beside the run yet",) if root is not None else ())
    try:
        receipts = parse_receipts(read_small(path) if data is None else data)
        check_receipt_certificates(receipts.certificates)
        amendments = _amendments(receipts, stated, root)
        times = seen(receipts, stated.statement, root) if root is not None else {}
        wrong = misplaced(receipts.inclusions, stated) if root is not None else ""
    except SealError as error:
        return replace(report, notes=(f"{path.name}: {error}",))
    report = replace(report, amendments=amendments)
    if wrong:
        return replace(report, level=INTACT, reason=wrong)
    if root is not None:
        report = _stamped(_witnessed(report, stated, times, receipts), receipts, stated, tsa_roots)
    return replace(report, level=min(report.level, SIGNED)) if report.warnings else report


def _amendments(receipts: Receipts, stated: Stated, root: x509.Certificate | None) -> tuple[Amendment, ...]:
    if not receipts.amendments:
        if receipts.chain != NO_KEYS:
            raise SealError("keys for amendments, and there are none")
        return ()
    trusted = check_chain(receipts.chain, root)
    if not (trusted.rooted if root is not None else trusted.identity == stated.trusted.identity):
        raise SealError("amendments are signed by a key that is not the agent's")
    return check_amendments(receipts.amendments, trusted, stated.statement.agent_id, stated.statement.run_id, stated.digest)


def _witnessed(report: RunReport, stated: Stated, times: dict[bytes, int], receipts: Receipts) -> RunReport:
    """Level 3 when every segment is in a witnessed log."""
    segments = stated.statement.segments
    found = [times[entry.segment_id] for entry in segments if entry.segment_id in times]
    report = replace(report, witnessed=len(found))
    if len(found) < len(segments) or not found:
        return replace(report, notes=(f"{len(found)} of {len(segments)} segments are witnessed",))
    held = {hashlib.sha256(data).digest(): data for data in receipts.receipts}
    told = (_impossible(entry, stated, times[entry.segment_id], held) for entry in segments)
    return replace(report, level=WITNESSED, witnessed_ns=max(found), warnings=tuple(filter(None, told)))


def _impossible(entry: SegmentEntry, stated: Stated, witnessed_ns: int, held: Mapping[bytes, bytes]) -> str:
    """What to say when a segment's close head is younger than the witness that saw it, or older than the receipt that it names."""
    head = parse_head(cose.payload_of(stated.heads[entry.head]))
    allowed = ALLOWED_NS + max(head.clock.uncertainty_ns or 0, 0)
    ahead = head.t_utc_ns - witnessed_ns
    if ahead > allowed:
        return f"segment {entry.ordinal}: clock: it was witnessed {ahead / 1e9:.3f} s before the time of its close head"
    if head.not_before is None:
        return ""
    signed = cose.parse(held[head.not_before]) if head.not_before in held else None
    if signed is None or signed.content_type != cose.WITNESS:
        return f"segment {entry.ordinal}: the receipt that its close head names is not among the receipts"
    behind = parse_witness(signed.payload).t_ns - head.t_utc_ns
    if behind > allowed:
        return f"segment {entry.ordinal}: clock: its close head names a receipt that is {behind / 1e9:.3f} s younger"
    return ""


def _stamped(report: RunReport, receipts: Receipts, stated: Stated, roots: Sequence[x509.Certificate]) -> RunReport:
    """Level 4 when a witnessed run's sidecar has a time-stamp that a given authority vouches for."""
    if not receipts.tokens:
        return report
    if not roots:
        return replace(report, notes=(*report.notes, f"{len(receipts.tokens)} time-stamps, not judged without their authority's root"))
    # Here, because it needs a library that nothing else needs.
    from edge_agent.seal.timestamp import check_token

    heads = {parse_witness(signed.payload).head for data in receipts.receipts if (signed := cose.parse(data)).content_type == cose.WITNESS}
    times: dict[bytes, int] = {}
    notes = list(report.notes)
    for number, token in enumerate(receipts.tokens):
        try:
            stamp = check_token(token, roots)
            if stamp.digest != stated.digest and stamp.digest not in heads:
                raise SealError("time-stamp: of something else than this run's sidecar or a witnessed head")
        except SealError as error:
            notes.append(f"token {number}: {error}")
            continue
        times[stamp.digest] = min(stamp.t_ns, times.get(stamp.digest, stamp.t_ns))
    own = times.get(stated.digest, 0)
    logs = [t_ns for digest, t_ns in times.items() if digest in heads]
    level = STAMPED if own and report.level == WITNESSED else report.level
    return replace(report, level=level, stamped_ns=own, log_stamped_ns=min(logs, default=0), notes=tuple(notes))
