"""Judges one slice of one dataset and reads only what that needs (docs/signed-chunks.md, One slice).

Read are: all metadata of the file but the integrity tables (META is one digest over the whole map), the key chain, the descriptors, the
close head, the epochs of the leaves in question, and the chunks that the slice touches. Other chunks are not looked at, so nothing is
said of them, nor of continuity.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
from cryptography import x509
from h5py import h5d

from edge_agent.errors import IntegrityError, UsageError
from edge_agent.seal import leaf
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Dsd, dsd_digest, parse_dsd
from edge_agent.seal.keys import check_chain
from edge_agent.seal.meta import encode_meta, meta_digest
from edge_agent.seal.slice_proof import Part, ProvenLeaf
from edge_agent.segment import reader
from edge_agent.segment.account import check_mask
from edge_agent.segment.late import with_receipts
from edge_agent.segment.part import PartialTree
from edge_agent.segment.report import INTACT, SIGNED, RunReport, SliceReport
from edge_agent.segment.statement import Stated, open_sidecar, sidecar_of
from edge_agent.segment.stored import check_properties
from edge_agent.segment.verify import UNREADABLE

MOST = 1 << 20
"""Chunks of one slice."""
_PART = re.compile(r"(\d{0,18}):(\d{0,18})|(\d{1,18})")

Bounds = tuple[tuple[int | None, int | None], ...]
"""First element and end (exclusive) along each axis that was named; None: from the first, to the last."""


@dataclass(slots=True)
class _Taken:
    """What an exported slice takes from a segment: the descriptor, numbers of CHUNK leaves, their stored bytes."""

    dsd: bytes = b""
    numbers: list[int] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)


def parse_bounds(text: str) -> Bounds:
    """``100:110,0:5`` as bounds; ``7`` is one element, ``:`` a whole axis; axes that are not named are whole.

    Raises:
        UsageError: anything else.
    """
    bounds: list[tuple[int | None, int | None]] = []
    for part in text.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise UsageError(f"{text!r} is no slice", why=f"{part!r} is not FIRST:END", try_="--slice 100:110 or --slice 100:110,0:5")
        first, end, one = match.groups()
        bounds.append((int(one), int(one) + 1) if one else (int(first) if first else None, int(end) if end else None))
    return tuple(bounds)


def verify_slice(path: Path, dataset: str, bounds: Bounds, root: x509.Certificate | None) -> SliceReport:
    """Judge a slice.

    Args:
        path: a segment file.
        dataset: absolute path of a chunked dataset in it.
        bounds: the slice, in elements.
        root: certificate of the facility's CA; without one the highest level is 1.

    Returns:
        The report; whatever is wrong is its ``reason``.
    """
    report = SliceReport(str(path), dataset, 0)
    try:
        with h5py.File(path, "r", locking=False) as file:
            return check_slice(file, report, bounds, root)
    except UNREADABLE as error:
        return replace(report, reason=f"HDF5 cannot read this file: {type(error).__name__}: {error}")


def check_slice(
    file: h5py.File, report: SliceReport, bounds: Bounds, root: x509.Certificate | None, parts: list[Part] | None = None
) -> SliceReport:
    """As `verify_slice`, of a file that is open; ``report`` names file and dataset, ``parts`` gets what proves a slice that holds."""
    try:
        report = replace(report, dataset=reader.resolved(file, report.dataset))
        tree = PartialTree(file)
        trusted = check_chain(tree.chain(), root)
        opening, closing = tree.leaf(0), tree.leaf(tree.size - 1)
        if not isinstance(opening, leaf.Open) or not isinstance(closing, leaf.Close):
            raise SealError("the first and the last leaf are not OPEN and CLOSE")
        if opening.agent_id != trusted.agent_id:
            raise SealError("OPEN names another agent than the key chain")
        last = tree.close_head(trusted, opening.segment_id)
        report = replace(
            report, segment_id=opening.segment_id, agent_id=opening.agent_id, run_id=opening.run_id, run_no=opening.run_no,
            ordinal=opening.ordinal, head=last.hash, state=last.head.state.name.lower(), identity=trusted.identity,
        )  # fmt: skip
        taken = _Taken()
        report = _check_chunks(file, tree, opening, closing, bounds, report, taken if parts is not None else None)
        # Last, because it cannot name what differs.
        objects = reader.walk(file, tables=False).objects
        if meta_digest(objects) != closing.meta:
            raise SealError("the metadata (groups, attributes, links, small values) are not those that were signed")
        if parts is not None:
            leaves = tuple(ProvenLeaf(n, tree.payload(n), tuple(tree.path(n))) for n in (0, tree.size - 1, *taken.numbers))
            meta = encode_meta(objects)
            parts.append(Part(tree.chain(), last.cose, leaves, taken.dsd, meta, report.bounds, tuple(taken.chunks)))
    except SealError as error:
        return replace(report, reason=str(error))
    except IntegrityError as error:
        return replace(report, reason=" ".join(filter(None, (error.what, error.why))))
    reason = last.downgrade
    if not trusted.rooted:
        reason = "signed by an unknown key" if root is None else "the key chain does not lead to the given root"
    return replace(report, level=INTACT if reason else SIGNED, reason=reason)


def with_run(report: SliceReport, root: x509.Certificate | None, tsa_roots: Sequence[x509.Certificate] = ()) -> SliceReport:
    """The report at the level that the run's receipts give, when sidecar and receipts of its run stand beside the segment.

    Other segments and files of the run are not looked at.
    """
    if report.level < SIGNED:
        return report
    try:
        stated = open_sidecar(sidecar_of(Path(report.path).parent), root)
    except SealError:
        return report
    return with_statement(report, stated, root, tsa_roots)


def with_statement(
    report: SliceReport, stated: Stated, root: x509.Certificate | None, tsa_roots: Sequence[x509.Certificate] = (),
    receipts: bytes | None = None,
) -> SliceReport:  # fmt: skip
    """As `with_run`, for a run statement that was checked; ``receipts`` instead of those beside it."""
    entries = {(entry.segment_id, entry.head) for entry in stated.statement.segments}
    mine = (report.segment_id, report.head) in entries and stated.statement.run_id == report.run_id
    if report.level < SIGNED or not stated.trusted.rooted or stated.downgrade or not mine:
        return report
    run = with_receipts(RunReport(str(stated.path), SIGNED), stated, root, tsa_roots, receipts)
    return replace(report, level=run.level, reason=run.reason, notes=(*report.notes, *run.notes, *run.warnings))


def _check_chunks(
    file: h5py.File, tree: PartialTree, opening: leaf.Open, closing: leaf.Close, bounds: Bounds, report: SliceReport, taken: _Taken | None
) -> SliceReport:
    descriptors = tree.descriptors()
    known = {dsd.path: (number, dsd) for number, dsd in enumerate(map(parse_dsd, descriptors))}
    if report.dataset not in known:
        raise SealError(f"{report.dataset}: no chunks of it were signed; signed are {', '.join(sorted(known)) or 'none'}")
    number, dsd = known[report.dataset]
    name = dsd_digest(descriptors[number])
    said = [(shape, chunks) for digest, shape, chunks in closing.datasets if digest == name]
    if len(said) != 1:
        raise SealError(f"CLOSE: does not name {dsd.path} once")
    shape, count = said[0]
    node = reader.open_object(file, dsd.path)
    if not isinstance(node, h5d.DatasetID) or node.get_create_plist().get_layout() != h5d.CHUNKED:
        raise SealError(f"{dsd.path}: not a dataset of chunks")
    check_properties(node, dsd)
    real = tuple(int(n) for n in node.shape)
    if real != shape:
        raise SealError(f"{dsd.path}: shape {real}, and {shape} was signed")
    exact = within(dsd, shape, bounds)
    wanted = list(touched(dsd, exact))
    leaves = _leaves(tree, number, name, dsd, shape, count, wanted)
    if taken is not None:
        taken.dsd, taken.numbers = descriptors[number], [at for at, _ in leaves.values()]
    size = 0
    for offset, (_, chunk) in leaves.items():
        where = f"{dsd.path} at {offset}"
        if chunk.segment_id != opening.segment_id:
            raise SealError(f"{where}: a chunk of another segment")
        check_mask(where, chunk, dsd)
        mask, data = node.read_direct_chunk(offset)
        if (len(data), mask) != (chunk.size, chunk.filter_mask) or hashlib.sha256(data).digest() != chunk.digest:
            raise SealError(f"{where}: the stored bytes are not those that were signed")
        size += len(data)
        if taken is not None:
            taken.chunks.append(bytes(data))
    numbers = [n for _, chunk in leaves.values() for n in (chunk.seq_first, chunk.seq_last) if n != leaf.NO_COUNTER]
    return replace(
        report, bounds=exact, chunks=len(leaves), stored=size, leaves=tree.read, first=min(numbers, default=None),
        last=max(numbers, default=None),
    )  # fmt: skip


def within(dsd: Dsd, shape: tuple[int, ...], bounds: Bounds) -> tuple[tuple[int, int], ...]:
    """The slice with all its numbers.

    Raises:
        SealError: it is empty or not inside the signed shape.
    """
    if len(bounds) > len(shape):
        raise SealError(f"{dsd.path}: a slice of {len(bounds)} axes, and the dataset has {len(shape)}")
    named = (*bounds, *(((None, None),) * (len(shape) - len(bounds))))
    exact = tuple((first or 0, n if end is None else end) for (first, end), n in zip(named, shape, strict=True))
    if any(not 0 <= first < end <= n for (first, end), n in zip(exact, shape, strict=True)):
        raise SealError(f"{dsd.path}: the slice {exact} is empty or outside of the signed shape {shape}")
    return exact


def touched(dsd: Dsd, exact: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, ...]]:
    """Element offsets of the chunks that hold the slice, in row-major order."""
    steps = [range(first - first % n, end, n) for (first, end), n in zip(exact, dsd.chunk, strict=True)]
    total = 1
    for step in steps:
        total *= len(step)
    if total > MOST:
        raise SealError(f"{dsd.path}: the slice touches {total} chunks, more than {MOST}; verify the whole file")
    return itertools.product(*steps)


def _leaves(
    tree: PartialTree, number: int, name: bytes, dsd: Dsd, shape: tuple[int, ...], count: int, wanted: list[tuple[int, ...]]
) -> dict[tuple[int, ...], tuple[int, leaf.Chunk]]:
    """The CHUNK leaves of those offsets, with their numbers.

    The index is in order of writing, which the recorder keeps row-major: so it is looked up there first. It is a hint: what it does not
    lead to is looked for among all leaves.
    """
    grid = [-(-n // c) for n, c in zip(shape, dsd.chunk, strict=True)]
    places = [_place(offset, dsd.chunk, grid) for offset in wanted]
    found: dict[tuple[int, ...], tuple[int, leaf.Chunk]] = {}
    if max(places) < count:
        for offset, at in zip(wanted, tree.index(number, places), strict=True):
            item = tree.leaf(at) if at < tree.size else None
            if isinstance(item, leaf.Chunk) and (item.dsd, item.offset) == (name, offset):
                found[offset] = at, item
    if len(found) < len(wanted):
        items = ((at, tree.leaf(at)) for at in range(tree.size))
        all_of_it = {item.offset: (at, item) for at, item in items if isinstance(item, leaf.Chunk) and item.dsd == name}
        found = {offset: all_of_it[offset] for offset in wanted if offset in all_of_it}
        for offset in wanted:
            if offset not in found:
                raise SealError(f"{dsd.path} at {offset}: no chunk was signed")
    return found


def _place(offset: tuple[int, ...], chunk: tuple[int, ...], grid: list[int]) -> int:
    place = 0
    for at, size, n in zip(offset, chunk, grid, strict=True):
        place = place * n + at // size
    return place
