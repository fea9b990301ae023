"""Several questions with periods of their own, and the text servers of beamlines: STARS and SPring-8."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.serial import SerialConfig
from adapters.serial.check import checker
from adapters.serial.profiles import LANGUAGES, names
from adapters.testing import Connected, Disconnected, Opened, RecordingSink
from edge_agent.model import Cause

Run = Callable[..., Any]
Serve = Callable[[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(talk)`` listens on loopback and gives its address."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def start(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> str:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await talk(reader, writer)

        servers.append(await asyncio.start_server(client, "127.0.0.1", 0))
        return f"socket://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for writer in writers:
        writer.close()


def got(**counts: int) -> Callable[[RecordingSink], bool]:
    return lambda sink: all(len(sink.values(name)) >= count for name, count in counts.items())


POLL = [
    {"command": "KRDG? A", "every": "20 ms", "parse": "{a:float}"},
    {"command": "KRDG? B", "every": "30 ms", "parse": "{b:float}"},
]


async def test_answers_that_look_alike_go_to_the_question_that_was_asked(cable: Any, run: Run) -> None:
    cable.answers |= {b"KRDG? A": b"+1.5\r\n", b"KRDG? B": b"+2.5\r\n"}
    one = await run(cable.path, poll=POLL, channels={"a": {"unit": "K"}})
    await one.sink.until(got(a=5, b=3))
    assert set(one.sink.values("a").tolist()) == {1.5}
    assert set(one.sink.values("b").tolist()) == {2.5}
    assert {event.stream.name: event.stream.unit for event in one.sink.of(Opened)} == {"a": "K", "b": ""}
    assert cable.heard.count(b"KRDG? A") > cable.heard.count(b"KRDG? B")


async def test_a_late_answer_is_not_taken_for_that_of_the_next_question(serve: Serve, run: Run) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late = True
        while line := (await reader.readline()).strip():
            if late and line == b"KRDG? A":
                late = False
                await asyncio.sleep(0.45)  # the device is slow, once
            writer.write(b"1.5\r\n" if line == b"KRDG? A" else b"2.5\r\n")

    one = await run(await serve(talk), poll=POLL, timeout="300 ms", wait=False)
    await one.sink.until(got(a=3, b=3))
    assert set(one.sink.values("a").tolist()) == {1.5}
    assert set(one.sink.values("b").tolist()) == {2.5}


async def test_lines_that_nobody_asked_for_may_come_in_between(cable: Any, run: Run) -> None:
    cable.answers |= {b"A?": b"EVENT door 1\r\n7.5\r\n"}
    one = await run(cable.path, parse="EVENT door {door:int}", poll=[{"command": "A?", "every": "20 ms", "parse": "{a:float}"}])
    await one.sink.until(got(a=3, door=3))
    assert set(one.sink.values("a").tolist()) == {7.5}
    assert one.sink.gaps("a") == []


async def test_an_answer_that_is_no_item_is_missed_only_where_it_belongs(cable: Any, run: Run) -> None:
    cable.answers |= {b"KRDG? A": b"1.5\r\n", b"KRDG? B": b"2.5\r\n"}
    one = await run(cable.path, poll=POLL, timeout="200 ms")
    await one.sink.until(got(a=1, b=1))
    cable.answers[b"KRDG? B"] = b"ERR\r\n"
    await one.sink.until(lambda s: s.gaps("b"))
    assert one.sink.gaps("a") == []
    assert one.sink.gaps("b")[0].cause is Cause.GARBAGE


async def test_noise_before_an_answer_does_not_shift_the_answers(cable: Any, run: Run) -> None:
    cable.answers |= {b"KRDG? A": b"1.5\r\n", b"KRDG? B": b"2.5\r\n"}
    one = await run(cable.path, poll=POLL)
    await one.sink.until(got(a=1, b=1))
    cable.answers[b"KRDG? A"] = b"\x80\x81\r\n1.5\r\n1.5\r\n"
    await one.sink.until(lambda s: len(s.gaps("a")) >= 3)
    cable.answers[b"KRDG? A"] = b"1.5\r\n"
    count = len(one.sink.values("a"))
    await one.sink.until(got(a=count + 5, b=5))
    assert set(one.sink.values("a").tolist()) == {1.5}
    assert set(one.sink.values("b").tolist()) == {2.5}


async def test_a_question_that_stays_unanswered_is_a_gap_of_its_own_values(cable: Any, run: Run) -> None:
    cable.answers |= {b"KRDG? A": b"1.5\r\n", b"KRDG? B": b"2.5\r\n"}
    one = await run(cable.path, poll=POLL, timeout="400 ms")
    await one.sink.until(got(a=1, b=1))
    del cable.answers[b"KRDG? B"]
    heard = cable.heard.count(b"KRDG? B")
    await one.sink.until(lambda s: cable.heard.count(b"KRDG? B") >= heard + 4)
    cable.answers[b"KRDG? B"] = b"3.5\r\n"
    await one.sink.until(lambda s: 3.5 in s.values("b").tolist())
    await one.sink.until(lambda s: s.gaps("b"))
    (gap,) = one.sink.gaps("b")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    assert gap.detail.startswith("no answer to 'KRDG? B', asked ")
    assert one.sink.gaps("a") == []
    assert one.sink.of(Disconnected) == []


async def test_binary_questions_are_framed_like_their_answers(serve: Serve, run: Run) -> None:
    _, crc = checker("crc16-modbus")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            question = await reader.readexactly(8)
            assert crc(question[:-2]).to_bytes(2, "little") == question[-2:]
            answer = bytes.fromhex("01 03 04 00 2A FF FE")
            writer.write(answer + crc(answer).to_bytes(2, "little"))

    request = bytes.fromhex("01 03 00 00 00 02")
    command = "hex: " + (request + crc(request).to_bytes(2, "little")).hex(" ")
    frame = {"length": {"at": 2}, "check": {"kind": "crc16-modbus", "order": "little"}}
    one = await run(
        await serve(talk), frame=frame, command_end="", command=command, every="20 ms", struct=">2xHh", fields=["level", "flow"], wait=False
    )  # fmt: skip
    await one.sink.until(got(level=3, flow=3))
    assert (one.sink.values("level")[0], one.sink.values("flow")[0]) == (42, -2)


STARS = [{"command": "idgap GetValue", "every": "30 ms", "parse": "idgap>{_:word} @GetValue {gap:float}"}]


class Stars:
    """The STARS server as far as a node sees it: number, keyword, flags, events, answers."""

    def __init__(self, keywords: list[str]) -> None:
        self.keywords = keywords
        self.logins: list[str] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 4711
        writer.write(b"%d\n" % number)
        node, _, keyword = (await reader.readline()).decode().strip().partition(" ")
        self.logins.append(keyword)
        if keyword != self.keywords[number % len(self.keywords)]:
            writer.write(b"System> Er: Bad node name or key\n")
            writer.close()
            return
        writer.write(f"System>{node} Ok:\n".encode())
        while line := (await reader.readline()).decode().strip():
            if line.startswith("System flgon "):
                watched = line.split()[2]
                writer.write(f"System>{node} @flgon Node {watched} has been registered.\n".encode())
                writer.write("".join(f"{watched}>{node} _ChangedValue {i}.25\n" for i in range(20)).encode())
            elif line == "idgap GetValue":
                writer.write(f"other>{node} _ChangedValue 9\nidgap>{node} @GetValue 12.5\n".encode())


async def test_a_stars_node_logs_in_takes_events_and_asks(serve: Serve, run: Run, tmp_path: Path) -> None:
    server = Stars(["first", "second", "third"])
    (tmp_path / "edge1.key").write_text("first\nsecond\nthird\n")
    one = await run(
        await serve(server.talk), profile="stars", node="edge1", keys=str(tmp_path / "edge1.key"),
        on_connect=["System flgon th.ch1"], parse="th.ch1>{_:word} _ChangedValue {temperature:float}", poll=STARS, wait=False,
    )  # fmt: skip
    await one.sink.until(got(temperature=20, gap=3))
    assert server.logins == ["second"]
    np.testing.assert_array_equal(one.sink.values("temperature"), np.arange(20) + 0.25)
    assert set(one.sink.values("gap").tolist()) == {12.5}


async def test_a_stars_server_that_refuses_the_keyword_is_told(serve: Serve, run: Run, tmp_path: Path) -> None:
    server = Stars(["first"])
    (tmp_path / "edge1.key").write_text("wrong\n")
    one = await run(await serve(server.talk), profile="stars", node="edge1", keys=str(tmp_path / "edge1.key"), poll=STARS, wait=False)
    await one.sink.until(lambda s: any("refused the node edge1" in event.why for event in s.of(Disconnected)))
    assert one.sink.of(Connected) == []


async def test_a_beamline_server_without_any_end_of_a_message_is_asked(serve: Serve, run: Run) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := (await reader.read(1000)).decode():
            verb, target, _ = question.split("/")
            answer = f"{target}/{verb}/4242_edge_bl47/inactive_-19000pulse/0".encode()
            writer.write(answer[:20])
            await writer.drain()
            writer.write(answer[20:])

    poll = [{"command": "get/bl_47xu_st2_zoom/query", "every": "20 ms", "parse": "{_:word}/{state:word}_{zoom:int}pulse/0"}]
    one = await run(await serve(talk), profile="spring8-text", gap="60 ms", poll=poll, wait=False)
    await one.sink.until(got(zoom=3))
    assert set(one.sink.values("zoom").tolist()) == {-19000}
    assert one.sink.gaps("zoom") == []


@pytest.mark.parametrize("name", [name for name in names() if name not in LANGUAGES])
def test_every_profile_gives_a_plan_and_what_is_configured_goes_before_it(name: str) -> None:
    plan = SerialConfig(port="/dev/ttyUSB0", profile=name).plan()
    assert plan.profile == name
    own = SerialConfig(port="/dev/ttyUSB0", profile=name, baudrate=300, command="X?", every="1 s", parse="{own:float}")
    assert own.baudrate == 300
    assert [query.text for query in own.plan().queries] == ["X?"]
    assert [channel.name for channel in own.plan().parsers[0].channels] == ["own"]


@pytest.mark.parametrize(
    ("profile", "line", "values"),
    [
        ("and-balance", b"ST,+00123.45  g", (123.45,)),
        ("and-balance", b"US,-  0012.3 kg", (-12.3,)),
        ("and-balance", b"OL,+9999999E+19", (9999999e19,)),
        ("sartorius-sbi", b"N     +  123.456 g  ", (123.456,)),
        ("sartorius-sbi", b"+    0.02", (0.02,)),
        ("nmea-0183", b"WIMWV,214.8,R,0.1,K,A", (b"WIMWV,214.8,R,0.1,K,A",)),
        ("spring8-text", b"bl_47xu_tc1_slit_1_height/get/1234_user_host/1.2345mm/0", (b"bl_47xu_tc1_slit_1_height", b"1234_user_host", b"1.2345mm")),
    ],
)  # fmt: skip
def test_profiles_read_what_the_manuals_show(profile: str, line: bytes, values: tuple[Any, ...]) -> None:
    outcome = SerialConfig(port="/dev/ttyUSB0", profile=profile).plan().parsers[0].parse(line)
    assert getattr(outcome, "values", outcome) == values


def test_a_telegram_of_pfeiffer_is_checked_and_asked_as_the_manual_shows() -> None:
    plan = SerialConfig(port="/dev/ttyUSB0", profile="pfeiffer-telegram").plan()
    assert plan.queries[0].command == b"0010030902=?107\r"
    splitter = plan.make_splitter(False)
    body = b"0011030906000633"
    (line,) = splitter.feed(body + b"%03d\r" % (sum(body) % 256), 1)
    assert plan.parsers[plan.queries[0].form or 0].parse(line.raw) == plan.parsers[plan.queries[0].form or 0].parse(body)


def test_a_profile_that_nobody_knows_comes_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean lakeshore-33x\?"):
        SerialConfig(port="/dev/ttyUSB0", profile="lakeshore-336")
