"""Reads values back from a segment of our own without any filter registered: for previews and small checks. Never for foreign files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from edge_agent.codec import decoder
from edge_agent.model import Kind, Stream
from edge_agent.segment import hdf5, tags
from edge_agent.segment.tags import Tag
from edge_agent.storage import DISK, Storage

SOURCE = "source_"
AGENT = ("source_uri", "source_type", "source_id")
"""What the agent says of a source; the other facts with this prefix the source says of itself."""
CODECS = {
    (32008,): "bitshuffle-lz4", (2, 32015): "shuffle-zstd", (): "none", (32004,): "lz4", (32001,): "blosc", (1,): "deflate",
}  # fmt: skip


def rows(path: Path, dataset: str, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
    """Items ``first`` to ``last`` (exclusive) along the first axis, decoded.

    Args:
        path: a closed segment of this agent.
        dataset: path of a chunked dataset.
        first: first item; negative counts from the end.
        last: end, exclusive; None: the end.

    Raises:
        CodecError: stored bytes that do not decode.
    """
    with h5py.File(path, "r") as file:
        node = file[dataset]
        length, step = node.shape[0], node.chunks[0]
        begin, end, _ = slice(first, last).indices(length)
        codec = decoder(CODECS[tuple(number for number, _, _ in hdf5.filters_of(node.id))])
        parts = []
        for start in range(begin - begin % step, end, step):
            mask, stored = node.id.read_direct_chunk((start, *(0 for _ in node.shape[1:])))
            raw = codec.decode(stored, mask, int(np.prod(node.chunks)) * node.dtype.itemsize, node.dtype.itemsize)
            block = np.frombuffer(raw, node.dtype).reshape(node.chunks)
            parts.append(block[max(0, begin - start) : end - start])
        return np.concatenate(parts) if parts else np.empty((0, *node.shape[1:]), node.dtype)


def tags_of(path: Path, storage: Storage = DISK) -> tuple[Tag, ...]:
    """The list of tags of a closed segment of this agent; empty where no stream shares a table."""
    with hdf5.opened(path, storage) as file:
        if tags.GROUP not in file:
            return ()
        listed = file[tags.GROUP]
        columns = [listed[f.name].asstr()[()] if f.name in tags.TEXTS else listed[f.name][()].tolist() for f in fields(Tag)]
        return tuple(Tag(*line) for line in zip(*columns, strict=True))


def frame_stream(path: Path, key: str, storage: Storage = DISK) -> Stream:
    """The frame stream ``key`` of a closed segment of this agent, as its adapter described it."""
    instrument, name = key.split("/")
    with hdf5.opened(path, storage) as file:
        group = file[f"/entry/instrument/{key}"]
        data, facts = group["data"], dict(group.attrs)
        own = {
            fact.removeprefix(SOURCE): value.item() if isinstance(value, np.generic) else value
            for fact, value in facts.items()
            if fact.startswith(SOURCE) and fact not in AGENT
        }
        return Stream(
            instrument, name, Kind.FRAMES, data.dtype.str, tuple(int(n) for n in data.shape[1:]), data.attrs["units"], facts["source_uri"],
            facts["source_type"], bool(facts["counted"]), int(facts["step"]),
            CODECS[tuple(number for number, _, _ in hdf5.filters_of(data.id))], transport=facts["transport"], attributes=own,
        )  # fmt: skip


def tag_rows(path: Path, source_id: str, table: str, names: Sequence[str], last: int) -> list[npt.NDArray[Any]]:
    """Rows of one tag in a table that it shares, as far as they are among the last rows of the table.

    Args:
        path: a closed segment of this agent.
        source_id: the tag.
        table: name of the table.
        names: columns of the table.
        last: so many rows of the table are looked at.

    Returns:
        one array a name.

    Raises:
        CodecError: stored bytes that do not decode.
    """
    numbers = [number for number, tag in enumerate(tags_of(path)) if (tag.source_id, tag.table) == (source_id, table)]
    group = f"{tags.GROUP}/{table}"
    mine = np.isin(rows(path, f"{group}/tag", -last), numbers)
    return [rows(path, f"{group}/{name}", -last)[mine] for name in names]
