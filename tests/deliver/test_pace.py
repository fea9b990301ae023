from __future__ import annotations

import asyncio
import datetime as dt
import threading
import zoneinfo
from collections.abc import Callable
from typing import Any

import pytest

from edge_agent.deliver import lane as lane_module
from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.engine import Engine
from edge_agent.deliver.pace import UNLIMITED, Hours, Pace
from edge_agent.provenance.policy import PolicyGate

TOKYO = zoneinfo.ZoneInfo("Asia/Tokyo")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bytes_wait_until_those_before_them_have_gone() -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    assert [pace.delay(500) for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]
    clock.now += 2.0
    assert pace.delay(1) == 0.0


def test_a_silence_does_not_save_up_more_than_a_second() -> None:
    clock = Clock()
    pace = Pace(1000, clock)
    clock.now += 3600
    assert sum(pace.delay(500) == 0.0 for _ in range(10)) == 3


def test_items_of_a_target_share_its_rate() -> None:
    clock = Clock()
    pace, delays, lock = Pace(1000, clock), [], threading.Lock()

    def take() -> None:
        for _ in range(100):
            delay = pace.delay(100)
            with lock:
                delays.append(delay)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(delays) == pytest.approx(399 * 100 / 1000)


def test_without_a_rate_nothing_waits() -> None:
    assert UNLIMITED.delay(1 << 50) == 0.0


@pytest.mark.parametrize(
    ("begin", "end", "now", "wait"),
    [
        ((22, 0), (6, 0), (21, 30), 1800), ((22, 0), (6, 0), (22, 0), 0), ((22, 0), (6, 0), (5, 59), 0), ((22, 0), (6, 0), (6, 0), 16 * 3600),
        ((9, 0), (17, 0), (12, 0), 0), ((9, 0), (17, 0), (17, 0), 16 * 3600), ((9, 0), (17, 0), (8, 59), 60),
    ],
)  # fmt: skip
def test_hours_of_the_day_also_over_midnight(begin: Any, end: Any, now: Any, wait: float) -> None:
    hours = Hours(dt.time(*begin), dt.time(*end), TOKYO)
    assert hours.wait(dt.datetime(2026, 11, 26, *now, tzinfo=TOKYO).astimezone(dt.UTC)) == wait


def test_hours_where_the_clock_is_put_forward() -> None:
    """2026-03-29 in Berlin has no 02:30: what begins then begins with the next hour."""
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    hours = Hours(dt.time(2, 30), dt.time(4), berlin)
    now = dt.datetime(2026, 3, 29, 1, 59, tzinfo=berlin)
    assert 0 < hours.wait(now) <= 3600
    assert hours.wait(dt.datetime(2026, 3, 29, 3, 0, tzinfo=berlin)) == 0


async def test_a_target_with_hours_gets_nothing_outside_them_and_the_others_go_on(
    spool: Any, faulty_folder: Callable[..., Any], make_item: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    night = Hours(dt.time(22), dt.time(6), dt.UTC)
    now = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)

    class Wall(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now

    monkeypatch.setattr(lane_module, "datetime", Wall)
    cloud, disk = faulty_folder("cloud"), faulty_folder("disk")
    got: dict[str, asyncio.Event] = {"cloud": asyncio.Event(), "disk": asyncio.Event()}
    engine = Engine(
        spool.outbox, [cloud, disk], PolicyGate(["cloud", "disk"]), backoff=Backoff(0.01, 0.05), hours={"cloud": night},
        proved=lambda item, receipt: got[receipt.target].set(),
    )  # fmt: skip
    spool.outbox.add(make_item("a"), ["cloud", "disk"])
    await engine.start()
    engine.wake()
    await asyncio.wait_for(got["disk"].wait(), 30)
    (status,) = [s for s in engine.status() if s.target == "cloud"]
    assert (status.state, status.retry_in, cloud.sent) == ("scheduled", pytest.approx(10 * 3600, abs=60), [])
    now = dt.datetime(2026, 11, 26, 23, tzinfo=dt.UTC)
    engine.wake()
    await asyncio.wait_for(got["cloud"].wait(), 30)
    await engine.stop()
