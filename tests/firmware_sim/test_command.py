"""What the command lists: every device, the options that all share, and the faults as the documentation has them."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import serial
from typer.testing import CliRunner

from firmware_sim import faults
from firmware_sim.__main__ import KINDS, app
from firmware_sim.launch import Device

PAGE = Path(__file__).parents[2] / "docs" / "instruments.md"


def said(*words: str) -> str:
    done = CliRunner().invoke(app, [*words], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return re.sub(r"\x1b\[[0-9;]*m", "", done.output)


def test_help_lists_every_device_and_what_else_there_is() -> None:
    listed = set(re.findall(r"^\W*([a-z]+) ", said("--help"), re.MULTILINE))
    assert {*KINDS, "replay", "faults"} <= listed
    assert set(KINDS) == {"balance", "thermostat", "spectrometer", "pump", "furnace", "lads", "ioc", "camera", "vendor"}


@pytest.mark.parametrize("name", KINDS)
def test_every_device_takes_seed_rate_count_truth_and_faults(name: str) -> None:
    shown = said(name, "--help")
    for option in ("--seed", "--rate", "--count", "--truth", "--fault", "--random-faults"):
        assert option in shown


def test_every_kind_of_fault_is_known_to_a_device_and_the_documentation_says_to_which() -> None:
    known = {name: set(kind().faults) for name, kind in KINDS.items()}
    assert set(faults.KINDS) <= set().union(*known.values())
    table = PAGE.read_text(encoding="utf-8").partition("## Faults")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    devices = rows[0][1:]
    told: dict[str, set[str]] = {name: set() for name in KINDS}
    for kind, *cells in rows[2:]:
        for names, cell in zip(devices, cells, strict=True):
            for name in names.split(", "):
                if cell and cell in ("yes", name, "with `--tcp`", "with `--camera`", "with `--secure`"):
                    told[name].add(kind)
    assert told == {name: kinds & set(faults.KINDS) for name, kinds in known.items()}


ASKED = {"thermostat": [b"READ?\n"] * 5, "pump": [b"0010030902=?107\r"] * 5, "spectrometer": [b"INIT:CONT ON\n"]}
"""What a device is asked that does not speak by itself."""


@pytest.mark.slow(4)
@pytest.mark.parametrize("name", ["thermostat", "pump", "spectrometer", "furnace", "lads", "ioc", "vendor"])
def test_the_same_seed_gives_the_same_values(name: str, tmp_path: Path) -> None:
    def values(seed: int, folder: Path) -> list[object]:
        folder.mkdir()
        own = ["--folder", str(folder / "out")] if name == "vendor" else ["--tcp"] if name in ASKED else []
        with Device(name, *own, "--rate", "50", "--count", "5", seed=seed, truth=folder / "truth.jsonl", hold=True) as device:
            device.go()
            with serial.serial_for_url(device.ready["url"], timeout=10) if name in ASKED else nullcontext() as port:
                for question in ASKED.get(name, ()):
                    port.write(question)
                    assert port.read(1)
                device.wait_stopped()
            return [(item.stream, item.v, item.sha256) for item in device.read_truth().items]

    with ThreadPoolExecutor() as pool:
        first, again, other = pool.map(values, (4, 4, 5), (tmp_path / word for word in "abc"))
    assert first == again
    assert len(first) >= 5
    assert first != other
