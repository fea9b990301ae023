"""Messages: what is encoded is read back, and nothing else is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import ConfigError, IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import Access, ItemKind, Label, OutboxItem
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps
from edge_agent.seal.keys import KeyChain
from edge_agent.wire.broker import Broker
from edge_agent.wire.enrol import Certificates, EnrolRequest, Token, parse_certificates, parse_request, parse_token, sign_request
from edge_agent.wire.item import ItemHeader, header_of, parse_header, parse_signed_item, sign_item
from edge_agent.wire.names import BadName
from edge_agent.wire.piece import MAX_MESSAGE, Piece, parse_piece
from edge_agent.wire.refusal import Code, Refusal, from_json, from_value
from edge_agent.wire.talk import (
    Answer,
    Ask,
    Reply,
    Verb,
    WitnessAsk,
    door_topics,
    parse_answer,
    parse_ask,
    parse_topic,
    parse_witness_ask,
    topic,
)
from edge_agent.wire.words import WORDS, six_words

AGENT = b"a" * 16
HEADER = ItemHeader(
    "item-1",
    ItemKind.SEGMENT,
    "p/g/2026-11-24/000001/a.h5",
    10,
    None,
    b"r" * 16,
    1,
    "p",
    Access.CLOSED,
    ("cloud",),
    b"s" * 16,
    b"h" * 32,
    AGENT,
)
PIECE = Piece(AGENT, "item-1", 0, 10, 3, b"0123456789", b"announced")
CHAIN = KeyChain((b"certificate",), (b"session",))
PARSERS: list[Callable[[bytes], Any]] = [
    parse_header, parse_signed_item, parse_piece, parse_ask, parse_answer, parse_witness_ask, parse_request, parse_certificates
]  # fmt: skip


@pytest.mark.parametrize("header", [HEADER, HEADER.with_digest(b"d" * 32)])
def test_an_item_header_survives(header: ItemHeader) -> None:
    assert parse_header(header.encode()) == header


def test_a_digest_that_one_side_does_not_know_yet_is_no_difference() -> None:
    known = HEADER.with_digest(b"d" * 32)
    assert HEADER.same_item(known)
    assert known.same_item(HEADER)
    assert not known.same_item(HEADER.with_digest(b"e" * 32))
    assert HEADER.label.access is Access.CLOSED


@settings(deadline=None)
@given(data=st.binary(max_size=300), offset=st.integers(0, 2**40), turn=st.integers(0, 2**62), rest=st.integers(0, 2**40))
def test_a_piece_survives(data: bytes, offset: int, turn: int, rest: int) -> None:
    piece = Piece(AGENT, "item-1", offset, offset + len(data) + rest, turn, data, b"announced" if offset == 0 else None)
    assert parse_piece(piece.encode()) == piece


@pytest.mark.parametrize(
    "piece",
    [
        Piece(AGENT, "item-1", 0, 5, 3, b"0123456789", b"announced"),
        Piece(AGENT, "item-1", 0, 10, 3, b"0123456789", None),
        Piece(AGENT, "item-1", 1, 11, 3, b"0123456789", b"announced"),
        Piece(AGENT, "item-1", -1, 11, 3, b"0123456789", None),
        Piece(AGENT, "item-1", 0, 10, -3, b"0123456789", b"announced"),
        Piece(AGENT, "item-1", 0, 2**21, 3, b"x" * MAX_MESSAGE, b"announced"),
    ],
)
def test_pieces_that_cannot_be_are_refused(piece: Piece) -> None:
    with pytest.raises(SealError, match="piece"):
        parse_piece(piece.encode())


def test_a_piece_with_a_hostile_id_is_refused() -> None:
    with pytest.raises(BadName):
        parse_piece(Piece(AGENT, "../x", 0, 0, 0, b"", b"announced").encode())


@settings(deadline=None)
@given(st.integers(0, len(PIECE.encode()) - 1), st.integers(1, 255))
def test_a_piece_with_one_changed_byte_is_refused_or_is_another_piece(at: int, flip: int) -> None:
    message = bytearray(PIECE.encode())
    message[at] ^= flip
    try:
        changed = parse_piece(bytes(message))
    except (SealError, BadName):
        return
    assert changed != PIECE
    assert changed.data == PIECE.data


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Reply.HAVE, "item-1", 7, offset=5), Answer(Reply.HAVE, "item-1", 7), Answer(Reply.WORKING, "item-1", 7),
        Answer(Reply.RECEIPT, "item-1", 7, cose=b"cose"),
        Answer(Reply.REFUSED, "item-1", 7, refusal=Refusal(Code.CLASH, "what", "why", "try", 5)),
    ],
)  # fmt: skip
def test_an_answer_survives(answer: Answer) -> None:
    assert parse_answer(answer.encode()) == answer


@pytest.mark.parametrize(
    "answer",
    [Answer(Reply.RECEIPT, "i", 7), Answer(Reply.HAVE, "i", 7, cose=b"x"), Answer(Reply.REFUSED, "i", 7), Answer("maybe", "i", 7)],  # type: ignore[arg-type]
)
def test_an_answer_without_what_it_promises_is_refused(answer: Answer) -> None:
    with pytest.raises(SealError):
        parse_answer(answer.encode())


def test_questions_survive() -> None:
    ask = Ask(AGENT, Verb.FINISH, "item-1", 7, b"body")
    assert parse_ask(ask.encode()) == ask
    witness = WitnessAsk(b"head", b"chain", 3, (b"h" * 32,))
    assert parse_witness_ask(witness.encode()) == witness
    for bad in (WitnessAsk(b"", b"", -1, ()), WitnessAsk(b"", b"", 0, (b"short",))):
        with pytest.raises(SealError):
            parse_witness_ask(bad.encode())


def test_a_signed_item_survives_and_shows_who_signed() -> None:
    key = Ed25519PrivateKey.generate()
    signed = parse_signed_item(sign_item(HEADER, key, CHAIN).encode())
    assert signed.chain == CHAIN
    assert cose.parse(signed.cose).kid == cose.thumbprint(key.public_key())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_never_gets_past_a_parser(data: bytes) -> None:
    for parse in PARSERS:
        with pytest.raises((SealError, BadName)):
            parse(data)


@settings(deadline=None)
@given(
    st.recursive(st.none() | st.integers(-5, 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=40), lambda v: st.lists(v, max_size=8))
)
def test_well_formed_maps_of_the_wrong_content_never_get_past_a_parser(value: Any) -> None:
    for count in (2, 4, 6, 7, 8, 14):
        data = dumps({key + 1: value for key in range(count)})
        for parse in PARSERS:
            with pytest.raises((SealError, BadName)):
                parse(data)


def test_topics_name_their_agent_and_nothing_else() -> None:
    assert parse_topic(topic(AGENT, "piece")) == (AGENT, "piece")
    assert parse_topic(topic(AGENT, "ask", "lab/x"), "lab/x") == (AGENT, "ask")
    assert door_topics("lab") == ["lab/v1/+/ask", "lab/v1/+/piece"]
    for name in ("", "edge/v1/+/piece", topic(AGENT, "reply"), topic(AGENT, "piece") + "/x", topic(AGENT, "piece").upper(), "x/v1/aa/ask"):
        with pytest.raises(SealError):
            parse_topic(name)


def test_an_enrolment_request_is_signed_by_the_key_that_it_names() -> None:
    key, thief = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    request = EnrolRequest(b"s" * 16, b"csr", cose.cose_key(key.public_key()), AGENT, "balance PC")
    assert parse_request(sign_request(request, key)) == request
    with pytest.raises(SealError):
        parse_request(sign_request(request, thief))
    with pytest.raises(SealError):
        parse_request(sign_request(EnrolRequest(b"s" * 16, b"csr", request.identity, AGENT, "bell\a"), key))


def test_certificates_and_tokens_survive() -> None:
    certificates = Certificates(b"t", b"i", b"r", b"root", AGENT, "Site", ("p", "q"))
    assert parse_certificates(certificates.encode()) == certificates
    token = Token(b"s" * 16, b"r" * 32, "https://127.0.0.1:8443")
    assert parse_token(token.text()) == token
    for bad in (Token(b"s", b"r" * 32, "https://x"), Token(b"s" * 16, b"r", "https://x"), Token(b"s" * 16, b"r" * 32, "http://x")):
        with pytest.raises(SealError, match="token"):
            parse_token(bad.text())


@pytest.mark.parametrize("code", list(Code))
def test_every_refusal_becomes_an_error_that_says_what_why_and_what_to_do(code: Code) -> None:
    refusal = Refusal(code, "what happened", "the evidence", "what to do", 5)
    assert from_json(refusal.to_json()) == refusal
    assert from_value(refusal.value()) == refusal
    error = refusal.error("cloud")
    assert isinstance(error, TargetUnreachable | PermissionRefused | IntegrityError)
    assert (error.what, error.why, error.try_) == ("cloud: what happened", "the evidence", "what to do")
    assert error.code == f"LANDING_{code}"


@pytest.mark.parametrize(
    "body", ["", "[]", "null", "<html>", '{"code": "NO_SUCH", "what": "", "why": "", "try": "", "have": null}', '{"code": "FULL"}']
)
def test_what_is_no_refusal_is_none(body: str) -> None:
    assert from_json(body) is None


def test_brokers_are_named_by_url_and_never_show_their_password() -> None:
    broker = Broker.parse("mqtt://user:p%40ss@broker.example:1884")
    assert (broker.host, broker.port, broker.username, broker.password, broker.tls) == ("broker.example", 1884, "user", "p@ss", None)
    assert "p@ss" not in f"{broker} {broker!r}"
    assert Broker.parse("mqtt://h").port == 1883
    secure = Broker.parse("mqtts://h")
    assert secure.port == 8883
    assert secure.tls is not None
    for bad in ("http://h", "mqtt://", "h:1883", "mqtt://h:99999", "mqtt://h/path"):
        with pytest.raises(ConfigError, match="no broker"):
            Broker.parse(bad)


def test_the_words_are_256_different_ones() -> None:
    assert len(set(WORDS)) == 256
    assert list(WORDS) == sorted(WORDS)
    assert all(word.isascii() and word.islower() and 3 <= len(word) <= 8 for word in WORDS)
    assert six_words(bytes(range(32))) == " ".join(WORDS[:6])


def test_each_revision_of_receipts_is_an_upload_of_its_own() -> None:
    run = b"r" * 16

    def item(kind: ItemKind, sha256: bytes | None) -> OutboxItem:
        return OutboxItem(
            f"{run.hex()}-{'0' * 24}", kind, Path("/x"), "p/bl/2026-11-24/000001/000001.receipts", 5, run, 1, "p", Label(), bytes(16), bytes(32),
            sha256, {},
        )  # fmt: skip

    ids = [header_of(item(ItemKind.RECEIPTS, bytes([n]) * 32), run).item_id for n in range(2)]
    assert len({*ids, item(ItemKind.RECEIPTS, None).item_id}) == 3
    assert header_of(item(ItemKind.RECEIPTS, None), run).item_id == item(ItemKind.RECEIPTS, None).item_id
    assert header_of(item(ItemKind.SIDECAR, bytes(32)), run).item_id == item(ItemKind.SIDECAR, None).item_id
