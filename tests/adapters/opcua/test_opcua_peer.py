"""The adapter against node-opcua, which nobody here wrote: it samples, revises, secures and refuses in its own way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from adapters.opcua import OpcUaConfig, services
from adapters.opcua.binary import Undecodable
from adapters.opcua.notifications import Published
from adapters.opcua.subscription import FIRST_HANDLE
from adapters.testing import Disconnected, Opened
from edge_agent.model import Cause, Valid

pytestmark = pytest.mark.peers

Make = Callable[..., OpcUaConfig]


def lab(*names: str) -> list[str]:
    return [f"nsu=urn:peer:node-opcua;s={name}" for name in names]


async def test_counters_of_another_implementation_arrive_without_a_hole(
    lab_server: Any, config: Make, recording: Callable[..., Any]
) -> None:
    async with recording(config(lab_server.endpoint, nodes=lab("Counter", "Total", "Ratio")), "lab") as sink:
        await sink.until(lambda s: len(s.values("Counter")) > 20, timeout=20)
    for name, step in (("Counter", 1), ("Total", 1), ("Ratio", 0.5)):
        assert set(np.diff(sink.values(name))) == {step}
    assert not sink.gaps("Counter")
    stream = next(event.stream for event in sink.of(Opened) if event.stream.name == "Total")
    assert (stream.dtype, stream.unit) == ("<i8", "mm")
    assert stream.attributes["description"] == "the Total"
    assert stream.attributes["range_high"] == 1e6


async def test_its_own_sampling_is_noticed(
    lab_server: Any, config: Make, recording: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with recording(config(lab_server.endpoint, nodes=lab("Counter"), queue=100_000), "lab") as sink:
            await sink.until(lambda s: s.of(Opened))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "changes between two samples are not seen: asked for a look every 0 ms, granted Counter every" in said
    assert "queues are shorter than the 100000 asked for: Counter" in said


async def test_arrays_texts_times_and_bad_values_are_understood(lab_server: Any, config: Make, recording: Callable[..., Any]) -> None:
    names = ["Spectrum", "Note", "Broken", "Started_at"]
    nodes = [*lab("Spectrum", "Note", "Broken"), "nsu=urn:peer:node-opcua;i=5001"]
    async with recording(config(lab_server.endpoint, nodes=nodes), "lab") as sink:
        await sink.until(lambda s: all(len(s.values(name)) for name in names))
    assert sink.values("Spectrum")[0].tolist() == [1.5, 2.5, 3.5]
    assert sink.values("Note")[0] == "é".encode() * 128
    (cut,) = sink.gaps("Note")[:1]
    assert (cut.cause, cut.detail) == (Cause.GARBAGE, "text longer than 256 bytes cut")
    broken = sink.blocks("Broken")[0]
    assert broken.valid is not None
    assert broken.status is not None
    assert (broken.valid[0], broken.status[0]) == (Valid.BAD, 0x808C0000)
    assert np.isnan(broken.values[0])
    assert sink.values("Started_at")[0] == 1_767_323_045_678_000_000


async def test_killed_and_restarted_it_leaves_a_declared_gap(node_server: Any, config: Make, recording: Callable[..., Any]) -> None:
    server = node_server(every=50)
    async with recording(config(server.endpoint, nodes=lab("Counter")), "lab") as sink:
        await sink.until(lambda s: len(s.values("Counter")) > 5, timeout=20)
        server.kill()
        await sink.until(lambda s: s.of(Disconnected))
        server.start()
        await sink.until(lambda s: s.gaps("Counter") and len(s.values("Counter")) > 20, timeout=40)
    (gap,) = sink.gaps("Counter")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    values = sink.values("Counter")
    restart = int(np.argmax(np.diff(values) < 0)) + 1
    assert set(np.diff(values[restart:])) == {1}


async def test_what_the_servers_queue_could_not_hold_is_a_gap_where_the_overflow_bit_says_so(
    lab_server: Any, config: Make, recording: Callable[..., Any]
) -> None:
    async with recording(config(lab_server.endpoint, nodes=lab("Counter"), queue=2, publish="1 s"), "lab") as sink:
        await sink.until(lambda s: len(s.gaps("Counter")) >= 2 and len(s.values("Counter")) >= 6, timeout=20)
    assert {(gap.cause, gap.count) for gap in sink.gaps("Counter")} == {(Cause.OVERFLOW, None)}
    values, times = sink.values("Counter"), np.concatenate([block.t_source for block in sink.blocks("Counter")])
    holes = np.flatnonzero(np.diff(values) > 1)
    assert len(holes) >= 2
    for hole in holes:
        assert any(gap.t_from <= times[hole] and times[hole + 1] <= gap.t_to for gap in sink.gaps("Counter"))


async def test_a_message_that_cannot_be_read_is_a_gap_of_all_that_it_may_have_held(
    lab_server: Any, config: Make, recording: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, came = services.read_published, 0

    def spoilt(*given: Any) -> Published:
        nonlocal came
        message = read(*given)
        came += any(handle >= FIRST_HANDLE for handle, _ in message.changes)
        if came == 10:
            came += 1
            raise Undecodable("a byte fell over")
        return message

    monkeypatch.setattr(services, "read_published", spoilt)
    async with recording(config(lab_server.endpoint, nodes=lab("Counter", "Spectrum")), "lab") as sink:
        await sink.until(lambda s: s.gaps("Counter") and s.gaps("Spectrum") and len(s.values("Counter")) > 20, timeout=20)
    (gap,) = sink.gaps("Counter")
    assert (gap.cause, gap.count, gap.detail) == (Cause.GARBAGE, None, "messages of the server did not arrive or could not be decoded")
    arrivals = np.concatenate([block.t_arrival for block in sink.blocks("Counter")])
    (hole,) = np.flatnonzero(np.diff(sink.values("Counter")) > 1)
    assert arrivals[hole] <= gap.t_from < gap.t_to <= arrivals[hole + 1]
    assert not sink.of(Disconnected)
