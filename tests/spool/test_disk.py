from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import ConfigError
from edge_agent.spool import DiskGuard, DiskLimits, DiskReport, DiskState
from edge_agent.spool.disk import Space, disk_state, size_text, tree_usage
from edge_agent.storage import DISK, durable

LIMITS = DiskLimits(keep_free=100, max_size=None, soft=1000, hard=400, reserve=0)
CHILD = Path(__file__).with_name("disk_full_child.py")


@pytest.mark.parametrize(
    ("headroom", "before", "state"),
    [
        (1001, "ok", "ok"), (1000, "ok", "soft"), (401, "ok", "soft"), (400, "ok", "hard"), (1, "soft", "hard"), (0, "hard", "paused"),
        (-5, "ok", "paused"), (1050, "soft", "soft"), (1101, "soft", "ok"), (440, "hard", "hard"), (441, "hard", "soft"),
        (30, "paused", "paused"), (41, "paused", "hard"), (5000, "paused", "ok"),
    ],
)  # fmt: skip
def test_the_state_follows_the_headroom_and_goes_back_later_than_it_came(headroom: int, before: str, state: str) -> None:
    assert disk_state(headroom, LIMITS, DiskState(before)) is DiskState(state)


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.sampled_from(list(DiskState)))
def test_less_room_is_never_a_better_state(one: int, other: int, before: DiskState) -> None:
    order = list(DiskState)
    small, large = sorted((one, other))
    assert order.index(disk_state(small, LIMITS, before)) >= order.index(disk_state(large, LIMITS, before))


class Machine:
    """A disk and a clock that the test sets."""

    def __init__(self) -> None:
        self.free = 10_000
        self.used = 0
        self.now = 0.0

    def guard(self, folder: Path, limits: DiskLimits = LIMITS) -> DiskGuard:
        return DiskGuard(folder, limits, space=lambda _: Space(20_000, self.free), used=lambda: self.used, clock=lambda: self.now)


def test_the_time_until_full_comes_from_the_rate(tmp_path: Path) -> None:
    machine = Machine()
    guard = machine.guard(tmp_path)
    assert guard.poll().seconds_left is None
    for _ in range(300):
        machine.now += 1
        machine.free -= 10
        report = guard.poll()
    assert report.rate == pytest.approx(10, rel=0.01)
    assert report.seconds_left == pytest.approx(report.headroom / 10, rel=0.01)
    for _ in range(600):
        machine.now += 1
        report = guard.poll()
    assert report.seconds_left is None


def test_a_clock_that_stands_still_does_no_harm(tmp_path: Path) -> None:
    machine = Machine()
    guard = machine.guard(tmp_path)
    guard.poll()
    machine.free -= 500
    assert guard.poll().rate == 0.0


def test_the_size_of_the_spool_bounds_it_too(tmp_path: Path) -> None:
    machine = Machine()
    guard = machine.guard(tmp_path, DiskLimits(keep_free=100, max_size=2000, soft=1000, hard=400, reserve=0))
    machine.used = 1700
    report = guard.poll()
    assert (report.headroom, report.state, report.used) == (300, DiskState.HARD, 1700)


def test_the_ballast_is_kept_while_there_is_room_given_up_when_paused_and_made_again(tmp_path: Path) -> None:
    machine = Machine()
    guard = machine.guard(tmp_path, DiskLimits(keep_free=100, max_size=None, soft=1000, hard=400, reserve=8192))
    machine.free = 100_000
    guard.poll()
    assert (tmp_path / "ballast").stat().st_size == 8192
    machine.free = 450
    assert guard.poll().state is DiskState.HARD
    assert (tmp_path / "ballast").exists()
    machine.free = 50
    assert guard.poll().state is DiskState.PAUSED
    assert not (tmp_path / "ballast").exists()
    assert not guard.drop_ballast()
    machine.free = 100_000
    guard.poll()
    assert guard.drop_ballast()


def test_limits_that_leave_nothing_are_a_configuration_error_with_figures() -> None:
    with pytest.raises(ConfigError, match="keep_free leaves nothing") as caught:
        DiskLimits.for_disk(10 * 10**9, 20 * 10**9)
    assert "10.0 GB" in caught.value.why
    assert "20.0 GB" in caught.value.why
    assert "larger disk" in caught.value.try_


@given(st.integers(1, 2**50), st.integers(0, 2**50), st.none() | st.integers(1, 2**50))
def test_limits_are_in_order_whatever_the_disk(total: int, keep_free: int, max_size: int | None) -> None:
    if keep_free >= total:
        return
    limits = DiskLimits.for_disk(total, keep_free, max_size)
    assert 0 <= limits.reserve <= limits.hard <= limits.soft <= total


def test_the_usage_of_a_tree_counts_what_is_allocated(tmp_path: Path) -> None:
    durable.allocate(DISK, tmp_path / "a", 100_000)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(bytes(5000))
    assert 105_000 <= tree_usage(tmp_path) <= 120_000


async def test_the_watch_reports_until_it_is_cancelled(tmp_path: Path) -> None:
    reports: asyncio.Queue[DiskReport] = asyncio.Queue()
    machine = Machine()
    task = asyncio.create_task(machine.guard(tmp_path).watch(reports.put_nowait, every=0.01))
    for _ in range(3):
        assert (await asyncio.wait_for(reports.get(), 10)).state is DiskState.OK
    machine.free = 0
    async with asyncio.timeout(10):
        while (await reports.get()).state is not DiskState.PAUSED:
            pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("n", "text"), [(512, "512 B"), (20 * 10**9, "20.0 GB"), (1500, "1.5 kB"), (3 * 10**12, "3.0 TB"), (-5, "-5 B")])
def test_sizes_are_printed_for_people(n: int, text: str) -> None:
    assert size_text(n) == text


def test_a_real_disk_that_runs_full_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    rooted = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", *rooted, "--mount", sys.executable, str(CHILD), str(tmp_path)], capture_output=True, text=True, timeout=90
    )
    assert (done.stdout, done.returncode) == ("sound\n", 0), done.stderr


def test_the_files_of_a_large_spool_are_not_counted_again_all_the_time(tmp_path: Path) -> None:
    now, counts = [0.0], [0]
    free = [10_000]

    def count() -> int:
        counts[0] += 1
        now[0] += 2.0  # it takes so long
        return 5_000

    limits = DiskLimits(keep_free=0, max_size=8_000, soft=1000, hard=400, reserve=0)
    guard = DiskGuard(tmp_path, limits, space=lambda _: Space(20_000, free[0]), used=count, clock=lambda: now[0])
    assert guard.poll().used == 5_000
    for _ in range(20):
        now[0] += 1.0
        free[0] -= 100
        last = guard.poll()
    assert (counts[0], last.used) == (1, 7_000)
    now[0] += 100.0
    assert guard.poll().used == 5_000
    assert counts[0] == 2
