"""Which segments of a run another party has seen: WITNESS receipts and inclusion proofs (docs/signed-chunks.md, Receipts, level 3).

Each receipt and each proof stands for itself: one that does not hold is left out and said, and spoils nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509

from edge_agent.seal import cose, leaf
from edge_agent.seal.cbor import SealError
from edge_agent.seal.keys import load_certificate, receipt_key
from edge_agent.seal.receipt import Inclusion, Receipts, Witness, parse_witness
from edge_agent.seal.tree import check_inclusion, leaf_hash


@dataclass(frozen=True, slots=True)
class Seen:
    """``times`` maps leaves proven to be in a witnessed log to the earliest server time (UTC ns); ``notes`` say what failed."""

    times: dict[leaf.SegmentClose, int]
    notes: tuple[str, ...]


def seen(receipts: Receipts, agent_id: bytes, root: x509.Certificate) -> Seen:
    """The SEGMENT_CLOSE leaves of an agent that a landing service under ``root`` has witnessed."""
    notes: list[str] = []
    certificates = _readable(receipts.certificates, notes)
    witnesses = [w for number, data in enumerate(receipts.receipts) if (w := _witness(number, data, certificates, root, notes))]
    times: dict[leaf.SegmentClose, int] = {}
    for number, inclusion in enumerate(receipts.inclusions):
        holding = [w.t_ns for w in witnesses if w.agent_id == agent_id and _holds(inclusion, w)]
        if not holding:
            notes.append(f"receipts: proof {number} leads to no valid witness")
            continue
        try:
            item = leaf.parse(inclusion.payload)
        except SealError as error:
            notes.append(f"receipts: proof {number}: {error}")
            continue
        if isinstance(item, leaf.SegmentClose):
            times[item] = min([*holding, times.get(item, holding[0])])
    return Seen(times, tuple(notes))


def _readable(certificates: Iterable[bytes], notes: list[str]) -> list[bytes]:
    kept = []
    for number, der in enumerate(certificates):
        try:
            load_certificate(der)
        except SealError as error:
            notes.append(f"receipts: certificate {number}: {error}")
        else:
            kept.append(der)
    return kept


def _witness(number: int, data: bytes, certificates: list[bytes], root: x509.Certificate, notes: list[str]) -> Witness | None:
    try:
        signed = cose.parse(data)
        if signed.content_type == cose.CUSTODY:
            return None
        key = receipt_key(certificates, signed.kid, root)
        if key is None:
            raise SealError("not signed by a receipt key under the given root")
        return parse_witness(signed.check(key, cose.WITNESS))
    except SealError as error:
        notes.append(f"receipts: receipt {number}: {error}")
        return None


def _holds(inclusion: Inclusion, witness: Witness) -> bool:
    return (witness.log_id, witness.size) == (inclusion.log_id, inclusion.size) and check_inclusion(
        leaf_hash(inclusion.payload), inclusion.index, inclusion.size, inclusion.proof, witness.root
    )
