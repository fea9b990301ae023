"""An IOC on pythonSoftIOC: a counter that rises ten times a second, over Channel Access and PV Access."""

from __future__ import annotations

import asyncio

from softioc import asyncio_dispatcher, builder, softioc

dispatcher = asyncio_dispatcher.AsyncioDispatcher()
builder.SetDeviceName("S")
count = builder.aIn("COUNT", initial_value=0, EGU="n")
gate = builder.mbbIn("GATE", "closed", "open", initial_value=1)
builder.LoadDatabase()
softioc.iocInit(dispatcher)


async def rise() -> None:
    while True:
        await asyncio.sleep(0.1)
        count.set(count.get() + 1)


dispatcher(rise)
softioc.non_interactive_ioc()
