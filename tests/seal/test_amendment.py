"""Amendments are read as written, follow each other, and belong to one run of one agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.seal import cose
from edge_agent.seal.algorithm import new_ml_dsa
from edge_agent.seal.amendment import Amendment, Change, amendment_hash, check_amendments, parse_amendment
from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.keys import SessionRecord, Trusted

RUN, SIDECAR, BOOT = b"r" * 16, b"s" * 32, b"b" * 16


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def trusted(key: Ed25519PrivateKey, agent_id: bytes) -> Trusted:
    record = SessionRecord(agent_id, (key.public_key(),), BOOT, 0, 1)
    return Trusted(agent_id, {cose.thumbprint(key.public_key()): record}, b"i" * 32, True)


@pytest.fixture
def first(agent_id: bytes) -> Amendment:
    return Amendment(agent_id, RUN, SIDECAR, 1, None, (Change("sample.name", None, "Si"), Change("title", "a", "b")), "Ada", "forgot it", 5)


@pytest.fixture
def second(first: Amendment) -> Amendment:
    return replace(first, number=2, previous=amendment_hash(first.payload()), changes=(Change("sample.name", "Si", "SiC"),))


def signed(key: Ed25519PrivateKey, *amendments: Amendment) -> list[bytes]:
    return [cose.sign_all([key], cose.AMENDMENT, one.payload()) for one in amendments]


def test_an_amendment_is_read_as_it_was_written(first: Amendment, second: Amendment, agent_id: bytes) -> None:
    assert parse_amendment(first.payload()) == first
    assert loads(second.payload(), "x") == {
        1: "HSC/1/amendment", 2: agent_id, 3: RUN, 4: SIDECAR, 5: 2, 6: amendment_hash(first.payload()), 7: [["sample.name", "Si", "SiC"]],
        8: "Ada", 9: "forgot it", 10: 5,
    }  # fmt: skip


def test_a_chain_of_amendments_holds(key: Any, trusted: Trusted, first: Amendment, second: Amendment, agent_id: bytes) -> None:
    assert check_amendments(signed(key, first, second), trusted, agent_id, RUN, SIDECAR) == (first, second)
    assert check_amendments([], trusted, agent_id, RUN, SIDECAR) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent_id": bytes(16)}, "amendment 2: of another agent"),
        ({"run_id": bytes(16)}, "amendment 2: of another run"),
        ({"sidecar": bytes(32)}, "amendment 2: of another run"),
        ({"number": 3}, "amendment 2: does not follow"),
        ({"previous": bytes(32)}, "amendment 2: does not follow"),
        ({"changes": (Change("sample.name", None, "SiC"),)}, "amendment 2: sample.name: says that it was None, and it was 'Si'"),
    ],
)
def test_an_amendment_that_does_not_follow_is_refused(
    key: Any, trusted: Trusted, first: Amendment, second: Amendment, agent_id: bytes, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SealError, match=message):
        check_amendments(signed(key, first, replace(second, **change)), trusted, agent_id, RUN, SIDECAR)


def test_an_amendment_that_lacks_a_promised_signature_is_refused(key: Any, trusted: Trusted, first: Amendment, agent_id: bytes) -> None:
    second = new_ml_dsa()
    assert second is not None
    record = SessionRecord(agent_id, (key.public_key(), second.public_key()), BOOT, 0, 1)
    both = replace(trusted, sessions=dict.fromkeys(record.by_kid, record))
    with pytest.raises(SealError, match="amendment 1: has no ML-DSA-65 signature"):
        check_amendments(signed(key, first), both, agent_id, RUN, SIDECAR)
    assert check_amendments([cose.sign_all([key, second], cose.AMENDMENT, first.payload())], both, agent_id, RUN, SIDECAR) == (first,)


def test_an_amendment_by_anybody_else_is_refused(key: Any, trusted: Trusted, first: Amendment, agent_id: bytes) -> None:
    with pytest.raises(SealError, match="amendment 1: signed by a key that is not in the key chain"):
        check_amendments(signed(Ed25519PrivateKey.generate(), first), trusted, agent_id, RUN, SIDECAR)
    with pytest.raises(SealError, match="amendment 1: of another agent"):
        check_amendments(signed(key, first), replace(trusted, agent_id=bytes(16)), agent_id, RUN, SIDECAR)
    with pytest.raises(SealError, match="amendment 1: COSE: content type"):
        check_amendments([cose.sign_all([key], cose.RUN, first.payload())], trusted, agent_id, RUN, SIDECAR)


@pytest.mark.parametrize(
    ("key_number", "value", "message"),
    [
        (1, "HSC/1/run", "another statement"),
        (5, "1", "key 5"),
        (6, 1, "key 6"),
        (7, [], "changes nothing"),
        (7, [["a", None, "x"], ["a", None, "y"]], "a field twice"),
        (7, ["a"], "not .field, old, new."),
        (7, [["a", None]], "not .field, old, new."),
        (7, [[1, None, "x"]], "1 is no name"),
        (7, [["A b", None, "x"]], "'A b' is no name"),
        (7, [["a", 1, "x"]], "a is not a text"),
        (7, [["a", None, None]], "a is not a text"),
    ],
)
def test_a_statement_that_says_something_else_is_no_amendment(first: Amendment, key_number: int, value: Any, message: str) -> None:
    with pytest.raises(SealError, match=message):
        parse_amendment(dumps({**loads(first.payload(), "x"), key_number: value}))


def test_people_are_shown_what_changed_and_who_said_why() -> None:
    shown = Amendment(bytes(16), bytes(16), bytes(32), 2, None, (Change("title", None, "b"),), "Ada", "forgot", 7).as_json()
    assert shown == {"number": 2, "changes": [{"field": "title", "old": None, "new": "b"}], "author": "Ada", "reason": "forgot", "t_ns": 7}
