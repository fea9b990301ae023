"""Exports a slice with its proof, and judges such a file without the segments (docs/signed-chunks.md, Exported slices).

What is judged is what `slice` judges of a segment: close head, OPEN and CLOSE, descriptor, META, and each chunk by its leaf. HDF5 has no
part in it, so a hostile proof is judged in this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
from cryptography import x509

from edge_agent.errors import IntegrityError
from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError, loads
from edge_agent.seal.dsd import Dsd, dsd_digest, parse_dsd
from edge_agent.seal.head import State
from edge_agent.seal.keys import check_chain
from edge_agent.seal.slice_proof import Part, SliceProof, parse_slice_proof
from edge_agent.seal.tree import check_inclusion, leaf_hash
from edge_agent.segment.account import check_mask
from edge_agent.segment.heads import Checked, signed_head
from edge_agent.segment.report import INTACT, SIGNED, SliceReport
from edge_agent.segment.slice import Bounds, check_slice, touched, with_statement, within
from edge_agent.segment.statement import read_sidecar, read_small, sidecar_of
from edge_agent.segment.verify import UNREADABLE
from edge_agent.storage import DISK, durable

MOST = 1 << 30
"""Bytes of stored chunks that are exported; beyond them the segments themselves are handed over."""


def export(places: Sequence[tuple[Path, str, Bounds]], target: Path) -> int:
    """Write what proves some slices of one run, which a worker has judged, to ``target``; returns the bytes written.

    Args:
        places: segment, dataset and slice, in the order of the run.
        target: replaced by rename.

    Raises:
        IntegrityError: something does not hold any more, or it is more than `MOST`.
    """
    parts: list[Part] = []
    for path, dataset, bounds in places:
        report = SliceReport(str(path), dataset, 0)
        try:
            with h5py.File(path, "r", locking=False) as file:
                report = check_slice(file, report, bounds, None, parts)
        except UNREADABLE as error:
            report = replace(report, reason=str(error))
        if report.level == 0:
            raise IntegrityError(f"{path.name} is not exported", why=report.reason, code="NOT_EXPORTED")
    size = sum(len(chunk) for part in parts for chunk in part.chunks)
    if size > MOST:
        raise IntegrityError(
            f"The slice has {size} bytes in its chunks", why=f"at most {MOST} are exported",
            try_="export less, or hand over the segments", code="NOT_EXPORTED",
        )  # fmt: skip
    sidecar, receipts = _beside(places[0][0].parent)
    data = SliceProof(parse_dsd(parts[0].dsd).path, tuple(parts), sidecar, receipts).encode()
    durable.replace_file(DISK, target.absolute(), data)
    return len(data)


def _beside(folder: Path) -> tuple[bytes | None, bytes | None]:
    try:
        path = sidecar_of(folder)
        receipts = path.with_suffix(".receipts")
        return read_small(path), read_small(receipts) if receipts.is_file() else None
    except SealError:
        return None, None


def verify_proof(path: Path, root: x509.Certificate | None, tsa_roots: Sequence[x509.Certificate] = ()) -> SliceReport:
    """Judge an exported slice.

    Args:
        path: the file.
        root: certificate of the facility's CA; without one the highest level is 1.
        tsa_roots: authorities of time-stamping services.

    Returns:
        The report; whatever is wrong is its ``reason``. ``bounds`` are those of the first part.
    """
    report = SliceReport(str(path), "", 0)
    try:
        proof = parse_slice_proof(read_small(path))
        report = replace(report, dataset=proof.dataset)
        found = [_judged(part, report, root) for part in proof.parts]
        ordered = all(one.ordinal < other.ordinal for one, other in pairwise(found))
        if not ordered or len({(one.agent_id, one.run_id) for one in found}) > 1:
            raise SealError("the parts are not of one run in the order of its segments")
        if proof.sidecar is None:
            if len(found) > 1 or proof.receipts is not None:
                raise SealError("several parts or receipts, and no run statement")
            return found[0]
        stated = read_sidecar(proof.sidecar, path, root)
        entries = {(entry.ordinal, entry.segment_id, entry.head) for entry in stated.statement.segments}
        if stated.statement.run_id != found[0].run_id or not entries.issuperset((r.ordinal, r.segment_id, r.head) for r in found):
            raise SealError("the run statement is of another run, or names other segments")
        if proof.receipts is not None:
            found = [with_statement(one, stated, root, tsa_roots, proof.receipts) for one in found]
    except SealError as error:
        return replace(report, reason=str(error))
    return together(found, report)


def together(found: Sequence[SliceReport], report: SliceReport) -> SliceReport:
    """What several slices of a run come to: the lowest level, all chunks; ``report`` names path and dataset."""
    lowest = min(found, key=lambda one: one.level)
    numbers = [n for one in found for n in (one.first, one.last) if n is not None]
    return replace(
        found[0], path=report.path, dataset=found[0].dataset or report.dataset, level=lowest.level, reason=lowest.reason,
        bounds=report.bounds or found[0].bounds, chunks=sum(one.chunks for one in found), stored=sum(one.stored for one in found),
        leaves=sum(one.leaves for one in found), first=min(numbers, default=None), last=max(numbers, default=None),
        segments=len(found), notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )  # fmt: skip


def _judged(part: Part, report: SliceReport, root: x509.Certificate | None) -> SliceReport:
    trusted = check_chain(part.chain, root)
    last = signed_head(part.head, trusted)
    parsed = _leaves(part, last)
    opening, closing, *chunks = parsed
    if not isinstance(opening, leaf.Open) or not isinstance(closing, leaf.Close):
        raise SealError("the first and the last leaf are not OPEN and CLOSE")
    if opening.agent_id != trusted.agent_id or last.head.tree_id != opening.segment_id:
        raise SealError("the close head is of another agent or tree than OPEN")
    dsd = parse_dsd(part.dsd)
    if dsd.path != report.dataset:
        raise SealError(f"{dsd.path}: another dataset than the slice is of")
    shapes = [shape for digest, shape, _ in closing.datasets if digest == dsd_digest(part.dsd)]
    if len(shapes) != 1 or len(shapes[0]) != len(dsd.chunk):
        raise SealError(f"CLOSE: does not name {dsd.path} once")
    if within(dsd, shapes[0], part.bounds) != part.bounds:
        raise SealError(f"{dsd.path}: not all axes are named")
    wanted = list(touched(dsd, part.bounds))
    if not len(wanted) == len(chunks) == len(part.chunks):
        raise SealError(f"{dsd.path}: {len(wanted)} chunks hold the slice, and {len(part.chunks)} are here")
    numbers: list[int] = []
    name = dsd_digest(part.dsd)
    for offset, item, stored in zip(wanted, chunks, part.chunks, strict=True):
        if not isinstance(item, leaf.Chunk) or (item.dsd, item.offset, item.segment_id) != (name, offset, opening.segment_id):
            raise SealError(f"{dsd.path} at {offset}: the leaf is of another chunk")
        check_mask(f"{dsd.path} at {offset}", item, dsd)
        if len(stored) != item.size or hashlib.sha256(stored).digest() != item.digest:
            raise SealError(f"{dsd.path} at {offset}: the stored bytes are not those that were signed")
        numbers += [n for n in (item.seq_first, item.seq_last) if n != leaf.NO_COUNTER]
    _check_meta(part, dsd, closing)
    reason = last.downgrade
    if not trusted.rooted:
        reason = "signed by an unknown key" if root is None else "the key chain does not lead to the given root"
    return replace(
        report, level=INTACT if reason else SIGNED, reason=reason, bounds=part.bounds, chunks=len(chunks),
        stored=sum(map(len, part.chunks)), leaves=len(parsed), first=min(numbers, default=None), last=max(numbers, default=None),
        segment_id=opening.segment_id,
        agent_id=opening.agent_id, run_id=opening.run_id, run_no=opening.run_no, ordinal=opening.ordinal, head=last.hash,
        state=last.head.state.name.lower(), identity=trusted.identity,
    )  # fmt: skip


def _leaves(part: Part, last: Checked) -> list[leaf.Leaf]:
    """The leaves, after each was found in the tree of the close head."""
    head = last.head
    if head.state not in (State.CLOSED, State.RECOVERED) or head.size < 2:
        raise SealError("close head: not of a closed segment")
    if [one.number for one in part.leaves[:2]] != [0, head.size - 1]:
        raise SealError("the first two leaves are not the first and the last one of the tree")
    for one in part.leaves:
        if not check_inclusion(leaf_hash(one.payload), one.number, head.size, one.path, head.root):
            raise SealError(f"leaf {one.number}: is not in the tree that was signed")
    return [leaf.parse(one.payload) for one in part.leaves]


def _check_meta(part: Part, dsd: Dsd, closing: leaf.Close) -> None:
    if hashlib.sha256(b"HSC1-meta\0" + part.meta).digest() != closing.meta:
        raise SealError("the metadata (groups, attributes, links, small values) are not those that were signed")
    objects = loads(part.meta, "META")
    entry = objects.get(dsd.path) if isinstance(objects, dict) else None
    if not isinstance(entry, dict) or set(entry) != {"k", "a", "t"} or (entry["k"], entry["t"]) != ("d", dsd.type):
        raise SealError(f"{dsd.path}: the metadata has no dataset of chunks of this type there")
