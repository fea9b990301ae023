"""Compares the ``frame_number`` column that people read with the frame numbers that the CHUNK leaves sign (docs/layout.md).

The one place of the verifier that decodes chunks, and only those of a ``frame_number`` beside a counted dataset.
"""

from __future__ import annotations

import math

import numpy as np
from h5py import h5d

from edge_agent.codec import encoder
from edge_agent.seal.cbor import SealError
from edge_agent.seal.dsd import Dsd
from edge_agent.segment import types
from edge_agent.segment.peek import CODECS
from edge_agent.segment.stored import Leaves

NAME = "frame_number"
MAX_CHUNK = 64 << 20


def column_of(dsd: Dsd) -> str:
    """Path of the column beside a counted dataset."""
    return f"{dsd.path.rpartition('/')[0]}/{NAME}"


def check_numbers(frames: Dsd, leaves: Leaves, column: Dsd, stored: Leaves, dataset: h5d.DatasetID) -> str:
    """That row i of the column is the number of frame i.

    Args:
        frames: descriptor of the frames.
        leaves: their CHUNK leaves, one a frame.
        column: descriptor of the column.
        stored: its CHUNK leaves, which were checked.
        dataset: the column.

    Returns:
        A note when the column is stored in a way that this verifier does not decode, else nothing.

    Raises:
        SealError: the first frame whose number differs.
    """
    size = math.prod(column.chunk) * 8
    codec = CODECS.get(tuple(number for number, _, _ in column.filters))
    if column.type != types.dtype_grammar("<u8") or len(column.chunk) != 1 or size > MAX_CHUNK or codec is None:
        return f"{column.path}: not compared with the signed frame numbers, its type or filter is another than the layout's"
    numbers: dict[int, np.ndarray[tuple[int], np.dtype[np.uint64]]] = {}
    for offset, chunk in stored.items():
        _, data = dataset.read_direct_chunk(offset)
        numbers[offset[0]] = np.frombuffer(encoder(codec).decode(data, chunk.filter_mask, size, 8), "<u8")
    for offset, chunk in leaves.items():
        row = offset[0]
        block = numbers.get(row - row % column.chunk[0])
        if block is None or int(block[row % column.chunk[0]]) != chunk.seq_first:
            found = "missing" if block is None else int(block[row % column.chunk[0]])
            raise SealError(f"{column.path} at ({row},): is {found}, and {frames.path} was signed as frame {chunk.seq_first}")
    return ""
