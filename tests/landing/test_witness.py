"""Countersigning the agent log: it only grows, along one history."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.errors import IntegrityError, PermissionRefused
from edge_agent.record.session import new_session
from edge_agent.seal import cose
from edge_agent.seal.receipt import parse_witness
from edge_agent.wire.refusal import LogRestartApproved, LogSizeDiffers
from landing.authority import load

LOG = b"L" * 16

ON_BOTH_CATALOGUES = True


@pytest.fixture
async def agent(site: Any, enrolled: Any) -> Any:
    await site.open()
    return await enrolled()


async def test_a_growing_log_is_countersigned(agent: Any, proof_from: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    assert await target.witnessed(LOG) == 0
    first = 0
    for size in (1, 2, 7, 8, 100):
        head, hashes = agent.log(size)
        receipt = parse_witness(cose.parse(await target.witness(head, chain, proof_from(hashes, first), first)).payload)
        assert (receipt.size, receipt.log_id, receipt.agent_id) == (size, LOG, agent.agent_id)
        first = size
    assert await target.witnessed(LOG) == 100


async def test_the_same_head_gets_the_same_answer_also_after_later_ones(agent: Any, proof_from: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    head, _ = agent.log(3)
    answer = await target.witness(head, chain, [], 0)
    later, hashes = agent.log(5)
    await target.witness(later, chain, proof_from(hashes, 3), 3)
    assert await target.witness(head, chain, [], 0) == answer


async def test_a_proof_from_another_size_is_told_the_right_one(agent: Any, proof_from: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    await target.witness(agent.log(3)[0], chain, [], 0)
    head, hashes = agent.log(9)
    with pytest.raises(LogSizeDiffers) as error:
        await target.witness(head, chain, [], 0)
    assert error.value.size == 3
    await target.witness(head, chain, proof_from(hashes, error.value.size), error.value.size)


@pytest.mark.expects_errors
async def test_a_forked_log_is_an_alarm_and_gets_no_receipt(agent: Any, proof_from: Any, caplog: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    await target.witness(agent.log(3)[0], chain, [], 0)
    forked, hashes = agent.log(9, salt=b"another history")
    with pytest.raises(IntegrityError, match="two histories") as error:
        await target.witness(forked, chain, proof_from(hashes, 3), 3)
    assert error.value.code == "LANDING_FORK"
    assert "approve-restart" in error.value.try_
    assert any("ALARM" in record.getMessage() and agent.agent_id.hex() in record.getMessage() for record in caplog.records)
    assert await target.witnessed(LOG) == 3


@pytest.mark.expects_errors
async def test_a_smaller_head_that_was_never_seen_is_an_alarm(agent: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    await target.witness(agent.log(5)[0], chain, [], 0)
    with pytest.raises(IntegrityError, match="two histories") as error:
        await target.witness(agent.log(4)[0], chain, [], 5)
    assert "4 leaves after one of 5" in error.value.why


@pytest.mark.expects_errors
async def test_another_root_at_the_same_size_is_an_alarm(agent: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    await target.witness(agent.log(5)[0], chain, [], 0)
    with pytest.raises(IntegrityError, match="two histories"):
        await target.witness(agent.log(5, salt=b"x")[0], chain, [], 5)


async def test_what_was_witnessed_survives_a_restart(site: Any, agent: Any) -> None:
    await agent.https().witness(agent.log(5)[0], agent.session.chain.encode(), [], 0)
    await site.open()
    assert await agent.https(site.url).witnessed(LOG) == 5


async def test_a_head_of_another_agent_is_refused(agent: Any, enrolled: Any) -> None:
    other = await enrolled("other")
    with pytest.raises(PermissionRefused, match="only speak for itself"):
        await other.https().witness(agent.log(2)[0], agent.session.chain.encode(), [], 0)


async def test_a_key_chain_that_does_not_lead_to_the_root_is_refused(agent: Any, tmp_path: Any) -> None:
    from edge_agent.enrolment import open_identity

    stranger = open_identity(tmp_path / "stranger")
    forged = new_session(agent.agent_id, stranger.key, (stranger.certificate,), 1)
    with pytest.raises(PermissionRefused, match="not one of an enrolled agent") as error:
        await agent.https().witness(agent.log(2)[0], forged.chain.encode(), [], 0)
    assert error.value.why


async def test_a_head_under_another_session_key_is_refused(agent: Any) -> None:
    session = new_session(agent.agent_id, agent.identity.key, (agent.identity.certificate,), 2)
    with pytest.raises(PermissionRefused, match="not one of an enrolled agent") as error:
        await agent.https().witness(agent.log(2)[0], session.chain.encode(), [], 0)
    assert "not in the key chain" in error.value.why


@pytest.mark.parametrize("head", [b"", b"garbage", b"\xd2\x84\x40\xa0\x40\x40"])
async def test_what_is_no_head_is_refused(agent: Any, head: bytes) -> None:
    with pytest.raises((PermissionRefused, IntegrityError)):
        await agent.https().witness(head, agent.session.chain.encode(), [], 0)


async def test_the_receipt_key_is_not_the_tls_key(site: Any) -> None:
    keys = {(site.home.keys / f"{name}.key").read_bytes() for name in ("root", "tls", "receipts")}
    assert len(keys) == 3
    assert load(site.home).root


RESTARTED = b"R" * 16


def approve(site: Any, agent: Any) -> str:
    from typer.testing import CliRunner

    from landing.__main__ import app

    done = CliRunner().invoke(app, ["approve-restart", str(site.home.path), agent.agent_id.hex()])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.expects_errors
async def test_another_log_of_a_known_agent_is_refused_until_its_owner_approves(site: Any, agent: Any, proof_from: Any) -> None:
    target, chain = agent.https(), agent.session.chain.encode()
    await target.witness(agent.log(5)[0], chain, [], 0)
    fresh, hashes = agent.log(2, salt=b"after the restore", log_id=RESTARTED)
    with pytest.raises(IntegrityError, match="two histories") as error:
        await target.witness(fresh, chain, [], 0)
    assert f"python -m landing approve-restart DIR {agent.agent_id.hex()}" in error.value.try_
    assert "may begin one new log" in approve(site, agent)
    approve(site, agent)
    # The old log is told that it may be replaced; the new one is countersigned, and is the log of the agent from now on.
    with pytest.raises(LogRestartApproved, match="a new one is approved"):
        await target.witness(agent.log(3)[0], chain, [], 5)
    await target.witness(fresh, chain, [], 0)
    later, hashes = agent.log(4, salt=b"after the restore", log_id=RESTARTED)
    await target.witness(later, chain, proof_from(hashes, 2), 2)
    for head, first in ((agent.log(6)[0], 5), (agent.log(1, log_id=b"T" * 16)[0], 0)):
        with pytest.raises(IntegrityError, match="two histories"):
            await target.witness(head, chain, proof_from(agent.log(6)[1], first) if first else [], first)
    # An approval is for one new log, and holds after a restart of the service.
    await site.open()
    target = agent.https(site.url)
    grown, hashes = agent.log(9, salt=b"after the restore", log_id=RESTARTED)
    await target.witness(grown, chain, proof_from(hashes, 4), 4)


async def test_a_head_without_the_signatures_that_its_session_promises_is_refused(agent: Any) -> None:
    payload = cose.payload_of(agent.log(2)[0])
    downgraded = cose.sign_all(agent.session.keys[:1], cose.HEAD, payload)
    with pytest.raises(PermissionRefused, match="not one of an enrolled agent") as error:
        await agent.https().witness(downgraded, agent.session.chain.encode(), [], 0)
    assert "no ML-DSA-65 signature" in error.value.why


def test_only_a_known_agent_may_be_given_a_new_log(site: Any) -> None:
    from typer.testing import CliRunner

    from landing.__main__ import app

    for agent, said in (("zz", "no agent id"), ("00" * 16, "not enrolled here")):
        done = CliRunner().invoke(app, ["approve-restart", str(site.home.path), agent])
        assert said in str(done.exception)
