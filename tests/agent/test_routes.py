"""A daemon that is told the project by a schedule, and a run of nobody that a person claims."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli.app import run as command
from edge_agent.export.run_folder import open_run

SLOT = "start,end,project\n2000-01-01,2100-01-01,2026B1234\n"


async def test_the_schedule_gives_the_project_and_a_person_claims_what_had_none(
    configure: Callable[..., Path], run: Any, until: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutter, beam = tmp_path / "shutter", tmp_path / "beam.csv"
    camera = f'[instrument.camera]\nadapter = "counting"\ngroup = "bl"\nrun_while = "{shutter.as_uri()} == 1"\nidle = "ignore"\nlook_back = "100 ms"\n'
    file = configure(camera, head=f'schedule = "{beam}"\n[projects.gone]\nclosed = true\n')
    daemon = await run(file)

    async def measure() -> Path:
        """One run, by the shutter; its folder once it is complete."""
        known = set((tmp_path / "space").glob("*/*/*/*"))
        shutter.touch()
        await until(lambda: _open(daemon))
        shutter.unlink()

        def complete() -> Path | None:
            return next((f for f in set((tmp_path / "space").glob("*/*/*/*")) - known if (f / "ro-crate-metadata.json").exists()), None)

        found: Path = await until(complete)
        return found

    folder = await measure()
    record = open_run(folder).record["project"]
    assert (record["name"], record["rule"], record["ruleSource"]["value"]) == ("unclaimed", "nobody", None)
    claim = ["claim", folder.name, "--config", str(file), "--author", "Hanako", "--json"]
    assert await asyncio.to_thread(command, [*claim, "--project", "gone"]) != 0
    assert "PROJECT_CLOSED" in capsys.readouterr().out
    assert await asyncio.to_thread(command, [*claim, "--project", "steel"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sent"]
    there = tmp_path / "space" / answer["folder"]
    assert answer["folder"] in {run["folder"] for run in (await daemon.ask())["past"]}, "the status shows the new place"
    await until(lambda: (there / "ro-crate-metadata.json").exists())
    assert open_run(there).record == open_run(folder).record, "what was signed is the same"
    assert (there / f"{folder.name}.receipts").exists()

    beam.write_text(SLOT)
    await until(lambda: "1 lines" in daemon.text())
    folder = await measure()
    record = open_run(folder).record["project"]
    assert folder.relative_to(tmp_path / "space").parts[0] == "2026B1234"
    assert (record["rule"], record["ruleSource"]) == ("schedule", "beam.csv, line 2")


async def _open(daemon: Any) -> bool:
    """A run is open and has something."""
    status = await daemon.ask()
    return any(r["stage"] == "open" for r in status["runs"]) and any(s["totals"]["spooled"] for i in status["instruments"] for s in i["streams"])
