"""The queue of a PV Access subscription is as long as was asked for; with pipelining the server sends what it has room for, and goes on as it is emptied."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from p4p.client.thread import Context
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


async def test_a_queue_holds_as_much_as_was_asked_for(pv_server: Any, recording: Callable[..., Any], goes_on: threading.Event) -> None:
    """The library's own default is 4."""
    pv = SharedPV(nt=NTScalar("i"), initial=0)
    pv_server.start(long=pv)
    table = [{"pv": "pva://T:long", "name": "long", "queue": 60}]
    async with recording(pvs=table, addresses=[f"pva://127.0.0.1:{pv_server.port}"]) as sink:
        await sink.until(lambda s: len(s.values("long")) == 1)
        goes_on.clear()
        for number in range(1, 51):
            pv.post(number)
        # The last one is in the server: whoever asks for it gets it.
        assert int(pv.current()) == 50
        with Context("pva", conf={"EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{pv_server.port}", "EPICS_PVA_ADDR_LIST": ""}, useenv=False) as other:
            assert await asyncio.to_thread(other.get, "T:long") == 50
        goes_on.set()
        await sink.until(lambda s: len(s.values("long")) == 51)
    assert sink.values("long").tolist() == list(range(51))
    assert not sink.gaps("long")
