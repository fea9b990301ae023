"""Servers that vanish, hang, refuse, or are none: what is missing is declared, and the message helps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from adapters.opcua import OpcUaAdapter, OpcUaConfig
from adapters.testing import Connected, Disconnected, RecordingSink
from edge_agent.errors import ConfigError, InstrumentUnreachable, PermissionRefused
from edge_agent.model import Cause, Valid
from firmware_sim.launch import Device

Start = Callable[..., Device]
Make = Callable[..., OpcUaConfig]


async def test_a_server_killed_and_restarted_leaves_one_declared_gap(
    furnace: Start, config: Make, recording: Callable[..., Any], port: int
) -> None:
    options = ("--rate", "20", "--port", str(port))
    device = furnace(*options, hold=False)
    async with recording(config(device.ready["endpoint"], "Temperature", "Step")) as sink:
        await sink.until(lambda s: len(s.values("Step")) > 5)
        killed = time.time_ns()
        device.kill()
        await sink.until(lambda s: s.of(Disconnected))
        before = len(sink.values("Step"))
        await asyncio.to_thread(furnace, *options, hold=False)
        await sink.until(lambda s: len(s.values("Step")) > before + 5, timeout=30)
        back = time.time_ns()
    for name in ("Temperature", "Step"):
        (gap,) = sink.gaps(name)
        assert (gap.cause, gap.first, gap.last, gap.count) == (Cause.DISCONNECT, None, None, None)
        assert gap.t_from < killed + 1_000_000_000
        assert killed < gap.t_to < back
        assert gap.detail
    order = [type(event) for event in sink.events if isinstance(event, (Connected, Disconnected))]
    assert (order[0], order[-1]) == (Connected, Connected)
    marks = [valid for block in sink.blocks("Step") if block.valid is not None for valid in block.valid.tolist()]
    assert marks.count(Valid.INITIAL) == 2


async def test_a_server_that_hangs_is_left_and_found_again(furnace: Start, config: Make, recording: Callable[..., Any]) -> None:
    device = furnace("--rate", "20", "--fault", "hang@0.5:5")
    async with recording(config(device.ready["endpoint"], "Step", timeout="500 ms")) as sink:
        await sink.until(lambda s: len(s.values("Step")))
        device.go()
        await sink.until(lambda s: s.of(Disconnected), timeout=20)
        before = len(sink.values("Step"))
        await sink.until(lambda s: len(s.values("Step")) > before + 5 and s.gaps("Step"), timeout=40)
    assert [gap.cause for gap in sink.gaps("Step")] == [Cause.DISCONNECT]


async def test_an_outage_that_lasts_until_the_end_is_declared_all_the_same(
    furnace: Start, config: Make, recording: Callable[..., Any]
) -> None:
    device = furnace()
    async with recording(config(device.ready["endpoint"], "Temperature")) as sink:
        await sink.until(lambda s: len(s.values("Temperature")))
        device.kill()
        await sink.until(lambda s: s.of(Disconnected))
        assert not sink.gaps("Temperature")
    (gap,) = sink.gaps("Temperature")
    assert gap.cause is Cause.DISCONNECT
    assert gap.t_from < gap.t_to


async def test_nobody_listening_is_said_with_what_to_check(config: Make, port: int) -> None:
    with pytest.raises(InstrumentUnreachable) as caught:
        await OpcUaAdapter("furnace", config(f"opc.tcp://127.0.0.1:{port}", "Temperature")).preview()
    assert caught.value.what == f"furnace: no connection to opc.tcp://127.0.0.1:{port}"
    assert "Connect call failed" in caught.value.why
    assert "firewall" in caught.value.try_
    assert caught.value.exit_code == 4


async def test_a_port_that_never_answers_is_given_up_in_time(config: Make, deaf_port: int, recording: Callable[..., Any]) -> None:
    deaf = config(f"opc.tcp://127.0.0.1:{deaf_port}", "Temperature", timeout="300 ms")
    with pytest.raises(InstrumentUnreachable, match="no connection to") as caught:
        async with asyncio.timeout(60):
            await OpcUaAdapter("furnace", deaf).preview()
    assert "did not answer within 0.3 s" in caught.value.why
    async with recording(deaf) as sink:
        await sink.until(lambda s: len(s.of(Disconnected)) >= 2)


async def test_a_server_that_talks_garbage_is_no_server(config: Make, recording: Callable[..., Any]) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(InstrumentUnreachable, match="no connection to"):
        await OpcUaAdapter("furnace", config(f"opc.tcp://127.0.0.1:{port}", "Temperature", timeout="500 ms")).preview()
    listener.close()
    await listener.wait_closed()


async def test_an_unreachable_server_ends_nothing_and_is_reached_when_it_comes(
    furnace: Start, config: Make, recording: Callable[..., Any], port: int
) -> None:
    async with recording(config(f"opc.tcp://127.0.0.1:{port}", "Temperature")) as sink:
        await sink.until(lambda s: s.of(Disconnected))
        await asyncio.to_thread(furnace, "--port", str(port))
        await sink.until(lambda s: len(s.values("Temperature")), timeout=30)
    assert not sink.gaps("Temperature"), "before the first value nothing is known to be missing"


async def test_a_missing_certificate_file_stops_the_adapter_with_the_path(config: Make, tmp_path: Any) -> None:
    files = {"certificate": str(tmp_path / "no.pem"), "private_key": str(tmp_path / "no.key")}
    secure = config("opc.tcp://127.0.0.1:1", "Temperature", security="Basic256Sha256", **files)
    with pytest.raises(ConfigError) as caught:
        await OpcUaAdapter("furnace", secure).run(RecordingSink())
    assert "no.pem" in caught.value.what
    assert caught.value.try_


async def test_a_file_that_is_no_certificate_is_refused(config: Make, tmp_path: Any) -> None:
    (tmp_path / "x.pem").write_text("-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n")
    secure = config(
        "opc.tcp://127.0.0.1:1", "T", security="Basic256Sha256", certificate=str(tmp_path / "x.pem"), private_key=str(tmp_path / "x.pem")
    )
    with pytest.raises(ConfigError, match=r"x\.pem is no certificate"):
        await OpcUaAdapter("furnace", secure).preview()


async def test_a_certificate_without_application_uri_is_refused_before_connecting(config: Make, identity: Callable[..., Any]) -> None:
    own = identity("nameless", uri=None)
    secure = config("opc.tcp://127.0.0.1:1", "T", security="Basic256Sha256", certificate=str(own.certificate), private_key=str(own.key))
    with pytest.raises(ConfigError, match="names no application URI"):
        await OpcUaAdapter("furnace", secure).preview()


async def test_an_expired_certificate_is_said_with_both_clocks(config: Make, identity: Callable[..., Any], deaf_port: int) -> None:
    own, server = identity("old", first=-30, last=-2), identity("server")
    secure = config(
        f"opc.tcp://127.0.0.1:{deaf_port}",
        "T",
        timeout="300 ms",
        security="Basic256Sha256",
        certificate=str(own.certificate),
        private_key=str(own.key),
        server_certificate=str(server.certificate),
    )
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("furnace", secure).preview()
    assert "this machine's clock says" in caught.value.why
    assert "compare the clocks" in caught.value.try_


async def test_a_password_without_encryption_is_warned_of(
    config: Make, recording: Callable[..., Any], port: int, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text("correct horse\n")
    table = config(f"opc.tcp://127.0.0.1:{port}", "Temperature", user="lab", password_file=str(tmp_path / "password"))
    async with recording(table) as sink:
        await sink.until(lambda s: s.of(Disconnected))
    assert "the password of 'lab' crosses the network unencrypted" in caplog.text
    assert "horse" not in caplog.text
