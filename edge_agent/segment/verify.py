"""Judges one segment file: levels 0 to 2 of docs/signed-chunks.md, and the first thing that is wrong.

Parses a foreign HDF5 file in this process, so it is called for the agent's own files or within a worker (`judge`); nothing in the file
can make it raise, read another file or write.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography import x509

from edge_agent.errors import IntegrityError
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Counter
from edge_agent.seal.head import parse_head
from edge_agent.seal.keys import check_chain
from edge_agent.seal.meta import meta_digest
from edge_agent.segment import hdf5, integrity, reader
from edge_agent.segment.account import Account, account
from edge_agent.segment.clock import check_clock
from edge_agent.segment.described import described
from edge_agent.segment.early import check_early
from edge_agent.segment.heads import check_heads
from edge_agent.segment.numbers import check_numbers, column_of
from edge_agent.segment.report import INTACT, SIGNED, SegmentReport
from edge_agent.segment.stored import check_chunks, check_properties
from edge_agent.storage import DISK, Storage

UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError, MemoryError)
"""What HDF5 and numpy raise for files that are damaged or made to hurt."""


def verify_segment(path: Path, root: x509.Certificate | None, storage: Storage = DISK) -> SegmentReport:
    """Judge a segment.

    Args:
        path: the file.
        root: certificate of the facility's CA; without one the highest level is 1.
        storage: where the file is.

    Returns:
        The report; whatever is wrong with the file is its ``reason``.
    """
    report = SegmentReport(str(path), 0)
    try:
        with hdf5.opened(path, storage) as file:
            contents = reader.walk(file)
            tables = integrity.read(contents.integrity)
            trusted = check_chain(tables.chain, root)
            found = account(tables.leaves, tables.descriptors)
            report = described(report, found, trusted)
            last = check_heads(tables.heads, trusted, found.opening.segment_id, tables.leaves)
            report = replace(report, head=last.hash, state=last.head.state.name.lower())
            notes = _compare(contents, found)
            warning = check_clock([parse_head(cose.payload_of(data)) for data in tables.heads], found.clocks)
    except SealError as error:
        return replace(report, reason=str(error))
    except IntegrityError as error:
        return replace(report, reason=" ".join(filter(None, (error.what, error.why))))
    except UNREADABLE as error:
        return replace(report, reason=f"HDF5 cannot read this file: {type(error).__name__}: {error}")
    reason = last.downgrade
    if not trusted.rooted:
        reason = "signed by an unknown key" if root is None else "the key chain does not lead to the given root"
    return replace(report, level=INTACT if reason else SIGNED, reason=reason, notes=notes, warning=warning)


def _compare(contents: reader.Contents, found: Account) -> tuple[str, ...]:
    """Compare the file with its leaves; returns notes about what could not be compared."""
    # Metadata last, because only a digest of them is signed: what a descriptor also says is named better by it.
    closing = {dsd: (shape, chunks) for dsd, shape, chunks in found.closing.datasets}
    if len(closing) != len(found.closing.datasets) or set(closing) != set(found.dsds):
        raise SealError("CLOSE: does not name every dataset once")
    missing = set(found.by_path) ^ set(contents.chunked)
    if missing:
        path = min(missing)
        raise SealError(f"{path}: {'a dataset that was not signed' if path in contents.chunked else 'a signed dataset is missing'}")
    for digest, dsd in found.dsds.items():
        check_properties(contents.chunked[dsd.path], dsd)
        shape, chunks = closing[digest]
        if chunks != len(found.chunks[digest]):
            raise SealError(f"{dsd.path}: CLOSE counts {chunks} chunks, and {len(found.chunks[digest])} were signed")
        check_chunks(contents.chunked[dsd.path], dsd, found.chunks[digest], shape)
    _check_metadata(contents, found)
    return (*_check_frame_numbers(contents, found), *check_early(found, contents.chunked))


def _check_metadata(contents: reader.Contents, found: Account) -> None:
    digest = meta_digest(contents.objects)
    if digest != found.closing.meta:
        raise SealError("the metadata (groups, attributes, links, small values) are not those that were signed")


def _check_frame_numbers(contents: reader.Contents, found: Account) -> tuple[str, ...]:
    digests = {dsd.path: digest for digest, dsd in found.dsds.items()}
    notes = []
    for digest, dsd in found.dsds.items():
        beside = digests.get(column_of(dsd))
        if dsd.counter is Counter.FRAME and beside is not None:
            column = found.dsds[beside]
            notes.append(check_numbers(dsd, found.chunks[digest], column, found.chunks[beside], contents.chunked[column.path]))
    return tuple(note for note in notes if note)
