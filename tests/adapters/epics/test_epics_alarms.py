"""An alarm that was there when we came is known and no news; one that begins or ends afterwards is an event, the first one too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p4p import Value
from p4p.nt import NTScalar
from p4p.server.thread import SharedPV

from adapters.testing import Disconnected, RecordingSink
from edge_agent.model import Valid

TYPE = NTScalar("d").type


def reading(value: float, t: int, severity: int = 0) -> Value:
    stamp = {"secondsPastEpoch": t, "nanoseconds": 0}
    return Value(TYPE, {"value": value, "alarm": {"severity": severity, "status": severity, "message": "HIHI"[:severity]}, "timeStamp": stamp})


def marks(sink: RecordingSink, name: str) -> list[int]:
    return [mark for block in sink.blocks(name) if block.valid is not None for mark in block.valid.tolist()]


async def test_only_an_alarm_that_was_there_before_us_is_no_event(pv_server: Any, recording: Callable[..., Any]) -> None:
    calm, hot = SharedPV(initial=reading(1.0, 1)), SharedPV(initial=reading(1.0, 1, severity=2))
    pv_server.start(calm=calm, hot=hot)
    pvs = [{"pv": f"pva://T:{name}", "name": name} for name in ("calm", "hot")]
    async with recording(pvs=pvs, addresses=[f"pva://127.0.0.1:{pv_server.port}"]) as sink:
        await sink.until(lambda s: len(s.values("calm")) and len(s.values("hot.alarm")))
        calm.post(reading(2.0, 2, severity=1))
        hot.post(reading(2.0, 2))
        await sink.until(lambda s: len(s.values("calm.alarm")) == 1 and len(s.values("hot.alarm")) == 2)
        hot.close()
        await sink.until(lambda s: s.of(Disconnected))
        hot.open(reading(3.0, 3, severity=2))
        await sink.until(lambda s: len(s.values("hot.alarm")) == 3, timeout=20)
        hot.post(reading(4.0, 4))
        await sink.until(lambda s: len(s.values("hot.alarm")) == 4)
    assert marks(sink, "calm.alarm") == [Valid.GOOD]
    assert marks(sink, "hot.alarm") == [Valid.INITIAL, Valid.GOOD, Valid.INITIAL, Valid.GOOD]
