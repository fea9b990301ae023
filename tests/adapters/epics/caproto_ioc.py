"""An IOC on caproto, which is no EPICS Base: a counter, other types, and what an areaDetector says of its camera. Channel Access only.

Run by the Python of an environment of its own; a line on its standard input, ``NAME VALUE``, is written to a PV.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from caproto import AlarmSeverity, AlarmStatus, ChannelType
from caproto.server import PVGroup, pvproperty, run


class Ioc(PVGroup):
    """The PVs below ``T:``."""

    # In a group of its own: PVs that share an alarm are all told when one of them sets it.
    count = pvproperty(name="COUNT", value=0.0, units="n", precision=2, upper_disp_limit=99.0, alarm_group="count")
    gate = pvproperty(name="GATE", value="open", enum_strings=("shut", "open"), dtype=ChannelType.ENUM)
    name_ = pvproperty(name="NAME", value="lysozyme", dtype=ChannelType.STRING)
    wave = pvproperty(name="WAVE", value=[1.5, 2.5, 3.5], max_length=4, dtype=ChannelType.FLOAT)
    short = pvproperty(name="SHORT", value=-7, dtype=ChannelType.INT)
    letters = pvproperty(name="CHAR", value=b"abc", dtype=ChannelType.CHAR, max_length=16)
    maker = pvproperty(name="cam1:Manufacturer_RBV", value="Kaproto", dtype=ChannelType.STRING)
    model = pvproperty(name="cam1:Model_RBV", value="K-1", dtype=ChannelType.STRING)
    exposure = pvproperty(name="cam1:AcquireTime_RBV", value=0.5)
    mode = pvproperty(name="cam1:ImageMode_RBV", value="Multiple", enum_strings=("Single", "Multiple"), dtype=ChannelType.ENUM)
    gain = pvproperty(name="cam1:Gain_RBV", value=float("nan"))
    threshold = pvproperty(name="cam1:ThresholdEnergy_RBV", value=6.2)

    @count.startup
    async def count(self, instance: Any, async_lib: Any) -> None:
        """Rise ten times a second; each value that ends with 7 is in alarm."""
        told: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def listen() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(told.put_nowait, line)

        threading.Thread(target=listen, daemon=True).start()
        while True:
            await async_lib.library.sleep(0.1)
            while not told.empty():
                name, _, text = told.get_nowait().strip().partition(" ")
                pv = self.pvdb[f"T:{name}"]
                await pv.write(text if isinstance(pv.value, str) else float(text))
            value = instance.value + 1
            alarms = {7: (AlarmStatus.HIHI, AlarmSeverity.MAJOR_ALARM), 8: (AlarmStatus.NO_ALARM, AlarmSeverity.NO_ALARM)}
            changed = alarms.get(value % 10)
            await instance.write(value, **({} if changed is None else {"status": changed[0], "severity": changed[1]}))


if __name__ == "__main__":
    run(Ioc("T:").pvdb, interfaces=["127.0.0.1"])
