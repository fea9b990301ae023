"""Starts simulated instruments for one test each and sees to it that none is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.launch import Device

StartDevice = Callable[..., Device]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[StartDevice]:
    started: list[Device] = []

    def start(name: str, *options: str, **keywords: Any) -> Device:
        keywords.setdefault("truth", tmp_path / f"{name}{len(started)}.truth.jsonl")
        one = Device(name, *options, **keywords)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.quit()
