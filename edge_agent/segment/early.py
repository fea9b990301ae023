"""Compares rows that were signed before their chunk was full (ROWS leaves) with the chunks that hold them now.

Like `numbers`, it decodes only what it must: the chunks that a ROWS leaf names, and each of them once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from h5py import h5d

from edge_agent.codec import CodecError, encoder
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Dsd
from edge_agent.seal.leaf import Chunk
from edge_agent.segment.account import Account
from edge_agent.segment.numbers import MAX_CHUNK
from edge_agent.segment.peek import CODECS

SHUFFLE = 2
ROW_FILTERS = ((), (2, 32015))


def check_early(found: Account, chunked: Mapping[str, h5d.DatasetID]) -> tuple[str, ...]:
    """That the rows of every ROWS leaf are in the chunks, byte for byte.

    Args:
        found: what the leaves say.
        chunked: the open datasets by path; their chunks were checked before.

    Returns:
        A note for each table that is stored in a way that this verifier does not decode.

    Raises:
        SealError: the first rows that are missing or differ.
    """
    notes: dict[str, None] = {}
    block: tuple[bytes, int] = b"", -1
    decoded: dict[bytes, bytes] = {}
    for item in found.rows:
        dsds = [found.dsds[name] for name in item.dsds]
        where = f"{dsds[0].path} at ({item.first},)"
        note = next((_undecodable(dsd) for dsd in dsds if _undecodable(dsd)), "")
        if note:
            notes[note] = None
            continue
        start = item.first - item.first % dsds[0].chunk[0]
        if block != (item.dsds[0], start):
            block, decoded = (item.dsds[0], start), {}
        digest = hashlib.sha256()
        for name, dsd in zip(item.dsds, dsds, strict=True):
            if name not in decoded:
                decoded[name] = _decode(found.chunks[name], dsd, start, chunked[dsd.path], where)
            size = len(decoded[name]) // dsd.chunk[0]
            digest.update(decoded[name][(item.first - start) * size : (item.first - start + item.n) * size])
        if digest.digest() != item.digest:
            raise SealError(f"{where}: the {item.n} rows from here are not those that were signed before their chunk was full")
    return tuple(notes)


def _undecodable(dsd: Dsd) -> str:
    numbers = tuple(number for number, _, _ in dsd.filters)
    plain = dsd.type[0] in ("int", "flt", "str") and all(values == (dsd.type[1],) for number, _, values in dsd.filters if number == SHUFFLE)
    if plain and numbers in ROW_FILTERS and _nbytes(dsd) <= MAX_CHUNK:
        return ""
    return f"{dsd.path}: rows signed early were not compared, its type, filter or size is another than the layout's"


def _nbytes(dsd: Dsd) -> int:
    return math.prod(dsd.chunk) * int(dsd.type[1])


def _decode(chunks: Mapping[tuple[int, ...], Chunk], dsd: Dsd, start: int, dataset: h5d.DatasetID, where: str) -> bytes:
    offset = (start, *(0 for _ in dsd.chunk[1:]))
    chunk = chunks.get(offset)
    if chunk is None:
        raise SealError(f"{where}: rows were signed, and {dsd.path} has no chunk for them")
    _, stored = dataset.read_direct_chunk(offset)
    codec = encoder(CODECS[tuple(number for number, _, _ in dsd.filters)])
    try:
        return codec.decode(stored, chunk.filter_mask, _nbytes(dsd), int(dsd.type[1]))
    except CodecError as error:
        raise SealError(f"{dsd.path} at {offset}: does not decode: {error}") from error
