"""The adapter against node-opcua, which nobody here wrote: it samples, revises, secures and refuses in its own way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.opcua import OpcUaAdapter, OpcUaConfig
from adapters.testing import Disconnected, Opened
from edge_agent.errors import InstrumentUnreachable, PermissionRefused
from edge_agent.model import Cause, Valid

pytestmark = pytest.mark.peers

Make = Callable[..., OpcUaConfig]


def lab(*names: str) -> list[str]:
    return [f"nsu=urn:peer:node-opcua;s={name}" for name in names]


async def test_counters_of_another_implementation_arrive_without_a_hole(
    lab_server: Any, config: Make, recording: Callable[..., Any]
) -> None:
    async with recording(config(lab_server.endpoint, nodes=lab("Counter", "Total", "Ratio")), "lab") as sink:
        await sink.until(lambda s: len(s.values("Counter")) > 20, timeout=20)
    for name, step in (("Counter", 1), ("Total", 1), ("Ratio", 0.5)):
        assert set(np.diff(sink.values(name))) == {step}
    assert not sink.gaps("Counter")
    stream = next(event.stream for event in sink.of(Opened) if event.stream.name == "Total")
    assert (stream.dtype, stream.unit) == ("<i8", "mm")
    assert stream.attributes["description"] == "the Total"
    assert stream.attributes["range_high"] == 1e6


async def test_its_own_sampling_is_noticed(
    lab_server: Any, config: Make, recording: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with recording(config(lab_server.endpoint, nodes=lab("Counter"), queue=100_000), "lab") as sink:
            await sink.until(lambda s: s.of(Opened))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "changes between two samples are not seen: asked for a look every 0 ms, granted Counter every" in said
    assert "queues are shorter than the 100000 asked for: Counter" in said


async def test_arrays_texts_times_and_bad_values_are_understood(lab_server: Any, config: Make, recording: Callable[..., Any]) -> None:
    names = ["Spectrum", "Note", "Broken", "Started_at"]
    nodes = [*lab("Spectrum", "Note", "Broken"), "nsu=urn:peer:node-opcua;i=5001"]
    async with recording(config(lab_server.endpoint, nodes=nodes), "lab") as sink:
        await sink.until(lambda s: all(len(s.values(name)) for name in names))
    assert sink.values("Spectrum")[0].tolist() == [1.5, 2.5, 3.5]
    assert sink.values("Note")[0] == "é".encode() * 128
    (cut,) = sink.gaps("Note")[:1]
    assert (cut.cause, cut.detail) == (Cause.GARBAGE, "text longer than 256 bytes cut")
    broken = sink.blocks("Broken")[0]
    assert broken.valid is not None
    assert broken.status is not None
    assert (broken.valid[0], broken.status[0]) == (Valid.BAD, 0x808C0000)
    assert np.isnan(broken.values[0])
    assert sink.values("Started_at")[0] == 1_767_323_045_678_000_000


async def test_killed_and_restarted_it_leaves_a_declared_gap(node_server: Any, config: Make, recording: Callable[..., Any]) -> None:
    server = node_server(every=50)
    async with recording(config(server.endpoint, nodes=lab("Counter")), "lab") as sink:
        await sink.until(lambda s: len(s.values("Counter")) > 5, timeout=20)
        server.kill()
        await sink.until(lambda s: s.of(Disconnected))
        server.start()
        await sink.until(lambda s: s.gaps("Counter") and len(s.values("Counter")) > 20, timeout=40)
    (gap,) = sink.gaps("Counter")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    values = sink.values("Counter")
    restart = int(np.argmax(np.diff(values) < 0)) + 1
    assert set(np.diff(values[restart:])) == {1}


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes256_Sha256_RsaPss"])
async def test_a_secured_connection_with_a_user_and_a_pinned_certificate(
    safe_server: Any, config: Make, recording: Callable[..., Any], identity: Callable[..., Any], tmp_path: Path, policy: str
) -> None:
    own = identity("client")
    (tmp_path / "password").write_text("correct horse\n")
    theirs = next(Path(safe_server.facts["certificate"]).glob("*.pem"))
    secure = config(
        safe_server.endpoint,
        nodes=lab("Counter"),
        security=policy,
        certificate=str(own.certificate),
        private_key=str(own.key),
        server_certificate=str(theirs),
        user="lab",
        password_file=str(tmp_path / "password"),
        timeout="4 s",
    )
    async with recording(secure, "lab") as sink:
        await sink.until(lambda s: len(s.values("Counter")) > 3, timeout=20)
    (stream,) = {event.stream.key: event.stream for event in sink.of(Opened)}.values()
    assert stream.transport == f"{policy} SignAndEncrypt, server certificate pinned"


async def test_a_server_with_another_certificate_is_not_believed(safe_server: Any, config: Make, identity: Callable[..., Any]) -> None:
    own, other = identity("client"), identity("other", uri="urn:somebody:else")
    secure = config(
        safe_server.endpoint,
        nodes=lab("Counter"),
        security="Basic256Sha256",
        certificate=str(own.certificate),
        private_key=str(own.key),
        server_certificate=str(other.certificate),
    )
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert "other.pem" in caught.value.try_
    assert "compare the clocks" in caught.value.try_


async def test_a_server_that_does_not_trust_us_is_said_so(
    node_server: Any, config: Make, identity: Callable[..., Any], tmp_path: Path
) -> None:
    server = node_server(secure=True, trust=False, pki=str(tmp_path / "pki"))
    own = identity("client")
    secure = config(
        server.endpoint, nodes=lab("Counter"), security="Basic256Sha256", certificate=str(own.certificate), private_key=str(own.key)
    )
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert f"have the server trust {own.certificate}" in caught.value.try_
    assert caught.value.exit_code == 6


async def test_a_wrong_password_is_said_so_and_not_repeated_in_the_message(
    safe_server: Any, config: Make, identity: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    own = identity("client")
    wrong = config(
        safe_server.endpoint,
        nodes=lab("Counter"),
        security="Basic256Sha256",
        certificate=str(own.certificate),
        private_key=str(own.key),
        user="lab",
        password_file=str(tmp_path / "password"),
    )
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", wrong).preview()
    assert "check user 'lab'" in caught.value.try_
    assert "hunter2" not in str(caught.value)


async def test_a_policy_that_the_server_does_not_offer_is_said_so(lab_server: Any, config: Make, identity: Callable[..., Any]) -> None:
    own = identity("client")
    secure = config(
        lab_server.endpoint, nodes=lab("Counter"), security="Basic256Sha256", certificate=str(own.certificate), private_key=str(own.key)
    )
    with pytest.raises(InstrumentUnreachable) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert caught.value.why == "the server does not offer security Basic256Sha256 SignAndEncrypt"
