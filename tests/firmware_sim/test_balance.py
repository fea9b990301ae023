from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import serial

from firmware_sim.launch import Device

StartDevice = Callable[..., Device]


@contextmanager
def connected(device: Device) -> Iterator[serial.SerialBase]:
    url = device.ready.get("url") or device.ready["path"]
    port = serial.serial_for_url(url, timeout=10)
    try:
        yield port
    finally:
        port.close()


def ask(port: serial.SerialBase, command: str) -> str:
    port.write(command.encode() + b"\r\n")
    return line(port)


def line(port: serial.SerialBase) -> str:
    raw = port.readline()
    assert raw.endswith(b"\r\n"), f"no whole line within the timeout: {raw!r}"
    return raw[:-2].decode("latin-1")


def grams(text: str) -> float:
    return float(text.split()[2])


def truth_values(device: Device) -> list[float]:
    return [item.v for item in device.read_truth().of("mass")]  # type: ignore[misc]


@pytest.mark.parametrize("tcp", [(), ("--tcp",)], ids=["pty", "tcp"])
def test_continuous_weights_equal_the_truth_value_by_value(device: StartDevice, tcp: tuple[str, ...]) -> None:
    balance = device("balance", "--rate", "200", "--count", "100", *tcp)
    with connected(balance) as port:
        port.write(b"SIR\r\n")
        lines = [line(port) for _ in range(100)]
        assert balance.wait_stopped() == {"mass": 100}
        assert all(re.fullmatch(r"S [SD] [ \d.-]{10} g", text) for text in lines)
        assert [grams(text) for text in lines] == truth_values(balance)
        assert ask(port, "SI") == "S I"
    assert balance.read_truth().complete


@pytest.mark.parametrize("tcp", [(), ("--tcp",)], ids=["pty", "tcp"])
def test_polled_weights_and_inquiries(device: StartDevice, tcp: tuple[str, ...]) -> None:
    balance = device("balance", *tcp)
    with connected(balance) as port:
        weights = [ask(port, command) for command in ("SI", "S", "SI")]
        assert ask(port, "I4") == f'I4 A "{balance.ready["serial"]}"'
        assert ask(port, "@").startswith("I4 A ")
        assert ask(port, "I2").startswith('I2 A "')
        assert ask(port, "T").startswith("T S ")
        assert ask(port, "Z") == "Z A"
        assert ask(port, "FOO") == "ES"
        assert balance.stop() == {"mass": 3}
    assert [grams(text) for text in weights] == truth_values(balance)
    assert weights[1].startswith("S S ")


def test_nothing_is_weighed_before_go_and_any_command_ends_continuous_sending(device: StartDevice) -> None:
    balance = device("balance", "--rate", "100", hold=True)
    with connected(balance) as port:
        assert ask(port, "SI") == "S I"
        port.write(b"SIR\r\n")
        assert truth_values(balance) == []
        balance.go()
        lines = [line(port) for _ in range(5)]
        port.write(b"@\r\n")
        while not (text := line(port)).startswith("I4"):
            lines.append(text)
        port.timeout = 0.3
        assert port.readline() == b""
        balance.stop()
    assert [grams(text) for text in lines] == truth_values(balance)


def test_a_client_may_close_and_open_again(device: StartDevice) -> None:
    balance = device("balance", "--rate", "100")
    values: list[float] = []
    for _ in range(3):
        with connected(balance) as port:
            values.append(grams(ask(port, "SI")))
    balance.stop()
    assert values == truth_values(balance)


def test_lines_nobody_reads_are_counted_and_block_nothing(device: StartDevice) -> None:
    balance = device("balance", "--rate", "10000", "--count", "6000")
    with connected(balance) as port:
        port.write(b"SIR\r\n")
        # More than a pty holds; the device must come to its end all the same, and what arrived must be whole lines.
        assert balance.wait_stopped(60) == {"mass": 6000}
        port.timeout = 1
        received = port.read(10_000_000).decode().split("\r\n")
    assert received[-1] == "" or not received[-1].endswith("g")
    whole = [grams(text) for text in received[:-1] if text.startswith("S ")]
    assert 100 < len(whole) < 6000
    assert whole == truth_values(balance)[: len(whole)]


def test_rubbish_from_a_client_is_answered_and_does_not_end_the_device(device: StartDevice) -> None:
    balance = device("balance", hold=True)
    with connected(balance) as port:
        port.write(b"\x00\xff\xfe\r\n")
        assert line(port) == "ES"
        port.write(b"x" * 3000 + b"\r\n")
        assert ask(port, "I4").startswith("I4 A ")


def test_faults_show_on_the_line_and_in_the_truth(device: StartDevice) -> None:
    faults = ("garbage@0.2:9", "partial@0.4", "nan@0.6", "hang@0.8:0.5")
    balance = device("balance", "--rate", "50", "--count", "60", *(word for fault in faults for word in ("--fault", fault)))
    with connected(balance) as port:
        port.write(b"SIR\r\n")
        times: list[float] = []
        lines: list[str] = []
        while len(lines) < 62:
            lines.append(line(port))
            times.append(time.monotonic())
    balance.wait_stopped()
    truth = balance.read_truth()
    odd = [text for text in lines if not re.fullmatch(r"S [SD] .{10} g", text)]
    assert len(odd) == 3
    assert [len(text) for text in odd] == [9, 8, 3]
    assert odd[0].encode("latin-1").hex() == truth.faults[0].details["hex"]
    assert odd[1].startswith("S ")
    assert odd[2] == "S +"
    sent = [math.nan if text == "S +" else grams(text) for text in lines if text not in odd[:2]]
    assert [str(value) for value in sent] == [str(value) for value in truth_values(balance)]
    assert [fault.kind for fault in truth.faults] == ["garbage", "partial", "nan", "hang"]
    assert max(b - a for a, b in itertools.pairwise(times)) > 0.4


def test_a_dropped_connection_can_be_opened_again(device: StartDevice) -> None:
    balance = device("balance", "--tcp", "--rate", "100", "--fault", "disconnect@0.3")
    values: list[float] = []
    with connected(balance) as port:
        port.write(b"SIR\r\n")
        # pyserial reports a closed connection by an exception.
        with pytest.raises(serial.SerialException):
            values.extend(grams(line(port)) for _ in range(10_000))
    with connected(balance) as port:
        values.append(grams(ask(port, "SI")))
    balance.stop()
    assert values == truth_values(balance)
    assert len(values) > 5


def test_the_same_seed_weighs_the_same(device: StartDevice) -> None:
    seen = []
    for seed in (4, 4, 5):
        balance = device("balance", seed=seed)
        with connected(balance) as port:
            seen.append([ask(port, "SI") for _ in range(5)])
        balance.quit()
    assert seen[0] == seen[1] != seen[2]
