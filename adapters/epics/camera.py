"""What an areaDetector camera says of itself, beside its image. Best effort: a camera without these PVs records as well."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from adapters.epics.environment import channel_access
from adapters.epics.pva import PvaClient

READ_SECONDS = 2.0

_FACTS = {"manufacturer": "Manufacturer_RBV", "model": "Model_RBV", "serial_number": "SerialNumber_RBV", "exposure_s": "AcquireTime_RBV"}


async def camera_facts(client: PvaClient, prefix: str) -> dict[str, str | int | float]:
    """Maker, model, serial number and exposure time (s) of the camera below ``prefix``; what does not answer is left out.

    Asked over PV Access first, then, for IOCs that serve records by Channel Access only, over that.
    """
    pvs = {name: f"{prefix}cam1:{suffix}" for name, suffix in _FACTS.items()}
    values = await asyncio.to_thread(client.read, list(pvs.values()), READ_SECONDS)
    found: dict[str, Any] = {}
    for name, value in zip(pvs, values, strict=True):
        if not isinstance(value, Exception) and value is not None and "value" in value:
            found[name] = value["value"]
    if not found:
        found = await _over_channel_access(pvs)
    return {name: fact for name, value in found.items() if (fact := _fact(value)) is not None}


async def _over_channel_access(pvs: dict[str, str]) -> dict[str, Any]:
    import aioca

    with channel_access.in_use():
        values = await aioca.caget(list(pvs.values()), timeout=READ_SECONDS, throw=False)
    return {name: +value for name, value in zip(pvs, values, strict=True) if value.ok}


def _fact(value: Any) -> str | int | float | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (int, float)) and math.isfinite(value):
        return value
    return None
