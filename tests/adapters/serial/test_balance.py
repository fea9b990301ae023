"""Against the simulated balance: every weight that it says it sent is there, value by value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.testing import Connected, Described, Disconnected, Opened, RecordingSink
from edge_agent.model import Cause, Valid
from firmware_sim.launch import Device

Run = Callable[..., Any]


@pytest.fixture
def balance(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    devices: list[Device] = []

    def start(*options: str) -> Device:
        devices.append(Device("balance", *options, truth=tmp_path / f"truth-{len(devices)}.jsonl").start())
        return devices[-1]

    yield start
    for device in devices:
        device.quit()


def port(device: Device) -> str:
    return str(device.ready.get("url") or device.ready["path"])


def weighed(count: int) -> Callable[[RecordingSink], bool]:
    return lambda sink: len(sink.values("mass")) >= count


def assert_same(sink: RecordingSink, device: Device) -> None:
    sent = np.array([item.v for item in device.read_truth().of("mass")], float)
    np.testing.assert_array_equal(sink.values("mass"), sent)


@pytest.mark.parametrize("line", [(), ("--tcp",)], ids=["pty", "tcp"])
async def test_a_balance_that_sends_by_itself_is_recorded_whole(balance: Callable[..., Device], run: Run, line: tuple[str, ...]) -> None:
    device = balance("--rate", "200", "--count", "300", *line)
    one = await run(port(device), profile="mettler-sics")
    await one.sink.until(weighed(300))
    assert device.wait_stopped() == {"mass": 300}
    assert_same(one.sink, device)
    assert one.sink.gaps("mass") == []
    (opened,) = one.sink.of(Opened)
    assert (opened.stream.unit, opened.stream.source_type) == ("g", "serial mettler-sics")
    facts = {key: value for event in one.sink.of(Described) for key, value in event.facts.items()}
    assert facts == {"maker": "Mettler-Toledo", "model": "XSR204 220.0000 g", "serial_number": device.ready["serial"]}
    status = np.concatenate([block.status for block in one.sink.blocks("mass")])
    assert set(status.tolist()) == {ord("S"), ord("D")}


async def test_a_balance_that_is_asked_is_recorded_whole(balance: Callable[..., Device], run: Run) -> None:
    device = balance("--count", "20")
    one = await run(port(device), profile="mettler-sics", every="20 ms")
    await one.sink.until(weighed(20))
    assert device.wait_stopped() == {"mass": 20}
    assert_same(one.sink, device)
    assert one.sink.gaps("mass") == []


async def test_noise_cut_lines_and_overload_cost_no_weight_around_them(balance: Callable[..., Device], run: Run) -> None:
    faults = [part for fault in ("garbage@0.5", "partial@0.8:9", "nan@1.1") for part in ("--fault", fault)]
    device = balance("--rate", "50", "--count", "100", *faults)
    one = await run(port(device), profile="mettler-sics")
    await one.sink.until(weighed(100))
    device.wait_stopped()
    assert_same(one.sink, device)
    gaps = one.sink.gaps("mass")
    assert sum(gap.count for gap in gaps) == 2
    assert {gap.cause for gap in gaps} == {Cause.GARBAGE}
    bad = [
        (block.status[i], block.values[i]) for block in one.sink.blocks("mass") for i in range(len(block)) if block.valid[i] == Valid.BAD
    ]
    assert len(bad) == 1
    assert bad[0][0] == ord("+")
    assert np.isnan(bad[0][1])


async def test_a_balance_that_hangs_is_told_asked_on_and_its_outage_is_a_gap(balance: Callable[..., Device], run: Run) -> None:
    device = balance("--count", "60", "--fault", "hang@0.5:4")
    one = await run(port(device), profile="mettler-sics", every="20 ms", timeout="500 ms")
    await one.sink.until(lambda s: s.of(Disconnected))
    assert one.sink.of(Disconnected)[0].why == "no answer to 'SI'; is it on, are cable, baudrate and parity right?"
    await one.sink.until(weighed(60))
    device.wait_stopped()
    assert_same(one.sink, device)
    assert len(one.sink.of(Connected)) == 2
    assert len(one.sink.of(Disconnected)) == 1
    (gap,) = one.sink.gaps("mass")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    assert 3e9 < gap.t_to - gap.t_from < 20e9


async def test_a_stream_that_falls_silent_is_told_and_begun_again(balance: Callable[..., Device], run: Run) -> None:
    device = balance("--rate", "50", "--count", "60", "--fault", "hang@0.4:3")
    one = await run(port(device), profile="mettler-sics", silence="1 s", timeout="200 ms")
    await one.sink.until(weighed(60), timeout=20)
    device.wait_stopped()
    assert_same(one.sink, device)
    assert one.sink.of(Disconnected)[0].why == "nothing came for 1 s; is it on, is the cable right?"
    assert [gap.cause for gap in one.sink.gaps("mass")] == [Cause.DISCONNECT]


async def test_a_balance_that_has_nothing_to_send_but_answers_is_not_taken_for_silent(balance: Callable[..., Device], run: Run) -> None:
    device = balance("--rate", "50", "--count", "10")
    one = await run(port(device), profile="mettler-sics", silence="200 ms", timeout="5 s")
    await one.sink.until(weighed(10))
    greeted = len(one.sink.of(Described))
    await one.sink.until(lambda s: len(s.of(Described)) >= greeted + 6)
    assert one.sink.of(Disconnected) == []
    assert one.sink.gaps("mass") == []


async def test_a_device_server_that_drops_the_connection_is_dialled_again(balance: Callable[..., Device], run: Run) -> None:
    device = balance("--tcp", "--rate", "50", "--count", "80", "--fault", "disconnect@0.5")
    one = await run(port(device), profile="mettler-sics")
    await one.sink.until(weighed(80))
    device.wait_stopped()
    assert_same(one.sink, device)
    assert one.sink.of(Disconnected)[0].why.startswith("the device server closed the connection")
    (gap,) = one.sink.gaps("mass")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    assert gap.t_from < gap.t_to


async def test_a_balance_that_is_replaced_at_the_same_port_goes_on(balance: Callable[..., Device], run: Run, tmp_path: Path) -> None:
    first = balance("--rate", "50")
    link = tmp_path / "balance"
    link.symlink_to(first.ready["path"])
    one = await run(link, profile="mettler-sics")
    await one.sink.until(weighed(10))
    first.kill()
    link.unlink()
    await one.sink.until(lambda s: s.of(Disconnected))
    before = len(one.sink.values("mass"))
    second = balance("--rate", "50", "--count", "10")
    link.symlink_to(second.ready["path"])
    await one.sink.until(weighed(before + 10), timeout=20)
    assert [item.v for item in second.read_truth().of("mass")] == one.sink.values("mass")[before:].tolist()
