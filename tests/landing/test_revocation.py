"""A stolen identity is shut out: at every door, for good, and with a signed word about how far it was trusted."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.x509 import load_pem_x509_certificate
from typer.testing import CliRunner

from edge_agent.enrolment import enrol, renew
from edge_agent.errors import PermissionRefused, TargetUnreachable
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps
from edge_agent.seal.keys import signing_key
from edge_agent.wire.revocation import COMPROMISED, NAME, SeenLog, parse_compromised
from edge_agent.wire.tls import client_context
from edge_agent.words import explanation
from landing.__main__ import app

REVOKED = "LANDING_REVOKED"


def shut_out(site: Any, agent_id: bytes) -> Any:
    done = CliRunner().invoke(app, ["revoke", str(site.home.path), agent_id.hex(), "--reason", "the PC was stolen"])
    assert done.exit_code == 0, done.output
    return done


async def test_a_revoked_agent_is_refused_everywhere_and_what_it_sent_before_stays(
    site: Any, enrolled: Any, make_item: Any, progress: Any, proof_from: Any, tmp_path: Path
) -> None:
    await site.open()
    agent, other = await enrolled("stolen"), await enrolled("honest")
    target = agent.https(piece=1000)
    done = make_item(b"before", "before")
    await target.send(done, progress.append)
    head, hashes = agent.log(5)
    await target.witness(head, agent.session.chain.encode(), [], 0)

    def cut(offset: int) -> None:
        if offset >= 2000:
            raise TargetUnreachable("cut", code="CUT")

    half = make_item(b"half" * 1000, "half")
    with pytest.raises(TargetUnreachable, match="cut"):
        await target.send(half, cut)
    shut_out(site, agent.agent_id)
    later, hashes = agent.log(9)
    tries = (
        lambda: target.probe(),
        lambda: target.send(half, progress.append),
        lambda: target.send(done, progress.append),
        lambda: target.send(make_item(b"new", "new"), progress.append),
        lambda: target.witness(later, agent.session.chain.encode(), proof_from(hashes, 5), 5),
        lambda: target.witnessed(b"L" * 16),
        lambda: renew(tmp_path / "stolen"),
    )
    for ask in tries:
        with pytest.raises(PermissionRefused) as refused:
            await ask()
        assert refused.value.code == REVOKED
    assert (site.home.space / done.remote).read_bytes() == b"before"
    assert not (site.home.space / half.remote).exists()
    await other.https().send(make_item(b"honest", "honest"), progress.append)


async def test_a_revoked_agent_is_refused_behind_a_broker(
    site: Any, enrolled: Any, make_item: Any, new_mosquitto: Any, progress: Any
) -> None:
    broker = await new_mosquitto()
    await site.open(mqtt=broker.url)
    agent = await enrolled()
    target = agent.mqtt(broker.broker)
    await target.send(make_item(b"before", "before"), progress.append)
    shut_out(site, agent.agent_id)
    with pytest.raises(PermissionRefused) as refused:
        await target.send(make_item(b"after", "after"), progress.append)
    assert refused.value.code == REVOKED
    assert not (site.home.space / make_item(b"after", "after").remote).exists()


async def test_a_revoked_key_never_enrols_again_and_a_new_one_does(site: Any, enrolled: Any, tmp_path: Path) -> None:
    await site.open()
    agent = await enrolled("stolen")
    shutil.copytree(tmp_path / "stolen", tmp_path / "thief")
    shut_out(site, agent.agent_id)
    with pytest.raises(PermissionRefused) as refused:
        await enrol(tmp_path / "thief", site.token(), "thief")
    assert refused.value.code == REVOKED
    renewed = await enrolled("new")
    assert renewed.agent_id != agent.agent_id
    await renewed.https().probe()


async def test_the_signed_word_says_how_far_the_logs_were_seen_and_everybody_can_read_it(
    site: Any, enrolled: Any, proof_from: Any
) -> None:
    await site.open()
    agent = await enrolled()
    head, _ = agent.log(5)
    await agent.https().witness(head, agent.session.chain.encode(), [], 0)
    shut_out(site, agent.agent_id)
    written = (site.home.path / "revoked" / f"{agent.agent_id.hex()}.cose").read_bytes()
    shut_out(site, agent.agent_id)  # the second time changes nothing
    assert (site.home.path / "revoked" / f"{agent.agent_id.hex()}.cose").read_bytes() == written
    context = client_context(site.home.root.read_text())
    async with aiohttp.ClientSession() as session, session.get(f"{site.url}/revoked", ssl=context) as response:
        (told,) = await response.json()
    assert (told["agent"], base64.b64decode(told["statement"])) == (agent.agent_id.hex(), written)
    assert "stolen" not in str(told)  # the reason is the operator's
    key = signing_key(load_pem_x509_certificate((site.home.keys / "receipts.pem").read_bytes()))
    said = parse_compromised(cose.parse(written).check(key, COMPROMISED))
    assert said.agent_id == agent.agent_id
    assert said.identity == cose.thumbprint(agent.identity.key.public_key())
    assert [(log.log_id, log.size) for log in said.logs] == [(b"L" * 16, 5)]
    assert isinstance(said.logs[0], SeenLog)
    assert told["t_ns"] == said.t_ns


@pytest.mark.parametrize(("reader", "words"), [("en", "is shut out"), ("ja", "締め出しました")])
async def test_the_operator_is_told_in_both_languages(
    site: Any, enrolled: Any, reader: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", reader)
    await site.open()
    agent = await enrolled("balance PC")
    assert words in shut_out(site, agent.agent_id).output
    listed = CliRunner().invoke(app, ["agents", str(site.home.path)]).output
    assert agent.agent_id.hex() in listed
    assert "balance PC" in listed
    assert ("締め出し済み" if reader == "ja" else "shut out") in listed
    found = explanation(REVOKED)
    assert found is not None
    assert ("締め出し" if reader == "ja" else "shut this agent out") in found.meaning


LOGS_OF_A_NUMBER = dumps({1: NAME, 2: bytes(16), 3: bytes(32), 4: [[1 << 40, 1, bytes(32)]], 5: 0})
"""A number where bytes belong; ``bytes`` of it would be that many."""


@pytest.mark.parametrize("payload", [b"\xa0", b"\xa5\x01\x61x\x02\x40\x03\x40\x04\x80\x05\x00", b"\xff", LOGS_OF_A_NUMBER])
def test_another_statement_is_no_revocation(payload: bytes) -> None:
    with pytest.raises(SealError):
        parse_compromised(payload)
