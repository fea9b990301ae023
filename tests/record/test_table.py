"""Rows of any number in any blocks: read back whole from a closed segment, and from one that crashed between any two of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.model import Kind, RunContext, Stream
from edge_agent.record.items import rows_item
from edge_agent.record.recovery import recover
from edge_agent.record.segment_writer import SegmentWriter
from edge_agent.record.table import Table
from edge_agent.seal import leaf
from edge_agent.segment import layout

STREAMS = [
    Stream("a", "scalar", Kind.ROWS, "<f8"),
    Stream("a", "text", Kind.ROWS, "|S5", counted=True),
    Stream("a", "waveform", Kind.ROWS, "<i2", (3, 2)),
]


def block_of(kit: Any, stream: Stream, first: int, n: int) -> Any:
    numbers = np.arange(first, first + n)
    if stream.dtype == "|S5":
        values = numbers.astype(stream.dtype)
    else:
        values = np.broadcast_to(numbers.reshape(-1, *(1 for _ in stream.shape)), (n, *stream.shape)).astype(stream.dtype)
    times = (kit.T0 + numbers).astype("<i8")
    return kit.Block(values, times, times, seq=numbers.astype("<u8") if stream.counted else None)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "ROW_CHUNK", 8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STREAMS), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.booleans())
def test_rows_in_any_blocks_are_read_back_whole(
    facility: Any, kit: Any, small_chunks: None, stream: Stream, sizes: list[int], crash: bool
) -> None:
    session = facility.boot()
    with tempfile.TemporaryDirectory() as place:
        opening = leaf.Open(facility.agent_id, b"r" * 16, 1, 1, None, kit.POLICY, session.boot_id, os.urandom(16), "rows")
        run = RunContext(b"r" * 16, 1, "p", "g", kit.T0, "p/g/d/000001")
        objects = layout.entry_objects(run, "BL05", 1, "rows", "{}")
        segment = SegmentWriter(Path(place), "a.h5", opening, b"", session, kit.DISK, objects=objects)
        made = layout.stream_layout(stream, default=True)
        segment.add(made.objects, made.table.dsds)
        table = Table(segment, made.table, stream.key)
        total = 0
        for n in sizes:
            item = rows_item(stream, block_of(kit, stream, total, n), lambda: None)
            table.append(item.columns, item.t_arrival)
            segment.settle(item)
            total += n
        if crash:
            segment.commit()
            segment.abandon()
            closed = recover(Path(place), "a.h5", session, kit.DISK, lambda: kit.T0, kit.POLICY, chain=session.chain)
        else:
            table.flush()
            gaps = layout.gap_objects(layout.stream_group(stream), [])
            closed = segment.close(gaps | layout.closing_objects(kit.T0, "complete"), kit.POLICY, "complete", "run-end")
        kit.check_signed([closed], facility)
        data = kit.contents(closed)
        wanted = block_of(kit, stream, 0, total)
        group = layout.stream_group(stream)
        assert np.array_equal(data[f"{group}/value"], wanted.values)
        assert np.array_equal(data[f"{group}/time_arrival"], wanted.t_arrival)
        assert set(data[f"{group}/valid"].tolist()) == {1}
        assert closed.counts == {stream.key: total}
        assert closed.last_time == {stream.key: kit.T0 + total - 1}
        chunks = [each for each in kit.leaves_of(closed) if isinstance(each, leaf.Chunk) and each.dsd == made.table.dsds[0].digest()]
        firsts = np.cumsum([0, *sizes[:-1]])
        for each in chunks:
            arrived = each.offset[0] if crash and each.offset[0] + 8 > total else firsts[firsts <= each.offset[0]][-1]
            assert each.t_utc_ns == kit.T0 + arrived
