from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.config import Examination, examine

EXAMPLE = """\
site = "BL05"
timezone = "Asia/Tokyo"
facility = { name = "Photon Source", ror = "https://ror.org/04mb6s476" }
spool = { dir = "spool", keep_free = "20 GB", max_size = "1.5 TB" }
access = "closed"
log = { level = "info" }

[instrument.furnace]
adapter = "opcua"
endpoint = "opc.tcp://192.168.1.30:4840"
nodes = ["ns=2;s=Temperature", { id = "ns=2;s=Power", name = "power" }]
publish = "100 ms"
maker = "Furnace Makers"

[instrument.eiger]
adapter = "epics"
camera = "pva://BL05:EIG1:"
codec = "bitshuffle-lz4"
idle = "ignore"
run_while = "ca://BL05:SHUTTER == 1"
look_back = "500 ms"
allowed = ["cloud"]
targets = ["cloud", "nas"]

[target.cloud]
landing = "https://landing.example.ac.jp"

[target.nas]
folder = "/mnt/nas"
required = false
"""


@pytest.fixture
def example() -> str:
    return EXAMPLE


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "en")


@pytest.fixture
def examined(tmp_path: Path) -> Callable[..., Examination]:
    """Write a configuration and examine it."""

    def examined(text: str | bytes, *, machine: bool = False) -> Examination:
        file = tmp_path / "lab.toml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return examine(file, machine=machine)

    return examined


@pytest.fixture
def complaints(examined: Callable[..., Examination], tmp_path: Path) -> Callable[..., list[str]]:
    """The lines that a check prints of a configuration, without the folder."""

    def complaints(text: str | bytes, *, machine: bool = False) -> list[str]:
        return [str(problem).replace(f"{tmp_path}/", "") for problem in examined(text, machine=machine).problems]

    return complaints
