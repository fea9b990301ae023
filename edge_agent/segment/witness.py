"""Which segments of a run another party has seen: WITNESS receipts and inclusion proofs (docs/signed-chunks.md, Receipts, level 3).

One receipt or proof that does not hold, or two roots for one log and size, and the file proves nothing.
"""

from __future__ import annotations

from cryptography import x509

from edge_agent.seal import cose, leaf
from edge_agent.seal.cbor import SealError
from edge_agent.seal.keys import receipt_key
from edge_agent.seal.receipt import Inclusion, Receipts, Witness, parse_custody, parse_witness
from edge_agent.seal.sidecar import RunStatement
from edge_agent.seal.tree import check_inclusion, leaf_hash

PROOFS = frozenset({"fsynced", "store-digest", "read-back"})


def seen(receipts: Receipts, statement: RunStatement, root: x509.Certificate) -> dict[bytes, int]:
    """Segment ids whose close is proven to be in a log that a landing service under ``root`` has witnessed.

    Returns:
        The earliest server time (UTC ns) for each.

    Raises:
        SealError: the first receipt or proof that does not hold, by its number.
    """
    witnesses: dict[tuple[bytes, int], list[Witness]] = {}
    for number, data in enumerate(receipts.receipts):
        try:
            witness = _receipt(data, receipts.certificates, statement, root)
        except SealError as error:
            raise SealError(f"receipt {number}: {error}") from error
        if witness is not None:
            same = witnesses.setdefault((witness.log_id, witness.size), [])
            same.append(witness)
            if witness.root != same[0].root:
                raise SealError(f"receipt {number}: a fork, another root of the same log and size")
    times: dict[bytes, int] = {}
    closes = {(e.segment_id, e.head, statement.run_id, e.ordinal) for e in statement.segments}
    for number, inclusion in enumerate(receipts.inclusions):
        try:
            item, t_ns = _included(inclusion, witnesses.get((inclusion.log_id, inclusion.size), []))
        except SealError as error:
            raise SealError(f"proof {number}: {error}") from error
        if isinstance(item, leaf.SegmentClose) and (item.segment_id, item.head, item.run_id, item.ordinal) in closes:
            times[item.segment_id] = min(t_ns, times.get(item.segment_id, t_ns))
    return times


def _receipt(data: bytes, certificates: tuple[bytes, ...], statement: RunStatement, root: x509.Certificate) -> Witness | None:
    """A WITNESS receipt; None for a CUSTODY receipt that holds."""
    signed = cose.parse(data)
    key = receipt_key(certificates, signed.kid, root)
    if key is None:
        raise SealError("not signed by a receipt key under the given root")
    if signed.content_type == cose.CUSTODY:
        custody = parse_custody(signed.check(key, cose.CUSTODY))
        if custody.agent_id != statement.agent_id or custody.durable not in PROOFS:
            raise SealError("of another agent, or of an unknown kind of proof")
        for entry in statement.segments:
            given = (custody.head, custody.sha256, custody.size)
            if custody.segment_id == entry.segment_id and given != (entry.head, entry.sha256, entry.size):
                raise SealError(f"custody of other bytes than those of segment {entry.ordinal}")
        return None
    witness = parse_witness(signed.check(key, cose.WITNESS))
    if witness.agent_id != statement.agent_id:
        raise SealError("of another agent")
    return witness


def _included(inclusion: Inclusion, witnesses: list[Witness]) -> tuple[leaf.LogLeaf, int]:
    """The leaf that is proven, and the earliest time at which its log was seen."""
    if not witnesses or not check_inclusion(
        leaf_hash(inclusion.payload), inclusion.index, inclusion.size, inclusion.proof, witnesses[0].root
    ):
        raise SealError("leads to no valid witness")
    item = leaf.parse(inclusion.payload)
    if not isinstance(item, leaf.LogLeaf):
        raise SealError(f"of a leaf of type {item.TYPE}, which no agent log has")
    return item, min(witness.t_ns for witness in witnesses)
