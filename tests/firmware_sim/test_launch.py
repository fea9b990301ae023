from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from firmware_sim.launch import Device, DeviceError

StartDevice = Callable[..., Device]


def test_a_device_is_gone_after_its_with_block(tmp_path: Path) -> None:
    with Device("balance", hold=True, stderr=tmp_path / "err.txt") as balance:
        assert balance.ready["ready"] == "balance"
        assert balance.ready["device"]
        assert balance.returncode is None
        assert Path(balance.ready["path"]).is_char_device()
    assert balance.returncode == 0
    assert (tmp_path / "err.txt").read_text() == ""


def test_sigterm_writes_the_end_line(device: StartDevice) -> None:
    balance = device("balance", hold=True)
    assert not balance.read_truth().complete
    os.kill(balance.pid, signal.SIGTERM)
    balance.wait_for("stopped")
    assert balance.quit() == 0
    assert balance.read_truth().complete


def test_a_killed_device_leaves_an_incomplete_truth(device: StartDevice) -> None:
    balance = device("balance", hold=True)
    balance.kill()
    assert balance.returncode == -signal.SIGKILL
    assert not balance.read_truth().complete


def test_hold_waits_for_go_and_go_is_given_once(device: StartDevice, tmp_path: Path) -> None:
    vendor = device("vendor", "--folder", str(tmp_path / "out"), "--rate", "50", "--count", "2", hold=True)
    assert list((tmp_path / "out").iterdir()) == []
    vendor.go()
    assert vendor.wait_stopped() == {"files": 2}
    vendor._say("go")
    with pytest.raises(DeviceError, match="already started or ended"):
        vendor.wait_for("started")
    assert vendor.stop() == {"files": 2}
    with pytest.raises(DeviceError, match="production has ended"):
        vendor.command("anything")


def test_stop_before_go_ends_with_nothing_sent(device: StartDevice) -> None:
    assert device("balance", hold=True).stop() == {}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("balance", "--fault", "explode@1"), "it knows: garbage, partial, hang, disconnect, duplicate, drip, reset, nan, typechange"),
        (("balance", "--fault", "hang"), r"KIND@SECONDS\[:ARG\]"),
        (("balance", "--fault", "disconnect@1"), "give --tcp"),
        (("balance", "--rate", "0"), "0.001"),
        (("balance", "--truth", "/nowhere/at/all.jsonl"), "No such file or directory"),
        (("toaster",), "No such command"),
        (("vendor", "--folder", "/proc/nothing"), "give another --folder"),
    ],
)
def test_a_device_that_cannot_start_says_why(arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(DeviceError, match=why) as caught, Device(*arguments):
        pass
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", ["balance", "furnace", "ioc", "camera"])
def test_a_port_in_use_is_said(device: StartDevice, name: str) -> None:
    tcp = ("--tcp",) if name == "balance" else ()
    first = device(name, *tcp, hold=True)
    port = first.ready.get("port") or first.ready["endpoint"].split(":")[2].split("/")[0]
    with pytest.raises(DeviceError, match="another --port"):
        device(name, *tcp, "--port", str(port), hold=True)


def test_an_unknown_command_is_refused_with_what_is_known(device: StartDevice) -> None:
    balance = device("balance", hold=True)
    with pytest.raises(DeviceError, match="it knows: go, stop, quit"):
        balance.command("dance " * 2000)


def test_a_device_must_be_started_first() -> None:
    with pytest.raises(DeviceError, match="call start"):
        Device("balance").go()
    with pytest.raises(DeviceError, match="without a truth file"):
        Device("balance").read_truth()
