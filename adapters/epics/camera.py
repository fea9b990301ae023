"""What an areaDetector camera says of itself beside its image: its settings, as provenance. Read once and again on each change.

Best effort: a camera without these PVs records as well. Asked over PV Access first, then over Channel Access, which is what IOCs serve
that have no QSRV; only what answered is followed. What did not is asked once more: an IOC may have been starting.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from adapters.epics import ca
from adapters.epics.config import Address
from adapters.epics.environment import channel_access
from adapters.epics.events import Event, samples_of
from adapters.epics.pva import is_enum, scalar_callback
from adapters.epics.pva_client import PvaClient

READ_SECONDS = 2.0

NAMED = {
    "manufacturer": "cam1:Manufacturer_RBV", "model": "cam1:Model_RBV", "serial_number": "cam1:SerialNumber_RBV",
    "exposure_s": "cam1:AcquireTime_RBV",
}  # fmt: skip
"""Facts that the run record has a place for, and their PVs below the prefix (ADBase.template)."""

SETTINGS = (
    "AcquirePeriod_RBV", "NumExposures_RBV", "NumImages_RBV", "ImageMode_RBV", "TriggerMode_RBV", "Gain_RBV", "BinX_RBV", "BinY_RBV",
    "MinX_RBV", "MinY_RBV", "SizeX_RBV", "SizeY_RBV", "MaxSizeX_RBV", "MaxSizeY_RBV", "ReverseX_RBV", "ReverseY_RBV", "DataType_RBV",
    "ColorMode_RBV", "Temperature_RBV", "TemperatureActual", "FirmwareVersion_RBV", "SDKVersion_RBV", "DriverVersion_RBV",
    "ADCoreVersion_RBV",
)  # fmt: skip
"""The rest of ADBase's settings, below ``PREFIX cam1:``; each is a fact of its own name."""

Fact = str | int | float


class Settings:
    """Of the camera below ``prefix``; ``more``: further PVs below it. ``describe`` is called on the loop."""

    def __init__(
        self, client: PvaClient, prefix: str, more: Sequence[str], addresses: list[Address], describe: Callable[[Mapping[str, Fact]], None]
    ) -> None:
        self._client = client
        self._addresses = addresses
        self._describe = describe
        self._pvs = {fact: prefix + suffix for fact, suffix in NAMED.items()}
        self._pvs |= {name: f"{prefix}cam1:{name}" for name in SETTINGS} | {suffix.replace(":", "_"): prefix + suffix for suffix in more}
        self._known: dict[str, Fact] = {}
        self._states: dict[str, Sequence[str]] = {}

    async def follow(self) -> None:
        """Describe the camera now and at each change, until cancelled."""
        loop = asyncio.get_running_loop()
        followed: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            # Not before the search by TCP, where addresses were given: the client looks by itself.
            while missing := {fact: pv for fact, pv in self._pvs.items() if fact not in followed}:
                by_pva, by_ca = await self._read(missing)
                for fact, pv in by_pva.items():
                    self._client.monitor(pv, scalar_callback(pv, partial(_on_loop, loop, partial(self._take, fact))))
                for fact, pv in by_ca.items():
                    tasks.create_task(ca.follow(pv, partial(_on_loop, loop, partial(self._take, fact)), self._addresses))
                if followed and not (by_pva or by_ca):
                    break
                followed |= {*by_pva, *by_ca}
            tasks.create_task(_for_ever())

    async def _read(self, wanted: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        names, pvs = list(wanted), list(wanted.values())
        values = await asyncio.to_thread(self._client.read, pvs, READ_SECONDS)
        by_pva: dict[str, str] = {}
        found: dict[str, Any] = {}
        for name, pv, value in zip(names, pvs, values, strict=True):
            if not isinstance(value, Exception) and value is not None and "value" in value:
                by_pva[name] = pv
                if is_enum(value):
                    self._states[name] = [str(state) for state in value["value"]["choices"]]
                    found[name] = value["value"]["index"]
                else:
                    found[name] = value["value"]
        by_ca: dict[str, str] = {}
        missing = [name for name in names if name not in by_pva]
        with channel_access.in_use():
            import aioca

            plain = await aioca.caget([self._pvs[n] for n in missing], timeout=READ_SECONDS, format=aioca.FORMAT_CTRL, throw=False)
            for name, value in zip(missing, plain, strict=True):
                if value.ok:
                    by_ca[name] = self._pvs[name]
                    self._states[name] = [str(state) for state in getattr(value, "enums", ())]
                    found[name] = +value
        self._tell(found)
        return by_pva, by_ca

    def _take(self, fact: str, event: Event) -> None:
        for one in samples_of(event):
            if not one.form.shape:
                value = one.value
                self._tell({fact: value.decode("utf-8", "replace") if isinstance(value, bytes) else value})

    def _tell(self, values: Mapping[str, Any]) -> None:
        facts = {name: fact for name, value in values.items() if (fact := self._fact(name, value)) is not None}
        changed = {name: fact for name, fact in facts.items() if self._known.get(name) != fact}
        if changed:
            self._known |= changed
            self._describe(changed)

    def _fact(self, name: str, value: Any) -> Fact | None:
        states = self._states.get(name) or ()
        if isinstance(value, int) and 0 <= value < len(states):
            return states[value]
        if isinstance(value, str):
            return value.strip() or None
        if isinstance(value, (int, float)) and math.isfinite(value):
            return value
        return None


def _on_loop(loop: asyncio.AbstractEventLoop, take: Callable[[Event], None], event: Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(take, event)


async def _for_ever() -> None:
    await asyncio.Event().wait()
