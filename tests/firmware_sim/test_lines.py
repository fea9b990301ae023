"""The thermostat, the spectrometer and the pump, as a client sees them that only knows their protocols' books."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import itertools
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import serial

from firmware_sim.balance import Balance
from firmware_sim.instrument import Options
from firmware_sim.launch import Device
from firmware_sim.links import PtyLink

StartDevice = Callable[..., Device]
LINES = pytest.mark.parametrize("line", [(), ("--tcp",)], ids=["pty", "tcp"])


@contextmanager
def connected(device: Device) -> Iterator[serial.SerialBase]:
    port = serial.serial_for_url(device.ready.get("url") or device.ready["path"], timeout=10)
    try:
        yield port
    finally:
        port.close()


def ask(port: serial.SerialBase, command: str, end: bytes = b"\n") -> str:
    port.write(command.encode() + end)
    answer = port.read_until(end)
    assert answer.endswith(end), f"no whole line within the timeout: {answer!r}"
    return answer[:-1].decode("latin-1")


def values(device: Device, stream: str) -> list[str]:
    return [str(item.v) for item in device.read_truth().of(stream)]


def faults(*texts: str) -> tuple[str, ...]:
    return tuple(word for text in texts for word in ("--fault", text))


@LINES
def test_a_thermostat_speaks_scpi_in_long_and_short_form_and_heats(device: StartDevice, line: tuple[str, ...]) -> None:
    thermostat = device("thermostat", "--rate", "100", *line)
    with connected(thermostat) as port:
        assert ask(port, "*IDN?").split(",")[1:3] == ["TC-400", thermostat.ready["serial"]]
        port.write(b":SOUR:TEMP 380\noutput on\nSOURCE:TEMP nonsense\nSOURC:TEMP 1\n")
        assert ask(port, "source:temperature?") == "380.0000"
        assert ask(port, "OUTP?") == "1"
        assert [ask(port, "SYST:ERR?").split(",")[0] for _ in range(3)] == ["-104", "-113", "0"]
        read = [ask(port, "READ?").split(",") for _ in range(5)]
        measured = [float(ask(port, "MEAS:TEMP?"))]
        while measured[-1] < float(read[0][0]) + 2:
            measured.append(float(ask(port, "MEASURE:TEMPERATURE?")))
        sent = thermostat.stop()
        port.write(b"READ?\n")
        assert ask(port, "SYST:ERR?").startswith("-230,")
    assert sent == {"temperature": 5 + len(measured), "power": 5}
    assert values(thermostat, "temperature") == [str(float(t)) for t, _ in read] + [str(t) for t in measured]
    assert values(thermostat, "power") == [str(float(p)) for _, p in read]


def test_a_thermostat_misbehaves_as_it_says(device: StartDevice) -> None:
    plan = faults("nan@0", "typechange@0", "partial@0:4", "duplicate@0", "reset@0.3")
    thermostat = device("thermostat", *plan, "--rate", "20", hold=True)
    with connected(thermostat) as port:
        thermostat.go()
        assert ask(port, "SOUR:TEMP?") == "320.0000"
        lines = [ask(port, "READ?") for _ in range(4)]
        lines.append(port.read_until(b"\n").decode().strip())
        assert lines[0].startswith("9.91E37,")
        assert lines[1].startswith("OPEN,")
        assert len(lines[2]) == 4
        assert lines[3] == lines[4]
        assert port.read_until(b"\n") == b"READY\n"
        assert ask(port, "SOUR:TEMP?") == "295.0000"
    thermostat.stop()
    assert values(thermostat, "temperature") == ["nan", *[str(float(line.split(",")[0])) for line in lines[3:]]]


@LINES
@pytest.mark.parametrize("crc", ["crc32", "crc16", "none"])
def test_a_spectrometer_sends_numbered_blocks_with_a_checksum(device: StartDevice, line: tuple[str, ...], crc: str) -> None:
    spectrometer = device("spectrometer", "--rate", "100", "--count", "30", "--crc", crc, "--pixels", "5000", *line)
    with connected(spectrometer) as port:
        blocks = [read_block(port, b"READ?\n", crc) for _ in range(3)]
        port.write(b"INIT:CONT ON\n")
        blocks += [read_block(port, b"", crc) for _ in range(27)]
        assert spectrometer.wait_stopped() == {"spectrum": 30}
    assert [number for number, _ in blocks] == list(range(1, 31))
    items = spectrometer.read_truth().of("spectrum")
    assert [(item.unique_id, item.sha256, item.shape) for item in items] == [(n, sha, (5000,)) for n, sha in blocks]
    assert len({sha for _, sha in blocks}) == 30


def read_block(port: serial.SerialBase, command: bytes, crc: str, pixels: int = 5000) -> tuple[int, str]:
    """Number of the spectrum and SHA-256 of its counts."""
    port.write(command)
    assert port.read(1) == b"#"
    body = port.read(int(port.read(int(port.read(1)))))
    assert port.read(1) == b"\n"
    size = {"crc32": 4, "crc16": 2, "none": 0}[crc]
    payload, check = body[: len(body) - size], body[len(body) - size :]
    assert len(payload) == 8 + 2 * pixels
    if crc == "crc32":
        assert struct.unpack("<I", check)[0] == zlib.crc32(payload)
    if crc == "crc16":
        assert struct.unpack("<H", check)[0] == binascii.crc_hqx(payload, 0xFFFF)
    return struct.unpack("<I", payload[:4])[0], hashlib.sha256(payload[8:]).hexdigest()


def test_a_spectrometer_misbehaves_as_it_says(device: StartDevice) -> None:
    plan = faults("duplicate@0", "reorder@0", "typechange@0", "corrupt@0", "partial@0:100", "reset@0.5")
    spectrometer = device("spectrometer", *plan, "--rate", "20", "--count", "20", "--pixels", "64", "--crc", "none", hold=True)
    with connected(spectrometer) as port:
        port.write(b"INIT:CONT ON\n*OPC?\n")
        assert port.read(2) == b"1\n"
        spectrometer.go()
        blocks = []
        for _ in range(4):
            digits = int(port.read(2)[1:])
            blocks.append(port.read(int(port.read(digits)) + 1))
        numbers = [struct.unpack_from("<I", block)[0] for block in blocks]
        assert numbers == [1, 1, 3, 2]
    spectrometer.wait_stopped()
    truth = spectrometer.read_truth()
    items = truth.of("spectrum")
    assert [item.unique_id for item in items][:4] == numbers
    assert [item.shape for item in items][:4] == [(64,), (64,), (32,), (64,)]
    assert [item.unique_id for item in truth.of("spectrum", dropped=True) if item.dropped] == [4, 5]
    assert [item.unique_id for item in items].count(1) == 3, "once more after the reset"


@LINES
def test_a_pump_answers_telegrams_with_checksums_and_runs_up_and_down(device: StartDevice, line: tuple[str, ...]) -> None:
    pump = device("pump", "--rate", "100", *line)
    with connected(pump) as port:
        assert ask(port, telegram("00", "349", "=?"), b"\r") == telegram("10", "349", "TMP300")
        assert data_of(ask(port, telegram("00", "999", "=?"), b"\r")) == "NO_DEF"
        port.write(b"0010030902=?000\r")
        speeds = [read(port, "309")]
        while speeds[-1] < 1200:
            speeds.append(read(port, "309"))
        current, pressure = data_of(ask(port, telegram("00", "310", "=?"), b"\r")), data_of(ask(port, telegram("00", "740", "=?"), b"\r"))
        assert data_of(ask(port, telegram("10", "010", "000000"), b"\r")) == "000000"
        while speeds[-1] > 300:
            speeds.append(read(port, "309"))
        pump.stop()
        assert data_of(ask(port, telegram("00", "309", "=?"), b"\r")) == "_LOGIC"
    assert values(pump, "speed") == [str(float(speed)) for speed in speeds]
    assert [float(v) for v in values(pump, "current")] == [int(current) / 100]
    (said,) = (float(v) for v in values(pump, "pressure"))
    assert math.isclose(said, int(pressure[:4]) / 1000 * 10.0 ** (int(pressure[4:]) - 20))


def telegram(action: str, parameter: str, data: str) -> str:
    body = f"001{action}{parameter}{len(data):02d}{data}"
    return f"{body}{sum(body.encode()) % 256:03d}"


def data_of(answer: str) -> str:
    assert int(answer[-3:]) == sum(answer[:-3].encode()) % 256
    return answer[10:-3]


def read(port: serial.SerialBase, parameter: str) -> int:
    return int(data_of(ask(port, telegram("00", parameter, "=?"), b"\r")))


def test_a_pump_misbehaves_as_it_says(device: StartDevice) -> None:
    pump = device("pump", *faults("corrupt@0", "nan@0", "typechange@0", "duplicate@0"), hold=True)
    with connected(pump) as port:
        assert data_of(ask(port, telegram("00", "309", "=?"), b"\r")) == "_LOGIC"
        pump.go()
        wrong = ask(port, telegram("00", "309", "=?"), b"\r")
        assert int(wrong[-3:]) != sum(wrong[:-3].encode()) % 256
        assert [data_of(ask(port, telegram("00", "309", "=?"), b"\r")) for _ in range(2)] == ["_RANGE", "SENSOR"]
        speed = read(port, "309")
        assert data_of(port.read_until(b"\r")[:-1].decode()) == f"{speed:06d}"
    pump.stop()
    assert values(pump, "speed") == [str(float(speed))] * 2


def test_a_line_that_drips_is_the_same_line(device: StartDevice) -> None:
    balance = device("balance", "--rate", "20", "--count", "20", *faults("drip@0.2:0.4"))
    with connected(balance) as port:
        port.write(b"SIR\r\n")
        times: list[float] = []
        data = b""
        while data.count(b"\r\n") < 20:
            data += port.read(1)
            times.append(time.monotonic())
    balance.wait_stopped()
    assert [str(float(line.split()[2])) for line in data.decode().splitlines()] == values(balance, "mass")
    assert sum(b - a > 0.001 for a, b in itertools.pairwise(times)) > 15, "bytes came one by one for a while"


class Recorded(PtyLink):
    """Keeps what is sent; ``came`` is set at each piece."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.came = asyncio.Event()

    def send(self, line: bytes) -> bool:
        self.sent += line
        self.came.set()
        return True


async def test_a_line_that_drips_when_the_dripping_ends_is_sent_whole_before_the_next_one() -> None:
    balance, link = Balance(Options()), Recorded()
    balance._link = link
    await balance.open()
    balance._dripping_until = math.inf
    balance._put(b"first\r\n")
    await link.came.wait()
    balance._dripping_until = 0.0
    balance._put(b"second\r\n")
    while len(link.sent) < len(b"first\r\nsecond\r\n"):
        link.came.clear()
        await asyncio.wait_for(link.came.wait(), 60)
    assert link.sent == b"first\r\nsecond\r\n"
    await balance.close()


def test_faults_at_random_are_in_the_truth(device: StartDevice) -> None:
    balance = device("balance", "--rate", "200", "--random-faults", "0.1", seed=8)
    with connected(balance) as port:
        port.timeout = 0.1
        while len(noted := balance.read_truth().faults) < 12:
            port.write(b"SIR\r\n")
            port.read(4096)
    assert len({fault.kind for fault in noted}) >= 5
    assert "disconnect" not in {fault.kind for fault in noted}, "a pty has no connection"
