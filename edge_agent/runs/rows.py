"""Parts of blocks of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.model import NO_TIME, Block, Int64Array, Valid

Mask = npt.NDArray[np.bool_]


def take_rows(block: Block, rows: npt.NDArray[Any]) -> Block:
    """The given rows of a block (indices or a mask of length ``n``), in order."""

    def part(column: npt.NDArray[Any] | None) -> Any:
        return None if column is None else column[rows]

    return Block(
        block.values[rows], block.t_source[rows], block.t_arrival[rows], part(block.t_server), part(block.valid), part(block.status),
        part(block.seq),
    )  # fmt: skip


def masked(block: Block, mask: Mask) -> Block:
    """The rows of a mask; the block itself when that is all of them."""
    return block if mask.all() else take_rows(block, mask)


def source_times(block: Block) -> Int64Array:
    """Source time of each row (UTC ns), its arrival where the source gives none."""
    times: Int64Array = np.where(block.t_source == NO_TIME, block.t_arrival, block.t_source)
    return times


def initial_rows(block: Block) -> Mask:
    """Which rows are last known values and no events."""
    if block.valid is None:
        return np.zeros(len(block), bool)
    mask: Mask = block.valid == Valid.INITIAL
    return mask


def events(block: Block) -> int:
    """Number of rows that are events."""
    if block.valid is None:
        return len(block)
    return len(block) - int(np.count_nonzero(initial_rows(block)))


def is_usable(block: Block, row: int) -> bool:
    """Whether the value of a row may be used."""
    return block.valid is None or bool(block.valid[row] != Valid.BAD)


def as_initial(block: Block, row: int) -> Block | None:
    """One row as a last known value; None when it is unusable, because then nothing is known."""
    if not is_usable(block, row):
        return None
    one = take_rows(block, np.array([row]))
    valid = np.array([int(Valid.INITIAL)], "|u1")
    return Block(one.values, one.t_source, one.t_arrival, one.t_server, valid, one.status, one.seq)


def size_of(block: Block) -> int:
    """Bytes that a block takes in memory, its times and flags included."""
    return int(block.values.nbytes) + 64 * len(block)
