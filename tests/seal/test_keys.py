"""COSE signatures, thumbprints and the chain from a session key to a facility's root."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.seal import cose
from edge_agent.seal.algorithm import Es256Signer, MlDsaKey, MlDsaSigner
from edge_agent.seal.cbor import SealError, dumps
from edge_agent.seal.keys import (
    AGENT_URN,
    RECEIPTS_URN,
    KeyChain,
    SessionRecord,
    check_chain,
    check_receipt_certificates,
    issued_by,
    joined,
    load_certificate,
    parse_key_chain,
    parse_session,
    receipt_key,
    session_word,
    signing_key,
    urns,
)

# RFC 8032 section 7.1, test 1.
SECRET = Ed25519PrivateKey.from_private_bytes(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def test_the_kid_is_the_thumbprint_of_rfc_9679() -> None:
    assert cose.raw_public(SECRET.public_key()) == PUBLIC
    assert dumps(cose.cose_key(SECRET.public_key())) == bytes.fromhex("a301012006215820") + PUBLIC
    assert cose.thumbprint(SECRET.public_key()) == hashlib.sha256(bytes.fromhex("a301012006215820") + PUBLIC).digest()
    # RFC 9679 section 6: the same steps over its example, a P-256 key.
    x = bytes.fromhex("65eda5a12577c2bae829437fe338701a10aaa375e1bb5b5de108de439c08551d")
    y = bytes.fromhex("1e52ed75701163f7f9e40ddf9f341b3dc9ba860af7e0ca7ca7e9eecd0084d19c")
    example = hashlib.sha256(dumps({1: 2, -1: 1, -2: x, -3: y})).hexdigest()
    assert example == "496bd8afadf307e5b08c64b0421bf9dc01528a344a43bda88fadd1669da253ec"


def test_what_is_signed_is_the_structure_of_rfc_9052() -> None:
    # RFC 9052 appendix C.2.1, Sig_structure of "Single ECDSA Signature".
    expected = "846a5369676e61747572653143a10126405454686973206973207468652063 6f6e74656e742e".replace(" ", "")
    assert cose._sign1_input(b"\xa1\x01\x26", b"This is the content.").hex() == expected
    # Appendix C.1.1, "Single Signature".
    expected = "85695369676e61747572654043a101264054546869732069732074686520636f6e74656e742e"
    assert cose._sign_input(b"", b"\xa1\x01\x26", b"This is the content.").hex() == expected


def test_a_signature_is_the_same_bytes_each_time_and_opens_with_its_key_alone() -> None:
    data = cose.sign(SECRET, cose.HEAD, b"payload")
    assert data == cose.sign(SECRET, cose.HEAD, b"payload")
    assert data[:2] == b"\xd2\x84"
    signed = cose.parse(data)
    assert (signed.content_type, signed.kid, signed.payload) == (cose.HEAD, cose.thumbprint(SECRET.public_key()), b"payload")
    assert signed.check(SECRET.public_key(), cose.HEAD) == b"payload"
    with pytest.raises(SealError, match="content type"):
        signed.check(SECRET.public_key(), cose.RUN)
    with pytest.raises(SealError, match="signed by another key"):
        signed.check(Ed25519PrivateKey.generate().public_key(), cose.HEAD)
    with pytest.raises(SealError, match="signed by another key"):
        replace(signed, algorithm=-9).check(SECRET.public_key(), cose.HEAD)
    for changed in (replace(signed, payload=b"other"), replace(signed, signature=bytes(64)), replace(signed, signature=b"short")):
        with pytest.raises(SealError, match="the signature is wrong"):
            changed.check(SECRET.public_key(), cose.HEAD)


def test_every_flipped_bit_of_a_signed_statement_is_noticed() -> None:
    data = cose.sign(SECRET, cose.HEAD, b"payload")
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(SealError):
                cose.parse(bytes(changed)).check(SECRET.public_key(), cose.HEAD)


def tagged(*parts: Any) -> bytes:
    return dumps(cbor2.CBORTag(18, list(parts)))


GOOD = dumps({1: -19, 3: "a", 4: b"k"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (dumps([GOOD, {}, b"", b""]), "not a tagged COSE_Sign1"),
        (dumps(cbor2.CBORTag(18, b"")), "not a tagged COSE_Sign1"),
        (tagged(GOOD, {}, b""), "not a tagged COSE_Sign1"),
        (tagged(GOOD, {1: 2}, b"", b""), "unprotected headers"),
        (tagged(GOOD, [], b"", b""), "unprotected headers"),
        (tagged(GOOD, {}, None, b""), "parts that are not byte strings"),
        (tagged(GOOD, {}, b"", "s"), "parts that are not byte strings"),
        (dumps(cbor2.CBORTag(98, [GOOD, {}, b"", b""])), "not a tagged COSE_Sign1"),
        (tagged(dumps({1: -49, 3: "a", 4: b"k"}), {}, b"", b""), "the protected header is not"),
        (tagged(b"", {}, b"", b""), "COSE protected header: cut short"),
        (tagged(dumps([]), {}, b"", b""), "the protected header is not"),
        (tagged(dumps({1: -8, 3: "a", 4: b"k"}), {}, b"", b""), "the protected header is not"),
        (tagged(dumps({1: -19, 4: b"k"}), {}, b"", b""), "the protected header is not"),
        (tagged(dumps({1: -19, 2: [], 3: "a", 4: b"k"}), {}, b"", b""), "the protected header is not"),
        (tagged(dumps({1: -19, 3: 1, 4: b"k"}), {}, b"", b""), "content type or kid of a wrong type"),
        (tagged(dumps({1: -19, 3: "a", 4: "k"}), {}, b"", b""), "content type or kid of a wrong type"),
    ],
)
def test_other_forms_of_cose_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(SealError, match=message):
        cose.parse(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_signature_or_a_seal_error(data: bytes) -> None:
    for candidate in (data, b"\xd2\x84" + data, tagged(data, {}, data, data), tagged(GOOD, {}, data, data)):
        try:
            signed = cose.parse(candidate)
        except SealError:
            continue
        with pytest.raises(SealError):
            signed.check(SECRET.public_key(), cose.HEAD)


@pytest.mark.parametrize(
    "value", [None, {}, {1: 1, -1: 6}, {1: 2, -1: 6, -2: PUBLIC}, {1: 1, -1: 7, -2: PUBLIC}, {1: 1, -1: 6, -2: PUBLIC, 4: 1}]
)
def test_other_kinds_of_cose_keys_are_refused(value: Any) -> None:
    with pytest.raises(SealError, match="neither Ed25519 nor P-256 nor ML-DSA-65"):
        cose.from_cose_key(value)


@pytest.mark.parametrize("x", [b"", bytes(31), "x" * 32])
def test_a_cose_key_of_another_length_is_refused(x: Any) -> None:
    with pytest.raises(SealError, match="a part is not 32 bytes"):
        cose.from_cose_key({1: 1, -1: 6, -2: x})


# ---- Sessions and chains --------------------------------------------------------------------------------------------


@pytest.fixture
def identity() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def record(agent_id: bytes) -> SessionRecord:
    return SessionRecord(agent_id, (Ed25519PrivateKey.generate().public_key(),), bytes(16), 1, 2)


def chain_of(authority: Any, identity: Ed25519PrivateKey, agent_id: bytes, *records: SessionRecord) -> KeyChain:
    certificate = authority.uri(identity.public_key(), AGENT_URN + agent_id.hex())
    return KeyChain((certificate,), tuple(cose.sign(identity, cose.SESSION, r.payload()) for r in records))


def test_a_session_record_and_a_chain_are_read_as_written(authority: Any, identity: Ed25519PrivateKey, record: SessionRecord) -> None:
    again = parse_session(record.payload())
    assert (again.agent_id, again.boot_id, again.t_from, again.t_to) == (record.agent_id, record.boot_id, 1, 2)
    assert cose.raw_public(again.key) == cose.raw_public(record.key)
    chain = chain_of(authority, identity, record.agent_id, record)
    assert parse_key_chain(chain.encode()) == chain


def test_a_chain_leads_to_the_root_that_issued_it_and_to_no_other(
    authority: Any, foreign: Any, identity: Ed25519PrivateKey, record: SessionRecord
) -> None:
    chain = chain_of(authority, identity, record.agent_id, record)
    trusted = check_chain(chain, authority.root)
    assert (trusted.agent_id, trusted.rooted) == (record.agent_id, True)
    assert trusted.identity == cose.thumbprint(identity.public_key())
    assert list(trusted.sessions) == [cose.thumbprint(record.key)]
    assert not check_chain(chain, foreign.root).rooted
    assert not check_chain(chain, None).rooted


def test_every_identity_that_signed_must_lead_to_the_root(
    authority: Any, foreign: Any, identity: Ed25519PrivateKey, record: SessionRecord
) -> None:
    mine = chain_of(authority, identity, record.agent_id, record)
    other_identity = Ed25519PrivateKey.generate()
    other = chain_of(foreign, other_identity, record.agent_id, replace(record, keys=(Ed25519PrivateKey.generate().public_key(),)))
    both = KeyChain(mine.certificates + other.certificates, mine.sessions + other.sessions)
    assert not check_chain(both, authority.root).rooted
    assert joined([mine, other, mine]) == both
    renewed = chain_of(authority, other_identity, record.agent_id, replace(record, keys=(Ed25519PrivateKey.generate().public_key(),)))
    two = check_chain(KeyChain(mine.certificates + renewed.certificates, mine.sessions + renewed.sessions), authority.root)
    assert two.rooted
    assert len(two.sessions) == 2


def test_chains_that_lead_nowhere_are_refused(authority: Any, identity: Ed25519PrivateKey, record: SessionRecord) -> None:
    chain = chain_of(authority, identity, record.agent_id, record)
    other = Ed25519PrivateKey.generate()
    by_other = cose.sign(other, cose.SESSION, record.payload())
    as_head = cose.sign(identity, cose.HEAD, record.payload())
    another_agent = cose.sign(identity, cose.SESSION, replace(record, agent_id=bytes(16)).payload())
    plain = authority.certify(identity.public_key(), []).public_bytes(Encoding.DER)
    receipts = authority.uri(identity.public_key(), RECEIPTS_URN)
    second = chain_of(authority, other, bytes(16), replace(record, agent_id=bytes(16)))
    for bad, message in (
        (KeyChain((), chain.sessions), "no identity certificate"),
        (KeyChain((plain, receipts), chain.sessions), "is no identity and certifies none before it"),
        (KeyChain((b"der",), chain.sessions), "certificate: "),
        (KeyChain(chain.certificates, (by_other,)), "signed by an identity that is not in the chain"),
        (KeyChain(chain.certificates, (as_head,)), "content type"),
        (KeyChain(chain.certificates, (another_agent,)), "names another agent than its certificate"),
        (KeyChain(chain.certificates, (b"",)), "COSE: cut short"),
        (KeyChain(chain.certificates, ()), "identities that signed no session record"),
        (KeyChain(chain.certificates + second.certificates, chain.sessions + second.sessions), "certificates of several agents"),
    ):
        with pytest.raises(SealError, match=message):
            check_chain(bad, authority.root)


def test_a_chain_is_exactly_ordered_and_holds_nothing_that_it_does_not_need(
    authority: Any, foreign: Any, identity: Ed25519PrivateKey, record: SessionRecord
) -> None:
    """Each identity stands once, in the order of what it signed, each perhaps with the CA that certifies it behind it."""
    mine = chain_of(authority, identity, record.agent_id, record)
    next_key = Ed25519PrivateKey.generate()
    later = chain_of(authority, next_key, record.agent_id, replace(record, keys=(Ed25519PrivateKey.generate().public_key(),)))
    (first,), (second,), sessions = mine.certificates, later.certificates, mine.sessions + later.sessions
    ca, other_ca = (each.root.public_bytes(Encoding.DER) for each in (authority, foreign))
    again = authority.uri(identity.public_key(), AGENT_URN + record.agent_id.hex())
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    stray = authority.uri(rsa_key, AGENT_URN + record.agent_id.hex())
    for good in ((first, second), (first, ca, second), (first, ca, second, ca), (first, again, second), (first, ca, again, second)):
        chain = KeyChain(good, sessions)
        assert check_chain(chain, authority.root).rooted, good
        assert joined([KeyChain(good, sessions)]) == chain
    for bad, message in (
        ((second, first), "not in the order of what they signed"),
        ((first, second, again), "not in the order of what they signed"),
        ((first, first, second), "twice"),
        ((ca, first, second), "certifies none before it"),
        ((first, ca, ca, second), "certifies none before it"),
        ((first, other_ca, second), "certifies none before it"),
        ((first, second, authority.uri(identity.public_key(), RECEIPTS_URN)), "certifies none before it"),
        ((first, second, stray), "neither Ed25519 nor P-256"),
        ((first,), "an identity that is not in the chain"),
    ):
        with pytest.raises(SealError, match=message):
            check_chain(KeyChain(bad, sessions), authority.root)
    with pytest.raises(SealError, match="signed no session record"):
        check_chain(KeyChain((first, second), mine.sessions), authority.root)
    # Before and after its enrolment an agent has two certificates of one key: one that leads to the root is enough.
    before = chain_of(foreign, identity, record.agent_id, record).certificates[0]
    assert check_chain(KeyChain((before, first), mine.sessions), authority.root).rooted
    assert check_chain(KeyChain((first, before), mine.sessions), authority.root).rooted


def test_receipt_certificates_are_of_receipt_keys_and_nothing_else(authority: Any, identity: Ed25519PrivateKey) -> None:
    good = authority.uri(identity.public_key(), RECEIPTS_URN)
    check_receipt_certificates([good, good])
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    for bad, message in (
        (authority.uri(identity.public_key(), AGENT_URN + "0" * 32), "not for receipts"),
        (authority.uri(identity.public_key(), RECEIPTS_URN, RECEIPTS_URN), "not for receipts"),
        (authority.uri(rsa_key, RECEIPTS_URN), "neither Ed25519 nor P-256"),
        (b"x", "certificate"),
    ):
        with pytest.raises(SealError, match=message):
            check_receipt_certificates([good, bad])


@pytest.mark.parametrize("name", ["", "00", "G" * 32, "A" * 32, "0" * 33])
def test_a_certificate_that_names_no_agent_is_refused(name: str, authority: Any, identity: Ed25519PrivateKey) -> None:
    chain = KeyChain((authority.uri(identity.public_key(), AGENT_URN + name),), ())
    with pytest.raises(SealError, match="does not name an agent"):
        check_chain(chain, None)


@pytest.mark.parametrize("data", [dumps({1: 1, 2: []}), dumps({1: [], 2: ["x"]}), dumps({1: [1], 2: []}), dumps([]), b""])
def test_what_is_no_key_chain_is_refused(data: bytes) -> None:
    with pytest.raises(SealError, match="key chain"):
        parse_key_chain(data)


def test_another_statement_is_no_session_record(record: SessionRecord) -> None:
    payload = record.payload().replace(b"HSC/1/session", b"HSC/1/sesSion")
    with pytest.raises(SealError, match="another statement"):
        parse_session(payload)


@pytest.mark.parametrize("keys", [[], ["pq"], ["pq", "ed"], ["ed", "ed"], ["ed", "pq", "pq"], ["ed", "pq", "ed"]])
def test_a_session_record_has_a_key_that_signs_alone_and_at_most_ml_dsa_beside_it(keys: list[str], record: SessionRecord) -> None:
    kinds: dict[str, cose.PublicKey] = {"ed": record.key, "pq": MlDsaKey(bytes(1952))}
    with pytest.raises(SealError, match="the keys are not"):
        parse_session(replace(record, keys=tuple(kinds[key] for key in keys)).payload())


def test_sessions_of_es256_lead_to_an_es256_identity(authority: Any, agent_id: bytes) -> None:
    identity, session = (Es256Signer(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    pq = MlDsaSigner(MLDSA65PrivateKey.generate())
    record = SessionRecord(agent_id, (session.public_key(), pq.public_key()), bytes(16), 1, 2)
    certificate = authority.uri(identity.key.public_key(), AGENT_URN + agent_id.hex())
    chain = KeyChain((certificate,), (cose.sign(identity, cose.SESSION, record.payload()),))
    trusted = check_chain(chain, authority.root)
    assert trusted.rooted
    assert list(trusted.sessions) == [cose.thumbprint(key) for key in record.keys]
    word = session_word(cose.sign_all([session, pq], cose.HEAD, b"payload"), trusted, cose.HEAD)
    assert (word.payload, word.record, word.missing) == (b"payload", record, ())
    for signers, missing in (([session], ("ML-DSA-65",)), ([pq], ("ES256",))):
        assert session_word(cose.sign_all(signers, cose.HEAD, b"payload"), trusted, cose.HEAD).missing == missing
    with pytest.raises(SealError, match="not in the key chain"):
        session_word(cose.sign_all([identity], cose.HEAD, b"payload"), trusted, cose.HEAD)


def test_certificates_with_other_keys_or_names_raise_nothing_but_seal_errors(authority: Any, foreign: Any) -> None:
    p256 = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert signing_key(authority.certify(p256, [])) == p256
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        with pytest.raises(SealError, match="the key is neither Ed25519 nor P-256"):
            signing_key(authority.certify(key.public_key(), []))
    public = SECRET.public_key()
    unnamed = authority.certify(public, [x509.DNSName("example.org")])
    assert urns(unnamed) == []
    assert urns(authority.certify(public, [])) == []
    assert issued_by(unnamed, authority.root)
    assert not issued_by(unnamed, foreign.root)
    # Whoever is not a CA issues nothing, but an agent that was never enrolled vouches for itself.
    plain = authority.certify(authority.key.public_key(), [])
    assert not issued_by(unnamed, plain)
    assert issued_by(plain, plain)
    # A root of another kind of key cannot have issued it, nor one of another name.
    elsewhere = authority.certify(ec.generate_private_key(ec.SECP256R1()).public_key(), [], common_name="elsewhere")
    assert not issued_by(unnamed, elsewhere)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_every_flipped_byte_of_a_certificate_is_read_or_refused(authority: Any) -> None:
    good = authority.uri(SECRET.public_key(), AGENT_URN + bytes(16).hex())
    known = load_certificate(good)
    for position in range(len(good)):
        for value in (0x01, 0x80, 0x55):
            changed = bytearray(good)
            changed[position] ^= value
            try:
                certificate = load_certificate(bytes(changed))
                urns(certificate)
                if issued_by(certificate, authority.root):
                    # The count of unused bits after the signature is not signed, and changes nothing.
                    assert certificate.tbs_certificate_bytes == known.tbs_certificate_bytes
                signing_key(certificate)
            except SealError:
                continue


def test_certificates_whose_parts_are_unknown_are_seal_errors(monkeypatch: pytest.MonkeyPatch, authority: Any) -> None:
    good = authority.uri(SECRET.public_key(), AGENT_URN + bytes(16).hex())
    # The object identifier of Ed25519 (1.3.101.112) in the key becomes one that nobody knows.
    at = good.rindex(bytes.fromhex("06032b6570"), 0, good.rindex(PUBLIC))
    unknown = good[:at] + bytes.fromhex("06032b657f") + good[at + 5 :]
    with pytest.raises(SealError, match="certificate: "):
        signing_key(load_certificate(unknown))
    # Version 9 of X.509.
    at = good.index(bytes.fromhex("a003020102"))
    with pytest.raises(SealError, match="certificate: "):
        load_certificate(good[:at] + bytes.fromhex("a003020108") + good[at + 5 :])


def test_the_receipt_key_is_the_one_that_the_root_certified_for_receipts(authority: Any, foreign: Any) -> None:
    key = Ed25519PrivateKey.generate().public_key()
    kid = cose.thumbprint(key)
    good, other = authority.uri(key, RECEIPTS_URN), authority.uri(SECRET.public_key(), RECEIPTS_URN)
    found = receipt_key([other, good], kid, authority.root)
    assert isinstance(found, Ed25519PublicKey)
    assert cose.raw_public(found) == cose.raw_public(key)
    agent = authority.uri(key, AGENT_URN + bytes(16).hex())
    for certificates, root in (([], authority.root), ([other], authority.root), ([agent], authority.root), ([good], foreign.root)):
        assert receipt_key(certificates, kid, root) is None
    with pytest.raises(SealError, match="certificate"):
        receipt_key([b"x"], kid, authority.root)
