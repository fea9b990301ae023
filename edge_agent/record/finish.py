"""The last steps of a segment file, the same for one that closes in order and for one that is rebuilt: CLOSE leaf, tables, name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_agent.record.tree import Tree
from edge_agent.seal import leaf
from edge_agent.seal.dsd import Dsd
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.integrity import Tables
from edge_agent.segment.types import numpy_dtype
from edge_agent.storage import Storage


def close_leaf(file: SegmentFile | None, payloads: Sequence[bytes], policy: bytes, outcome: str, reason: str) -> leaf.Close:
    """The CLOSE leaf over what the file and the tree hold."""
    datasets: tuple[tuple[bytes, tuple[int, ...], int], ...] = ()
    if file is not None:
        datasets = tuple((dsd.digest(), file.shapes[dsd.path], file.chunks[dsd.path]) for dsd in introduced(file, payloads))
    meta = next((p for p in reversed(payloads) if p[4] == leaf.Meta.TYPE), None)
    digest = bytes(32)
    if meta is not None:
        parsed = leaf.parse(meta)
        digest = parsed.digest if isinstance(parsed, leaf.Meta) else digest
    return leaf.Close(datasets, digest, policy, outcome, reason)


def introduced(file: SegmentFile, payloads: Sequence[bytes]) -> list[Dsd]:
    """The DSDs of a file in the order of their DATASET leaves."""
    by_digest = {dsd.digest(): dsd for dsd in file.dsds.values()}
    leaves = (leaf.parse(payload) for payload in payloads if payload[4] == leaf.Dataset.TYPE)
    return [by_digest[each.dsd] for each in leaves if isinstance(each, leaf.Dataset)]


def file_dtypes(file: SegmentFile) -> dict[str, str]:
    """Path to numpy dtype of each chunked dataset."""
    return {path: numpy_dtype(dsd.type).str for path, dsd in file.dsds.items()}


def finish_file(file: SegmentFile, tree: Tree, part: Path, final: Path, storage: Storage) -> int:
    """Write the tables, close, make durable, rename; returns the size in bytes."""
    descriptors = tuple(dsd.encode() for dsd in introduced(file, tree.payloads))
    file.finish(Tables(tuple(tree.payloads), descriptors, tuple(h.cose for h in tree.anchors), tree.chain(), tree.epochs()))
    storage.sync_file(part)
    storage.rename(part, final)
    storage.sync_folder(final.parent)
    return storage.size(final)
