"""Who the server is, who we are, and what is said when one of both is not believed: against node-opcua."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asyncua import Server, ua
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from adapters.opcua import OpcUaAdapter, OpcUaConfig, certificates, examine, trust
from adapters.testing import Disconnected, Opened
from edge_agent.cli import app
from edge_agent.errors import ConfigError, InstrumentUnreachable, PermissionRefused
from edge_agent.model import Cause
from firmware_sim.launch import Device
from firmware_sim.loopback import hold_port

Make = Callable[..., OpcUaConfig]
COUNTER = "nsu=urn:peer:node-opcua;s=Counter"


@pytest.fixture
def password(tmp_path: Path) -> str:
    (tmp_path / "password").write_text("correct horse\n")
    return str(tmp_path / "password")


@pytest.fixture
def own(safe_server: Any, tmp_path: Path) -> dict[str, str]:
    """A folder with our own certificate, and the server's trusted in it."""
    folder = tmp_path / "identity"
    theirs = x509.load_pem_x509_certificate(next(Path(safe_server.facts["certificate"]).glob("*.pem")).read_bytes())
    certificates.pin(folder, safe_server.endpoint, theirs)
    return {"identity": str(folder)}


@pytest.mark.peers
@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"])
async def test_every_policy_connects_with_a_certificate_that_was_made_here(
    safe_server: Any, config: Make, recording: Callable[..., Any], own: dict[str, str], password: str, policy: str
) -> None:
    secure = config(safe_server.endpoint, nodes=[COUNTER], security=policy, user="lab", password_file=password, timeout="4 s", **own)
    async with recording(secure, "lab") as sink:
        await sink.until(lambda s: len(s.values("Counter")) > 3, timeout=40)
    (stream,) = {event.stream.key: event.stream for event in sink.of(Opened)}.values()
    assert stream.transport == f"{policy} SignAndEncrypt, server certificate pinned"
    assert (Path(own["identity"]) / "own.key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.peers
@pytest.mark.parametrize("mode", ["Sign", "SignAndEncrypt"])
async def test_signed_messages_can_be_read_on_their_way_and_encrypted_ones_cannot(
    safe_server: Any, config: Make, recording: Callable[..., Any], own: dict[str, str], password: str, link: Callable[[str], Any], mode: str
) -> None:
    wire = await link(safe_server.endpoint)
    identity = Path(own["identity"])
    theirs = x509.load_der_x509_certificate(certificates.trusted_path(identity, safe_server.endpoint).read_bytes())
    certificates.pin(identity, wire.endpoint, theirs)
    note = {"id": "nsu=urn:peer:node-opcua;s=Note", "name": "Note"}
    secure = config(
        wire.endpoint, nodes=[note], security="Basic256Sha256", mode=mode, user="lab", password_file=password, timeout="4 s", **own
    )
    async with recording(secure, "lab") as sink:
        await sink.until(lambda s: len(s.values("Note")), timeout=40)
    assert sink.of(Opened)[0].stream.transport == f"Basic256Sha256 {mode}, server certificate pinned"
    assert ("\u00e9".encode() * 100 in wire.heard) == (mode == "Sign")


@pytest.fixture
async def signing_server(identity: Callable[..., Any]) -> AsyncIterator[tuple[str, x509.Certificate]]:
    """The endpoint of a server of asyncua that signs and does not encrypt, with one variable, and its certificate."""
    files = identity("server", uri="urn:peer:asyncua")
    server = Server()
    await server.init()
    await server.set_application_uri("urn:peer:asyncua")
    server.set_endpoint(f"opc.tcp://127.0.0.1:{hold_port()}")
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_Sign])
    await server.load_certificate(str(files.certificate))
    await server.load_private_key(str(files.key))
    await server.nodes.objects.add_variable(ua.NodeId("Level", await server.register_namespace("urn:peer:asyncua:lab")), "Level", 1.5)
    async with server:
        yield server.endpoint.geturl(), x509.load_pem_x509_certificate(files.certificate.read_bytes())


async def test_a_server_of_asyncua_that_only_signs_is_recorded(
    signing_server: tuple[str, x509.Certificate], config: Make, recording: Callable[..., Any], tmp_path: Path
) -> None:
    endpoint, certificate = signing_server
    folder = tmp_path / "identity"
    certificates.pin(folder, endpoint, certificate)
    level = {"id": "nsu=urn:peer:asyncua:lab;s=Level", "name": "Level"}
    secure = config(endpoint, nodes=[level], security="Basic256Sha256", mode="Sign", timeout="4 s", identity=str(folder))
    async with recording(secure, "lab") as sink:
        await sink.until(lambda s: len(s.values("Level")), timeout=40)
    assert sink.values("Level").tolist() == [1.5]
    assert sink.of(Opened)[0].stream.transport == "Basic256Sha256 Sign, server certificate pinned"


@pytest.mark.peers
async def test_a_certificate_says_who_the_user_is(
    safe_server: Any, config: Make, own: dict[str, str], identity: Callable[..., Any], tmp_path: Path
) -> None:
    me = identity("user")
    secure = config(
        safe_server.endpoint, nodes=[COUNTER], security="Basic256Sha256", timeout="4 s",
        user_certificate=str(me.certificate), user_key=str(me.key), **own,
    )  # fmt: skip
    assert [stream.name for stream in await OpcUaAdapter("lab", secure).preview()] == ["Counter"]


@pytest.mark.peers
async def test_a_server_that_nobody_has_trusted_is_not_talked_to(safe_server: Any, config: Make, tmp_path: Path) -> None:
    secure = config(safe_server.endpoint, nodes=[COUNTER], security="Basic256Sha256", timeout="4 s", identity=str(tmp_path / "new"))
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert caught.value.code == "OPCUA_UNTRUSTED"
    assert caught.value.try_ == f"edge-agent trust {safe_server.endpoint}"


@pytest.mark.peers
async def test_trusting_shows_the_certificate_and_pins_it(safe_server: Any, tmp_path: Path, own: dict[str, str], config: Make) -> None:
    folder = tmp_path / "trusting"
    found = await examine(safe_server.endpoint, folder)
    theirs = x509.load_pem_x509_certificate(next(Path(safe_server.facts["certificate"]).glob("*.pem")).read_bytes())
    assert found.certificate.der == theirs.public_bytes(Encoding.DER)
    assert found.certificate.fingerprint == certificates.fingerprint(theirs)
    assert found.state == "new"
    assert found.ahead_s is not None
    assert abs(found.ahead_s) < 10
    assert "Aes256_Sha256_RsaPss SignAndEncrypt" in found.security
    assert found.own_path.exists()
    trust(found, folder)
    assert (await examine(safe_server.endpoint, folder)).state == "same"


@pytest.mark.peers
def test_the_verb_trusts_only_when_told_to_and_only_the_expected_one(
    safe_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["trust", safe_server.endpoint, "--folder", str(tmp_path / "verb"), "--json"]
    assert app.run(asked) == 6
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["trusted"], shown["file"]) == ("new", False, None)
    assert app.run([*asked, "--fingerprint", "AB:CD"]) == 7
    capsys.readouterr()
    assert app.run([*asked, "--fingerprint", shown["certificate"]["fingerprint"].lower()]) == 0
    assert Path(json.loads(capsys.readouterr().out)["file"]).exists()
    assert app.run(asked[:-1]) == 0
    text = capsys.readouterr().out
    assert shown["certificate"]["fingerprint"] in text
    assert shown["certificate"]["last_day"] in text
    assert shown["certificate"]["subject"] in text
    assert shown["certificate"]["subject"]


@pytest.mark.peers
async def test_a_server_with_another_certificate_is_not_believed_and_asked_again(
    safe_server: Any, config: Make, recording: Callable[..., Any], identity: Callable[..., Any], tmp_path: Path
) -> None:
    other = x509.load_pem_x509_certificate(identity("other", uri="urn:somebody:else").certificate.read_bytes())
    certificates.pin(tmp_path / "pins", safe_server.endpoint, other)
    secure = config(safe_server.endpoint, nodes=[COUNTER], security="Basic256Sha256", identity=str(tmp_path / "pins"))
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert certificates.fingerprint(other) in caught.value.why
    assert f"edge-agent trust {safe_server.endpoint}" in caught.value.try_
    async with recording(secure, "lab") as sink:
        await sink.until(lambda s: len(s.of(Disconnected)) >= 2)


@pytest.mark.peers
async def test_a_wrong_password_is_said_so_and_not_repeated_in_the_message(
    safe_server: Any, config: Make, own: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("hunter2\n")
    wrong = config(
        safe_server.endpoint,
        nodes=[COUNTER],
        security="Basic256Sha256",
        user="lab",
        password_file=str(tmp_path / "wrong"),
        timeout="4 s",
        **own,
    )
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", wrong).preview()
    assert "check user 'lab'" in caught.value.try_
    assert "hunter2" not in str(caught.value)


@pytest.mark.peers
async def test_a_policy_that_the_server_does_not_offer_is_said_so(lab_server: Any, config: Make, tmp_path: Path) -> None:
    secure = config(lab_server.endpoint, nodes=[COUNTER], security="Basic256Sha256", identity=str(tmp_path))
    with pytest.raises(InstrumentUnreachable) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert caught.value.why == "the server does not offer security Basic256Sha256 SignAndEncrypt, it offers None"


@pytest.mark.peers
@pytest.mark.slow
async def test_a_server_that_does_not_trust_us_is_said_so(node_server: Any, config: Make, tmp_path: Path) -> None:
    server = node_server(secure=True, trust=False, pki=str(tmp_path / "pki"))
    folder = tmp_path / "identity"
    trust(await examine(server.endpoint, folder), folder)
    secure = config(server.endpoint, nodes=[COUNTER], security="Basic256Sha256", identity=str(folder), timeout="4 s")
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert f"have the server trust {folder}/own.pem" in caught.value.try_
    assert caught.value.exit_code == 6


@pytest.mark.peers
@pytest.mark.slow
async def test_clocks_that_are_days_apart_are_named_when_a_server_refuses_us(node_server: Any, config: Make, tmp_path: Path) -> None:
    """node-opcua lets a certificate pass that is not valid yet by its clock, so it refuses for another reason here: few servers say theirs."""
    server = node_server(secure=True, trust=False, pki=str(tmp_path / "pki"), skew=-5 * 86_400)
    folder = tmp_path / "identity"
    found = await examine(server.endpoint, folder)
    assert found.ahead_s is not None
    assert abs(found.ahead_s + 5 * 86_400) < 60
    trust(found, folder)
    secure = config(server.endpoint, nodes=[COUNTER], security="Basic256Sha256", identity=str(folder), timeout="4 s")
    with pytest.raises(PermissionRefused) as caught:
        await OpcUaAdapter("lab", secure).preview()
    assert caught.value.code == "OPCUA_CLOCK"
    assert "the server's clock is 120 h behind this machine's" in caught.value.why
    assert "NTP" in caught.value.try_


def test_our_certificate_is_made_once_and_renewed_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = certificates.own_identities(tmp_path)
    assert certificates.own_identities(tmp_path) == [first]
    monkeypatch.setattr(certificates, "RENEW_DAYS", certificates.VALID_DAYS + 1)
    with caplog.at_level(logging.WARNING):
        new, old = certificates.own_identities(tmp_path)
    assert "have the servers trust the new one" in caplog.text
    assert old.certificate == first.certificate
    assert new.key == first.key
    assert new.certificate.serial_number != first.certificate.serial_number
    assert new.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=1000)


def test_a_damaged_certificate_of_ours_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "own.key.pem").write_text("-----BEGIN NOTHING-----")
    with pytest.raises(ConfigError, match="is damaged"):
        certificates.own_identities(tmp_path)


@pytest.mark.slow(8)
async def test_a_server_that_shows_another_certificate_in_the_middle_is_left_until_somebody_trusts_it(
    furnace: Callable[..., Device], config: Make, recording: Callable[..., Any], tmp_path: Path
) -> None:
    device = furnace("--secure", "--rate", "20", "--fault", "certificate@0.5")
    endpoint, folder = device.ready["endpoint"], tmp_path / "identity"
    trust(await examine(endpoint, folder), folder)
    async with recording(config(endpoint, "Step", security="Basic256Sha256", identity=str(folder), timeout="4 s")) as sink:
        await sink.until(lambda s: s.of(Opened), timeout=40)
        device.go()
        await sink.until(lambda s: any("trusted is" in event.why for event in s.of(Disconnected)), timeout=60)
        (fault,) = device.read_truth().faults
        shown = {event.why.replace(":", "").lower() for event in sink.of(Disconnected)}
        assert any(fault.details["fingerprint"].lower() in why for why in shown), shown
        before = len(sink.values("Step"))
        renewed = await examine(endpoint, folder)
        assert (renewed.state, len(sink.values("Step"))) == ("changed", before)
        trust(renewed, folder)
        await sink.until(lambda s: len(s.values("Step")) > before + 20, timeout=60)
        sent = device.stop()["Step"]
        await sink.until(lambda s: s.values("Step")[-1] == sent)
    (gap,) = sink.gaps("Step")
    assert (gap.cause, gap.count) == (Cause.DISCONNECT, None)
    rows = [(int(value), int(t)) for block in sink.blocks("Step") for value, t in zip(block.values, block.t_source, strict=True)]
    landed = {value for value, _ in rows}
    assert all(gap.t_from <= item.t <= gap.t_to for item in device.read_truth().of("Step") if item.v not in landed)
