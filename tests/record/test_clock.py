"""Steps of the wall clock: noticed, declared before anything is signed with the new time, and never mistaken for a slow machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.record import clock, timekeeping, tree
from edge_agent.record.clock import ClockWatch, Reading, read_clocks, unexplained
from edge_agent.record.recovery import recover
from edge_agent.record.timekeeping import TIME_ERROR, Timekeeper, Timex, chrony, kernel, run, w32time
from edge_agent.seal import leaf
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head, State
from edge_agent.segment.verify import verify_segment
from edge_agent.storage import DISK

S = 10**9
T0 = 1_795_000_000 * S
SYNCED = Clock("chrony", 5, 7, True)
CHILD = Path(__file__).with_name("clock_child.py")
LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
YEARS = 315_360_000


class Clocks:
    """A wall clock that somebody sets, and a boot clock."""

    def __init__(self) -> None:
        self.now = Reading(T0, 100 * S)

    def __call__(self) -> Reading:
        return self.now

    def on(self, boot_ns: int, gained_ns: int = 0, **more: Any) -> None:
        self.now = replace(self.now, t_utc_ns=self.now.t_utc_ns + boot_ns + gained_ns, t_boot_ns=self.now.t_boot_ns + boot_ns, **more)


@pytest.mark.parametrize("step", [3_000_000, -3_000_000, 10 * YEARS * S, -YEARS * S])
def test_a_step_is_declared_once(step: int) -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks)
    clocks.on(S // 100)
    assert watch.observe() == (clocks.now, None)
    clocks.on(S // 100, step)
    assert watch.observe() == (clocks.now, leaf.ClockLeaf(step, None, clocks.now.t_utc_ns, clocks.now.t_boot_ns))
    clocks.on(S)
    assert watch.observe()[1] is None


def test_steps_too_small_to_be_told_are_told_when_they_add_up() -> None:
    clocks, declared = Clocks(), []
    watch = ClockWatch(clocks)
    for _ in range(10):
        clocks.on(1000, 900_000)
        declared.append(watch.observe()[1])
    steps = [item.step_ns for item in declared if item is not None and item.step_ns is not None]
    assert len(steps) == 3
    assert sum(steps) == pytest.approx(8_100_000, abs=20_000)


def test_a_clock_that_is_disciplined_gently_makes_no_steps() -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks)
    for _ in range(1000):
        clocks.on(S, 400_000)
        assert watch.observe()[1] is None


@given(st.lists(st.tuples(st.integers(0, 10 * S), st.integers(-(10**7), 10**7)), max_size=30))
def test_what_is_not_declared_is_never_more_than_a_verifier_allows(moves: list[tuple[int, int]]) -> None:
    clocks, steps = Clocks(), 0
    watch = ClockWatch(clocks)
    first = clocks.now
    for boot, gained in moves:
        clocks.on(boot, gained)
        now, item = watch.observe()
        steps += item.step_ns or 0 if item is not None else 0
        passed = now.t_boot_ns - first.t_boot_ns
        assert abs(now.t_utc_ns - first.t_utc_ns - passed - steps) <= 5_000_000 + passed // 2000


def test_clocks_that_were_read_far_apart_prove_no_step() -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks)
    clocks.on(S, 20_000_000, width_ns=30_000_000)
    assert watch.observe()[1] is None


def test_a_thread_that_loses_the_processor_between_two_clocks_reads_them_again() -> None:
    boot = iter([0, 5 * 10**7, 10**8, 10**8 + 1000])
    assert read_clocks(Clock, lambda: 7, lambda: next(boot)) == Reading(7, 10**8 + 500, 1000)
    slow = iter(range(0, 10**12, 10**9))
    assert read_clocks(Clock, lambda: 7, lambda: next(slow)).width_ns == 10**9
    assert clock.boot_time_ns() <= clock.boot_time_ns()


def test_who_keeps_the_clock_is_declared_when_it_changes() -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks)
    clocks.on(S, clock=SYNCED)
    assert watch.observe()[1] == leaf.ClockLeaf(None, SYNCED, clocks.now.t_utc_ns, clocks.now.t_boot_ns)
    clocks.on(S, clock=replace(SYNCED, offset_ns=99))
    assert watch.observe()[1] is None
    clocks.on(S, S, clock=Clock("chrony"))
    assert watch.observe()[1] == leaf.ClockLeaf(S, Clock("chrony"), clocks.now.t_utc_ns, clocks.now.t_boot_ns)


def told(**fields: int) -> Callable[[Timex], int]:
    def call(timex: Timex) -> int:
        state = fields.pop("state", 0)
        for name, value in fields.items():
            setattr(timex, name, value)
        return state

    return call


def test_the_kernel_says_whether_it_is_synchronised_and_how_wrong_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timekeeping, "KEEPERS", {"ntpd": tmp_path / "ntpd.pid"})
    assert kernel(told(offset=-250, maxerror=1500)) == Clock("kernel", 250_000, 1_500_000, True)
    assert kernel(told(offset=-250, maxerror=1500, status=0x2001)) == Clock("kernel", 250, 1_500_000, True)
    assert kernel(told(status=0x40, maxerror=16_000_000)) == Clock("kernel")
    assert kernel(told(state=TIME_ERROR)) == Clock("kernel")
    assert kernel(told(state=-1)) is None
    assert kernel() is None or kernel().source == "kernel"  # type: ignore[union-attr]
    (tmp_path / "ntpd.pid").touch()
    assert kernel(told(offset=0, maxerror=1)) == Clock("ntpd", 0, 1000, True)


# What chronyc 4.3 printed beside a server that was 2 s ahead of it ("2.000018120 seconds slow of NTP time").
TRACKING = "7F000001,127.0.0.1,6,1795640301.876384224,2.000018120,0.000003294,0.000003128,-0.141,0.031,0.798,0.000035748,0.000005129,2.0,Normal\n"


def test_chrony_says_how_far_the_clock_is_off() -> None:
    assert chrony(lambda command: TRACKING) == Clock("chrony", -2_000_018_120, 23_003, True)
    assert chrony(lambda command: TRACKING.replace("Normal", "Not synchronised")) == Clock("chrony")
    assert chrony(lambda command: TRACKING.replace(",6,", ",0,")) == Clock("chrony")
    for nothing in (None, "", "506 Cannot talk to daemon\n", TRACKING.replace("2.000018120", "x")):
        assert chrony(lambda command, said=nothing: said) is None  # type: ignore[misc]


W32TM = """閏インジケーター: 0 (警告なし)
階層: 4 (二次参照 - (S)NTP で同期)
精度: -23 (ティックごとに 119.209ns)
ルート遅延: 0.0312500s
ルート分散: 0.0100000s
参照 ID: 0x33914411 (ソース IP:  51.145.123.29)
最終正常同期時刻: 2026/11/24 17:15:52
ソース: time.windows.com,0x8
ポーリング間隔: 10 (1024s)

フェーズ オフセット: -0.0012000s
クロックレート: 0.0156250s
"""


def test_the_windows_time_service_is_understood_in_any_language() -> None:
    assert w32time(lambda command: W32TM) == Clock("w32time", 1_200_000, 25_625_000, True)
    assert w32time(lambda command: W32TM.replace(": 0 (", ": 3 (")) == Clock("w32time")
    for nothing in (None, "", "The service has not been started. (0x80070426)\n"):
        assert w32time(lambda command, said=nothing: said) is None  # type: ignore[misc]


def test_programs_are_asked_once_a_minute_and_know_more_than_the_kernel() -> None:
    now, asked = [0.0], []

    def program() -> Clock | None:
        asked.append(now[0])
        return SYNCED if now[0] < 100 else None

    keeper = Timekeeper(lambda: Clock("kernel"), (lambda: None, program), lambda: now[0])
    assert keeper() == Clock()
    for now[0] in (0.0, 5.0, 59.0, 60.0, 119.0, 120.0):
        keeper.refresh()
    assert asked == [0.0, 60.0, 120.0]
    assert keeper() == Clock("kernel")
    assert Timekeeper(lambda: None, ()).refresh() == Clock()


def test_a_program_that_is_missing_fails_or_hangs_says_nothing(tmp_path: Path) -> None:
    assert run(("no-such-program-anywhere",)) is None
    assert run((sys.executable, "-c", "raise SystemExit(1)")) is None
    assert run((sys.executable, "-c", "print('x')")) in ("x\n", "x\r\n")
    script = tmp_path / "script"
    script.write_bytes(b"\x7fELF is no program")
    script.chmod(0o755)
    assert run((str(script),)) is None


def test_a_step_between_two_commits_is_in_the_tree_before_the_head_with_the_new_time(
    rig: Any, kit: Any, facility: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ahead = [0]
    real = read_clocks

    def read(known: Any, now_ns: Any) -> Reading:
        return replace((moment := real(known, now_ns)), t_utc_ns=moment.t_utc_ns + ahead[0], clock=SYNCED if ahead[0] else Clock())

    monkeypatch.setattr(tree, "read_clocks", read)
    made = rig()
    frames, mass = made.recording.frames(kit.CAMERA), made.recording.rows(kit.BALANCE)
    frames.offer(kit.frame(1))
    mass.put_now(kit.rows(1))
    made.durable()
    ahead[0] = YEARS * S
    frames.offer(kit.frame(2))
    made.durable()
    ahead[0] = -YEARS * S
    segments = made.close()
    kit.check_signed(segments, facility)
    kit.independent_verifier([closed.path for closed in segments], facility.pem(tmp_path))
    for closed in segments:
        items = [item for item in kit.leaves_of(closed) if isinstance(item, leaf.ClockLeaf)]
        assert sum(item.step_ns or 0 for item in items) == pytest.approx(-YEARS * S, abs=S)
        assert [item.sync for item in items if item.sync is not None] == [SYNCED]
        assert verify_segment(closed.path, facility.root).warning == ""
    assert sorted(kit.recorded_frames(segments)) == [1, 2]


def test_a_segment_that_its_own_boot_recovers_says_when_the_clock_was_set_too(
    rig: Any, kit: Any, facility: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    (series,) = run.recording.series()
    with series.segment.committing:
        series.segment.commit()
        series.segment.commit()
        folders, name = [shutil.copytree(run.folder, tmp_path / str(n)) for n in (1, 2)], series.segment.name
    monkeypatch.setattr(tree, "read_clocks", lambda known, now_ns: replace(read_clocks(), t_utc_ns=clock.time.time_ns() + YEARS * S))
    for folder, session, told in zip(folders, (run.session, facility.boot()), (1, 0), strict=True):
        closed = recover(folder, name, session, DISK, clock.time.time_ns, kit.POLICY, chain=run.session.chain, clock=lambda: SYNCED)
        steps = [item for item in kit.leaves_of(closed) if isinstance(item, leaf.ClockLeaf)]
        assert [item.step_ns for item in steps] == [pytest.approx(YEARS * S, abs=S)] * told
        report = verify_segment(closed.path, facility.root)
        assert (report.level, report.state, report.warning) == (2, "recovered", "")


def test_what_was_declared_needs_no_second_leaf() -> None:
    before = Head(bytes(16), bytes(16), 1, bytes(32), 0, None, T0, 0, bytes(16), Clock(), State.OPEN)
    now = Reading(T0 + 9 * S, 2 * S, 0, SYNCED)
    item = unexplained(before, [], now)
    assert item == leaf.ClockLeaf(7 * S, SYNCED, now.t_utc_ns, now.t_boot_ns)
    assert unexplained(before, [item], now) is None
    assert unexplained(before, [replace(item, sync=None)], now) == replace(item, step_ns=None)


def faketime() -> str:
    found = [path for pattern in LIBRARIES for path in Path("/").glob(pattern[1:])]
    return str(found[0]) if found else ""


@pytest.mark.needs("faketime")
def test_nothing_is_lost_when_the_clock_jumps_by_ten_years_during_capture(tmp_path: Path, facility: Any, kit: Any) -> None:
    settings = tmp_path / "faketime.rc"

    def set_clock(seconds: str) -> None:
        (tmp_path / "new.rc").write_text(seconds)
        os.replace(tmp_path / "new.rc", settings)

    set_clock("+0")
    faked = {
        "LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": str(settings), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    key = facility.key.private_bytes_raw().hex()
    command = [sys.executable, str(CHILD), str(tmp_path / "spool"), facility.agent_id.hex(), key]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | faked)
    assert child.stdin is not None
    assert child.stdout is not None

    def more() -> None:
        """Has the child record a few items more, and waits until they are durable."""
        child.stdin.write("more\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        assert child.stdout.readline() == "durable\n"  # type: ignore[union-attr]

    for seconds in ("+0", f"+{YEARS}", f"-{YEARS}", "+0"):
        set_clock(seconds)
        more()
    said, _ = child.communicate("close\n", timeout=200)
    assert child.returncode == 0
    paths = [Path(line) for line in said.splitlines()]
    assert len(paths) == 2
    steps = [YEARS, -2 * YEARS, YEARS]
    for path in paths:
        report = verify_segment(path, facility.root)
        assert (report.level, report.reason, report.warning, report.gaps) == (2, "", "", ())
        clocks = [item.step_ns for item in kit.leaves_at(path) if isinstance(item, leaf.ClockLeaf) and abs(item.step_ns or 0) > S]
        assert clocks == [pytest.approx(step * S, abs=5 * S) for step in steps]
    kit.independent_verifier(paths, facility.pem(tmp_path))
    assert kit.frames_at(paths) == list(range(1, 41))
