"""What the leaves of a series say of it, as a report; needs no HDF5, so whoever waits for a worker may load it."""

from __future__ import annotations

from dataclasses import replace

from edge_agent.seal.cbor import SealError
from edge_agent.seal.keys import Trusted
from edge_agent.segment.account import Account
from edge_agent.segment.report import SegmentReport


def described(report: SegmentReport, found: Account, trusted: Trusted) -> SegmentReport:
    """The report with what the leaves say.

    Raises:
        SealError: OPEN names another agent than the key chain.
    """
    opening, closing = found.opening, found.closing
    if opening.agent_id != trusted.agent_id:
        raise SealError("OPEN names another agent than the key chain")
    return replace(
        report,
        segment_id=opening.segment_id,
        agent_id=opening.agent_id,
        run_id=opening.run_id,
        run_no=opening.run_no,
        ordinal=opening.ordinal,
        series=opening.series,
        previous=opening.previous,
        policy=closing.policy,
        outcome=closing.outcome,
        identity=trusted.identity,
        rooted=trusted.rooted,
        chunks=sum(len(leaves) for leaves in found.chunks.values()),
        gaps=found.counted_gaps(),
        start_seq=dict(opening.last_seq),
        last_seq=found.last_seq,
        uncounted=found.uncounted(),
    )
