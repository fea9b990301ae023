"""The three signature algorithms, their COSE keys, and statements that a whole session signs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.seal import algorithm, cose
from edge_agent.seal.algorithm import Es256Signer, MlDsaKey, MlDsaSigner, Uncheckable, from_raw, identity_key, new_ml_dsa, verify
from edge_agent.seal.cbor import SealError, dumps

# The key "11" of RFC 9052 appendix C.7.
X = bytes.fromhex("bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff")
Y = bytes.fromhex("20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e")
ELEVEN = from_raw(b"\x04" + X + Y)
ED, ES, PQ = Ed25519PrivateKey.generate(), Es256Signer(ec.generate_private_key(ec.SECP256R1())), MlDsaSigner(MLDSA65PrivateKey.generate())


def by_kid(*signers: cose.Signer) -> dict[bytes, cose.PublicKey]:
    return {cose.thumbprint(s.public_key()): s.public_key() for s in signers}


def test_the_signatures_of_rfc_9052_hold() -> None:
    content = b"This is the content."
    # Appendix C.1.1 (COSE_Sign) and C.2.1 (COSE_Sign1), both ECDSA with SHA-256 over P-256.
    in_sign = (
        "e2aeafd40d69d19dfe6e52077c5d7ff4e408282cbefb5d06cbf414af2e19d982ac45ac98b8544c908b4507de1e90b717c3d34816fe926a2b98f53afd2fa0f30a"
    )
    in_sign1 = (
        "8eb33e4ca31d1c465ab05aac34cc6b23d58fef5c083106c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36"
    )
    verify(ELEVEN, bytes.fromhex(in_sign), cose._sign_input(b"", b"\xa1\x01\x26", content))
    verify(ELEVEN, bytes.fromhex(in_sign1), cose._sign1_input(b"\xa1\x01\x26", content))
    for wrong in (bytes.fromhex(in_sign), bytes(64), bytes(63), b"\xff" * 64):
        with pytest.raises(SealError, match="the signature is wrong"):
            verify(ELEVEN, wrong, cose._sign1_input(b"\xa1\x01\x26", content))


def test_each_key_has_the_cose_key_and_thumbprint_of_its_type() -> None:
    for signer, form in (
        (ED, {1: 1, -1: 6, -2: cose.raw_public(ED.public_key())}),
        (ES, {1: 2, -1: 1, -2: cose.raw_public(ES.public_key())[1:33], -3: cose.raw_public(ES.public_key())[33:]}),
        (PQ, {1: 7, 3: -49, -1: cose.raw_public(PQ.public_key())}),
    ):
        key = signer.public_key()
        assert cose.cose_key(key) == form
        assert cose.from_cose_key(form) == key
        assert cose.thumbprint(key) == hashlib.sha256(dumps(form)).digest()
    # The deterministic order of the members of an AKP key: 1, 3, -1.
    assert dumps(cose.cose_key(PQ.public_key()))[:10].hex() == "a3010703383020590 7a0".replace(" ", "")


WRONG_KEYS = {
    "another curve": ({1: 2, -1: 2, -2: X, -3: Y}, "neither"),
    "a compressed point": ({1: 2, -1: 1, -2: X, -3: True}, "a part is not 32 bytes"),
    "a point that is not on the curve": ({1: 2, -1: 1, -2: X, -3: X}, "COSE key: "),
    "ML-DSA-44": ({1: 7, 3: -48, -1: bytes(1312)}, "neither"),
    "ML-DSA-65 of another length": ({1: 7, 3: -49, -1: bytes(1312)}, "a part is not 1952 bytes"),
    "an algorithm too many": ({1: 1, 3: -19, -1: 6, -2: X}, "neither"),
    "True for a kind": ({1: True, -1: 6, -2: X}, "a field of a wrong type"),
    "a private part": ({1: 2, -1: 1, -2: X, -3: Y, -4: X}, "neither"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_other_keys_are_refused(name: str) -> None:
    form, message = WRONG_KEYS[name]
    with pytest.raises(SealError, match=message):
        cose.from_cose_key(form)


def test_an_identity_key_is_one_that_certificates_and_tokens_know() -> None:
    assert identity_key(cose.cose_key(ED.public_key())) == ED.public_key()
    assert from_raw(cose.raw_public(ES.public_key())) == ES.public_key() == identity_key(cose.cose_key(ES.public_key()))
    assert from_raw(cose.raw_public(ED.public_key())) == ED.public_key()
    with pytest.raises(SealError, match="Ed25519 or P-256"):
        identity_key(cose.cose_key(PQ.public_key()))


def test_es256_signs_in_the_form_of_cose() -> None:
    data = cose.sign(ES, cose.SESSION, b"payload")
    assert cbor2.loads(cose.parse(data).protected)[1] == -9
    assert len(cose.parse(data).signature) == 64
    assert cose.parse(data).check(ES.public_key(), cose.SESSION) == b"payload"
    with pytest.raises(SealError, match="the signature is wrong"):
        replace(cose.parse(data), payload=b"other").check(ES.public_key(), cose.SESSION)


@pytest.mark.parametrize("signers", [[ED, PQ], [ES, PQ], [ED], [ES]])
def test_a_session_signs_with_each_of_its_keys(signers: list[cose.Signer]) -> None:
    data = cose.sign_all(signers, cose.HEAD, b"payload")
    signed = cose.parse_all(data)
    assert data[:2] == b"\xd8\x62"
    assert cose.payload_of(data) == cose.payload_of(cose.sign(ED, cose.HEAD, b"payload")) == b"payload"
    assert [s.kid for s in signed.signatures] == list(by_kid(*signers))
    assert signed.check(by_kid(*signers), cose.HEAD) == ()


def test_a_signature_that_is_missing_is_named_and_one_that_is_wrong_or_strange_is_refused() -> None:
    keys, stranger = by_kid(ED, PQ), Ed25519PrivateKey.generate()
    other = MlDsaSigner(MLDSA65PrivateKey.generate())
    assert cose.parse_all(cose.sign_all([ED], cose.HEAD, b"p")).check(keys, cose.HEAD) == ("ML-DSA-65",)
    assert cose.parse_all(cose.sign_all([PQ], cose.HEAD, b"p")).check(keys, cose.HEAD) == ("Ed25519",)
    good = cose.parse_all(cose.sign_all([ED, PQ], cose.HEAD, b"p"))
    first, second = good.signatures
    wrong_ml_dsa = replace(second, signature=cose.parse_all(cose.sign_all([ED, PQ], cose.HEAD, b"q")).signatures[1].signature)
    for signatures, message in (
        ((first, wrong_ml_dsa), "the signature is wrong"),
        ((replace(first, signature=bytes(64)), second), "the signature is wrong"),
        ((first, replace(second, signature=b"short")), "the signature is wrong"),
        ((second, first), "out of order"),
        ((first, first), "twice"),
        ((first, second, *cose.parse_all(cose.sign_all([stranger], cose.HEAD, b"p")).signatures), "signed by another key"),
        ((first, *cose.parse_all(cose.sign_all([other], cose.HEAD, b"p")).signatures), "signed by another key"),
        ((replace(first, algorithm=-9), second), "signed by another key"),
    ):
        with pytest.raises(SealError, match=message):
            replace(good, signatures=signatures).check(keys, cose.HEAD)
    with pytest.raises(SealError, match="content type"):
        good.check(keys, cose.RUN)


def test_every_flipped_byte_of_a_statement_of_a_session_is_noticed() -> None:
    data, keys = cose.sign_all([ED, PQ], cose.HEAD, b"payload"), by_kid(ED, PQ)
    # Of the long ML-DSA signature every 50th: any change of it is the same to the code here.
    start = data.index(cose.parse_all(data).signatures[1].signature)
    for position in [*range(start), *range(start, len(data), 50)]:
        changed = bytearray(data)
        changed[position] ^= 0x10
        with pytest.raises(SealError):
            cose.parse_all(bytes(changed)).check(keys, cose.HEAD)


BODY, EACH = dumps({3: "a"}), dumps({1: -19, 4: b"k"})


def tagged(*parts: Any) -> bytes:
    return dumps(cbor2.CBORTag(98, list(parts)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dumps(cbor2.CBORTag(18, [BODY, {}, b"", [[EACH, {}, b""]]])), "not a tagged COSE_Sign"),
        (tagged(BODY, {}, b"", b""), "no signatures"),
        (tagged(BODY, {}, b"", []), "no signatures"),
        (tagged(BODY, {}, b"", [b""]), "a signature is not"),
        (tagged(BODY, {}, b"", [[EACH, {}]]), "a signature is not"),
        (tagged(BODY, {}, b"", [[EACH, {4: b"k"}, b""]]), "a signature is not"),
        (tagged(BODY, {}, b"", [["", {}, b""]]), "not byte strings"),
        (tagged(BODY, {}, b"", [[EACH, {}, ""]]), "not byte strings"),
        (tagged(BODY, {}, b"", [[dumps([]), {}, b""]]), "the header of a signature"),
        (tagged(BODY, {}, b"", [[dumps({1: -48, 4: b"k"}), {}, b""]]), "the header of a signature"),
        (tagged(BODY, {}, b"", [[dumps({1: -19, 4: 5}), {}, b""]]), "the header of a signature"),
        (tagged(BODY, {}, b"", [[dumps({1: -19, 3: "a", 4: b"k"}), {}, b""]]), "the header of a signature"),
        (tagged(dumps({3: 5}), {}, b"", [[EACH, {}, b""]]), "the protected header is not"),
        (tagged(dumps({1: -19, 3: "a"}), {}, b"", [[EACH, {}, b""]]), "the protected header is not"),
        (tagged(dumps([]), {}, b"", [[EACH, {}, b""]]), "the protected header is not"),
        (tagged(BODY, {}, 5, [[EACH, {}, b""]]), "not byte strings"),
    ],
)
def test_other_forms_of_a_statement_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(SealError, match=message):
        cose.parse_all(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_statement_or_a_seal_error(data: bytes) -> None:
    for candidate in (data, b"\xd8\x62\x84" + data, tagged(data, {}, data, [[EACH, {}, data]]), tagged(BODY, {}, data, [[data, {}, data]])):
        try:
            signed = cose.parse_all(candidate)
        except SealError:
            continue
        with pytest.raises(SealError):
            signed.check(by_kid(ED, PQ), cose.HEAD)


class NoMlDsa:
    """What `cryptography` does on a library without ML-DSA."""

    @staticmethod
    def generate() -> Any:
        raise UnsupportedAlgorithm("ML-DSA-65 is not supported by this backend.")

    @staticmethod
    def from_public_bytes(data: bytes) -> Any:
        raise UnsupportedAlgorithm("ML-DSA-65 is not supported by this backend.")


def test_a_build_without_ml_dsa_makes_no_such_key_and_tells_what_it_cannot_check(monkeypatch: pytest.MonkeyPatch) -> None:
    both, alone = cose.sign_all([ED, PQ], cose.HEAD, b"p"), cose.sign_all([PQ], cose.HEAD, b"p")
    assert isinstance(new_ml_dsa(), MlDsaSigner)
    monkeypatch.setattr(mldsa, "MLDSA65PrivateKey", NoMlDsa)
    monkeypatch.setattr(mldsa, "MLDSA65PublicKey", NoMlDsa)
    assert new_ml_dsa() is None
    with pytest.raises(Uncheckable, match="cannot check ML-DSA-65"):
        verify(MlDsaKey(bytes(1952)), b"", b"")
    assert cose.parse_all(both).check(by_kid(ED, PQ), cose.HEAD) == ("ML-DSA-65",)
    with pytest.raises(SealError, match="no signature that can be checked"):
        cose.parse_all(alone).check(by_kid(ED, PQ), cose.HEAD)
    assert algorithm.NAMES[algorithm.algorithm(PQ.public_key())] == "ML-DSA-65"
