"""Pipelining, where it is asked for: the server sends what the queue has room for, and goes on as it is emptied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p4p.nt import NTScalar
from p4p.server.thread import SharedPV


async def test_a_pipelined_pv_goes_on_beyond_the_length_of_its_queue(pv_server: Any, recording: Callable[..., Any]) -> None:
    pvs = {name: SharedPV(nt=NTScalar("i"), initial=0) for name in ("held", "free")}
    pv_server.start(**pvs)
    table = [{"pv": "pva://T:held", "name": "held", "queue": 4, "pipeline": True}, {"pv": "pva://T:free", "name": "free"}]
    async with recording(pvs=table, addresses=[f"pva://127.0.0.1:{pv_server.port}"]) as sink:
        for number in range(40):
            await sink.until(lambda s, number=number: all(len(s.values(name)) > number for name in pvs))
            for pv in pvs.values():
                pv.post(number + 1)
        await sink.until(lambda s: all(len(s.values(name)) == 41 for name in pvs))
    for name in pvs:
        assert sink.values(name).tolist() == list(range(41))
        assert not sink.gaps(name)
