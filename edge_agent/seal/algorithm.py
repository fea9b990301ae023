"""Signature algorithms and their COSE keys: Ed25519 (-19) and ES256 as ESP256 (-9), both RFC 9864, and ML-DSA-65 (-49, RFC 9964).

Each number stands for one algorithm with one curve and one hash, so a key says how it signs. `MlDsaKey` keeps bytes: a build of
`cryptography` without ML-DSA can still name such a key, and `Uncheckable` tells it from a wrong signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.seal.cbor import SealError, dumps

ED25519 = -19
ESP256 = -9
ML_DSA_65 = -49
NAMES = {ED25519: "Ed25519", ESP256: "ES256", ML_DSA_65: "ML-DSA-65"}

_OKP, _EC2, _AKP = 1, 2, 7
_ML_DSA_65_SIZE = 1952


class Uncheckable(SealError):
    """A signature that this build of ``cryptography`` has no code for."""


@dataclass(frozen=True, slots=True)
class MlDsaKey:
    """An ML-DSA-65 public key, 1952 bytes (FIPS 204)."""

    raw: bytes


IdentityKey = Ed25519PublicKey | ec.EllipticCurvePublicKey
PublicKey = IdentityKey | MlDsaKey


class Signer(Protocol):
    """A private key that signs: in memory, in a sealed file, in a token."""

    def sign(self, data: bytes, /) -> bytes:
        """The signature as COSE has it: 64 bytes of Ed25519; r and s of ES256, 32 bytes each; 3309 bytes of ML-DSA-65."""
        ...

    def public_key(self) -> PublicKey:
        """The matching public key; it says which algorithm signs."""
        ...


@dataclass(frozen=True, slots=True)
class Es256Signer:
    """A P-256 key in memory. One in a TPM or a PKCS#11 token has the same two methods."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(self, data: bytes, /) -> bytes:
        """R and s, 32 bytes each (RFC 9053 section 2.1)."""
        r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def public_key(self) -> PublicKey:
        """The P-256 key."""
        return self.key.public_key()


@dataclass(frozen=True, slots=True)
class MlDsaSigner:
    """An ML-DSA-65 key in memory."""

    key: mldsa.MLDSA65PrivateKey = field(repr=False)

    def sign(self, data: bytes, /) -> bytes:
        """3309 bytes, with an empty context (RFC 9964)."""
        return self.key.sign(data)

    def public_key(self) -> PublicKey:
        """The key of 1952 bytes."""
        return MlDsaKey(self.key.public_key().public_bytes_raw())


def new_ml_dsa() -> MlDsaSigner | None:
    """A new ML-DSA-65 key; None where this build of ``cryptography`` has no ML-DSA."""
    try:
        return MlDsaSigner(mldsa.MLDSA65PrivateKey.generate())
    except UnsupportedAlgorithm:
        return None


def algorithm(key: PublicKey) -> int:
    """The COSE algorithm of a key."""
    if isinstance(key, MlDsaKey):
        return ML_DSA_65
    return ED25519 if isinstance(key, Ed25519PublicKey) else ESP256


def raw_public(key: PublicKey) -> bytes:
    """The bytes of a public key: 32 of Ed25519, 65 of P-256 (X9.62, uncompressed), 1952 of ML-DSA-65."""
    if isinstance(key, MlDsaKey):
        return key.raw
    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def from_raw(data: bytes) -> IdentityKey:
    """The Ed25519 or P-256 key of `raw_public`.

    Raises:
        ValueError: neither.
    """
    if len(data) == 32:
        return Ed25519PublicKey.from_public_bytes(data)
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)


def cose_key(key: PublicKey) -> dict[int, Any]:
    """COSE_Key map with exactly the members that a thumbprint takes (RFC 9679 section 4, RFC 9964 section 3)."""
    raw = raw_public(key)
    if isinstance(key, MlDsaKey):
        return {1: _AKP, 3: ML_DSA_65, -1: raw}
    if isinstance(key, Ed25519PublicKey):
        return {1: _OKP, -1: 6, -2: raw}
    return {1: _EC2, -1: 1, -2: raw[1:33], -3: raw[33:]}


def from_cose_key(value: Any) -> PublicKey:
    """The key in a COSE_Key map.

    Raises:
        SealError: any other kind of key, or a point that is not on P-256.
    """
    key = _key(value if isinstance(value, dict) else {})
    # As bytes, because True == 1.
    if dumps(cose_key(key)) != dumps(value):
        raise SealError("COSE key: a field of a wrong type")
    return key


def _key(form: dict[Any, Any]) -> PublicKey:
    head = {label: form.get(label) for label in (1, 3, -1) if not isinstance(form.get(label), bytes)}
    if set(form) == {1, -1, -2} and head == {1: _OKP, 3: None, -1: 6}:
        return Ed25519PublicKey.from_public_bytes(_bytes(form[-2], 32))
    if set(form) == {1, 3, -1} and head == {1: _AKP, 3: ML_DSA_65}:
        return MlDsaKey(_bytes(form[-1], _ML_DSA_65_SIZE))
    if set(form) != {1, -1, -2, -3} or head != {1: _EC2, 3: None, -1: 1}:
        raise SealError("COSE key: neither Ed25519 nor P-256 nor ML-DSA-65")
    try:
        return from_raw(b"\x04" + _bytes(form[-2], 32) + _bytes(form[-3], 32))
    except ValueError as error:
        raise SealError(f"COSE key: {error}") from error


def identity_key(value: Any) -> IdentityKey:
    """The identity key in a COSE_Key map: one that X.509 certifies and that may be held in a token.

    Raises:
        SealError: any other kind of key.
    """
    key = from_cose_key(value)
    if isinstance(key, MlDsaKey):
        raise SealError("COSE key: an identity key is Ed25519 or P-256")
    return key


def thumbprint(key: PublicKey) -> bytes:
    """kid: SHA-256 over the deterministic COSE key (RFC 9679 section 3), 32 bytes."""
    return hashlib.sha256(dumps(cose_key(key))).digest()


def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    """Check one signature.

    Raises:
        Uncheckable: this build has no ML-DSA.
        SealError: the signature is wrong.
    """
    try:
        if isinstance(key, MlDsaKey):
            mldsa.MLDSA65PublicKey.from_public_bytes(key.raw).verify(signature, data)
        elif isinstance(key, Ed25519PublicKey):
            key.verify(signature, data)
        else:
            if len(signature) != 64:
                raise InvalidSignature
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise SealError("COSE: the signature is wrong") from error
    except UnsupportedAlgorithm as error:
        raise Uncheckable("COSE: this build of cryptography cannot check ML-DSA-65") from error


def _bytes(value: Any, size: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != size:
        raise SealError(f"COSE key: a part is not {size} bytes")
    return value
