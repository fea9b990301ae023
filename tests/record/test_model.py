"""The recorder against a model of the disk: random histories of data, commits, rolls, faults, kills and power failures.

After each one: what was acknowledged is there byte for byte, nothing is there that was not sent, and what is missing is declared.
"""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from edge_agent.record.items import Encoded, FrameItem
from edge_agent.storage.faults import Crashed, Fault, Faults
from edge_agent.storage.memory import Memory
from tests.record import conftest as kit
from tests.record.bench import ROOT, Bench

SEEDS = st.integers(0, 2**32 - 1)


class Histories(RuleBasedStateMachine):
    """See the module. A fault that is armed comes some calls later, whatever is done then."""

    def __init__(self) -> None:
        super().__init__()
        self.bench: Bench | None = None
        self.errors = self.crashes = 0

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(Faults(Memory(ROOT)), self.folder)

    def do(self, step: Any) -> None:
        assert self.bench is not None
        try:
            step(self.bench)
        except Crashed:
            self.crashes += 1
            self.bench.die(random.Random(self.seed), power=self.power)

    folder: Path
    seed, power = 0, True

    @rule(skip=st.sampled_from([0, 0, 0, 2]))
    def frame(self, skip: int) -> None:
        self.do(lambda bench: bench.frame(skip))

    @rule(n=st.sampled_from([1, 7, 300, 1100]))
    def rows(self, n: int) -> None:
        self.do(lambda bench: bench.rows(n))

    @rule(size=st.sampled_from([0, 600, 5000]))
    def file(self, size: int) -> None:
        self.do(lambda bench: bench.file(size))

    @rule(n=st.integers(1, 3))
    def refuse(self, n: int) -> None:
        self.do(lambda bench: bench.refuse(n))

    @rule(to=st.integers(0, 3))
    def restart(self, to: int) -> None:
        self.do(lambda bench: bench.restart(to))

    @rule(sign=st.booleans())
    def commit(self, sign: bool) -> None:
        self.do(lambda bench: bench.commit(sign=sign))

    @rule()
    def tick(self) -> None:
        self.do(lambda bench: bench.tick())

    @rule(which=st.integers(0, 2))
    def roll(self, which: int) -> None:
        self.do(lambda bench: bench.roll(which))

    @rule(
        steps=st.integers(1, 30), number=st.sampled_from([errno.EIO, errno.ENOSPC]), after=st.booleans(), times=st.sampled_from([1, 1, 2, 9])
    )
    def arm(self, steps: int, number: int, after: bool, times: int) -> None:
        assert self.bench is not None
        self.bench.disk.fault = Fault(len(self.bench.disk.calls) + steps, number, after, times)

    @rule(steps=st.integers(1, 60), after=st.booleans(), power=st.booleans(), seed=SEEDS)
    def arm_crash(self, steps: int, after: bool, power: bool, seed: int) -> None:
        assert self.bench is not None
        self.power, self.seed = power, seed
        self.bench.disk.fault = Fault(len(self.bench.disk.calls) + steps, 0, after)

    @rule(seed=SEEDS, power=st.booleans())
    def die(self, seed: int, power: bool) -> None:
        self.crashes += 1
        self.do(lambda bench: bench.die(random.Random(seed), power=power))

    def teardown(self) -> None:
        if self.bench is not None:
            self.bench.disk.fault = None
            self.bench.judge(whole=self.crashes == 0)
            self.bench._bury()


KEPT: dict[str, list[tuple[Any, ...]]] = {
    "HDF5 calls on after a callback failed, and h5py raises something else": [
        ("rows", 1100), ("arm", 29, errno.EIO, True, 9), ("roll", 1), ("roll", 0),
    ],
    "a disk that refuses for long while a segment is opened": [("arm", 7, errno.ENOSPC, False, 9), ("roll", 1), ("commit", True), ("rows", 1100)],
    "a refusal while a chunk is written, and once more while its file is given up": [
        ("rows", 1), ("frame", 0), ("arm", 28, errno.EIO, False, 9), ("commit", False), ("file", 0), ("commit", True), ("frame", 0),
    ],
    "the names of a data file survive and that of its journal does not": [
        ("frame", 0), ("die", 1699541416, True), ("arm_crash", 12, True, True, 1685679028), ("rows", 1100),
    ],
    "a rename that was done and reported as failed": [("file", 0), ("arm", 6, errno.ENOSPC, True, 9), ("file", 600)],
}  # fmt: skip
"""Histories that failed once, each with what it found."""


@pytest.mark.parametrize("steps", KEPT.values(), ids=list(KEPT))
def test_a_history_that_failed_once(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    Histories.folder = tmp_path
    machine = Histories()
    machine.begin()
    for name, *values in steps:
        step = vars(Histories)[name]
        step(machine, *values)
    machine.teardown()


def histories(n: int, steps: int, folder: Path) -> None:
    Histories.folder = folder
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Histories, settings=settings(max_examples=n, stateful_step_count=steps, deadline=None, suppress_health_check=checks)
    )


def test_random_histories_lose_nothing_durable_and_hide_no_gap(tmp_path: Path) -> None:
    histories(10, 25, tmp_path)


@pytest.mark.slow(90)
def test_many_random_histories_lose_nothing_durable_and_hide_no_gap(tmp_path: Path) -> None:
    histories(400, 50, tmp_path)


def test_a_frame_that_cannot_be_encoded_again_takes_no_other_one_with_it(tmp_path: Path) -> None:
    """Three frames are written again after a failed commit; what was written before the one that cannot be stands, and is no gap."""
    bench = Bench(Faults(Memory(ROOT)), tmp_path)
    bench.frame()
    bench.commit()
    for _ in range(3):
        bench.frame()
    assert bench.camera.segment is not None
    last = bench.camera.segment._pending[-1].item
    assert isinstance(last, FrameItem)
    assert last.encoded is None, "its raw data is kept, from which it is encoded once more"

    def refused() -> Encoded:
        raise ValueError("not encoded")

    last.again = refused
    bench.disk.fault = Fault(len(bench.disk.calls) + 1, errno.EIO)
    bench.commit()
    with pytest.raises(ValueError, match="not encoded"):
        bench.tick()
    bench.close()
    closed = bench.segments()
    gaps = [(gap.first, gap.last, gap.cause) for each in closed for gap in each.gaps.get(kit.CAMERA.key, ())]
    assert gaps == [(4, 4, "overload")]
    assert sum(each.counts.get(kit.CAMERA.key, 0) for each in closed) == 3
