"""The adapter against pythonSoftIOC, over both protocols."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.testing import Opened


@pytest.mark.peers
@pytest.mark.parametrize("scheme", ["ca", "pva"])
async def test_a_python_soft_ioc_is_followed_without_a_hole(
    scheme: str, program: Callable[..., Any], recording: Callable[..., Any], pva_port: int
) -> None:
    program(sys.executable, Path(__file__).with_name("python_ioc.py"))
    pvs = [{"pv": f"{scheme}://S:{name}", "name": name} for name in ("COUNT", "GATE")]
    async with recording(pvs=pvs, addresses=[f"pva://127.0.0.1:{pva_port}"]) as sink:
        await sink.until(lambda s: len(s.values("COUNT")) > 15 and len(s.values("GATE")) > 0, timeout=40)
    streams = {event.stream.name: event.stream for event in sink.of(Opened)}
    assert streams["COUNT"].unit == "n"
    assert set(np.diff(sink.values("COUNT"))) == {1.0}
    assert streams["GATE"].attributes["state_1"] == "open"
    assert not sink.gaps("COUNT")
