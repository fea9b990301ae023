"""COSE_Sign1 (RFC 9052 section 4.2) with Ed25519 (-19, RFC 9864), and the kid of RFC 9679.

Thirty lines over cbor2 because no kept-up library signs with both Ed25519 and ML-DSA; the form is stricter than the RFC: tag 18,
exactly the three protected headers, nothing unprotected, deterministic encoding throughout.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_agent.seal.cbor import COSE_SIGN1, SealError, dumps, loads

ED25519 = -19

HEAD = "application/x.hsc1-head+cbor"
RUN = "application/x.hsc1-run+cbor"
SESSION = "application/x.hsc1-session+cbor"
WITNESS = "application/x.hsc1-witness+cbor"
CUSTODY = "application/x.hsc1-custody+cbor"
AMENDMENT = "application/x.hsc1-amendment+cbor"


class Signer(Protocol):
    """A private key that signs: in memory, in a sealed file, in a token."""

    def sign(self, data: bytes, /) -> bytes:
        """Ed25519 signature, 64 bytes."""
        ...

    def public_key(self) -> Ed25519PublicKey:
        """The matching public key."""
        ...


def raw_public(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def cose_key(key: Ed25519PublicKey) -> dict[int, Any]:
    """COSE_Key map of an Ed25519 public key: ``{1: 1, -1: 6, -2: x}``."""
    return {1: 1, -1: 6, -2: raw_public(key)}


def from_cose_key(value: Any) -> Ed25519PublicKey:
    """The key in a COSE_Key map.

    Raises:
        SealError: any other kind of key.
    """
    if not isinstance(value, dict) or set(value) != {1, -1, -2} or value[1] != 1 or value[-1] != 6:
        raise SealError("COSE key: not Ed25519")
    x = value[-2]
    if not isinstance(x, bytes) or len(x) != 32:
        raise SealError("COSE key: x is not 32 bytes")
    return Ed25519PublicKey.from_public_bytes(x)


def thumbprint(key: Ed25519PublicKey) -> bytes:
    """kid: SHA-256 over the deterministic COSE key (RFC 9679 section 3), 32 bytes."""
    return hashlib.sha256(dumps(cose_key(key))).digest()


@dataclass(frozen=True, slots=True)
class Signed:
    """A parsed COSE_Sign1 whose signature is *not yet* checked."""

    content_type: str
    kid: bytes
    payload: bytes
    protected: bytes
    signature: bytes

    def check(self, key: Ed25519PublicKey, content_type: str) -> bytes:
        """The payload, if ``key`` signed it as ``content_type``.

        Raises:
            SealError: another content type, another key, a wrong signature.
        """
        if self.content_type != content_type:
            raise SealError(f"COSE: content type {self.content_type!r}, wants {content_type!r}")
        if self.kid != thumbprint(key):
            raise SealError("COSE: signed by another key")
        try:
            key.verify(self.signature, _to_be_signed(self.protected, self.payload))
        except InvalidSignature as error:
            raise SealError("COSE: the signature is wrong") from error
        return self.payload


def sign(signer: Signer, content_type: str, payload: bytes) -> bytes:
    """Make a COSE_Sign1 over ``payload``."""
    protected = dumps({1: ED25519, 3: content_type, 4: thumbprint(signer.public_key())})
    signature = signer.sign(_to_be_signed(protected, payload))
    return dumps(cbor2.CBORTag(COSE_SIGN1, [protected, {}, payload, signature]))


def parse(data: bytes) -> Signed:
    """Read a COSE_Sign1.

    Raises:
        SealError: anything but the strict form above.
    """
    value = loads(data, "COSE")
    if not isinstance(value, cbor2.CBORTag) or not isinstance(value.value, list | tuple) or len(value.value) != 4:
        raise SealError("COSE: not a tagged COSE_Sign1")
    protected, unprotected, payload, signature = value.value
    if unprotected != {} or not all(isinstance(part, bytes) for part in (protected, payload, signature)):
        raise SealError("COSE: unprotected headers, or parts that are not byte strings")
    header = loads(protected, "COSE protected header")
    if not isinstance(header, dict) or set(header) != {1, 3, 4} or header[1] != ED25519:
        raise SealError("COSE: the protected header is not {Ed25519, content type, kid}")
    if not isinstance(header[3], str) or not isinstance(header[4], bytes):
        raise SealError("COSE: content type or kid of a wrong type")
    return Signed(header[3], header[4], payload, protected, signature)


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return dumps(["Signature1", protected, b"", payload])
