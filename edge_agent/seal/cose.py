"""COSE_Sign1 and COSE_Sign (RFC 9052 sections 4.1 and 4.2): one signature over a payload, or one of each key of a session.

Few lines over cbor2 because no kept-up library signs with both Ed25519 and ML-DSA; the form is stricter than the RFC: tagged, exactly
the protected headers below, nothing unprotected, deterministic encoding throughout. In a COSE_Sign the body says what the payload is,
each signature its algorithm and key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

from edge_agent.seal.algorithm import (
    ED25519,
    ESP256,
    NAMES,
    PublicKey,
    Signer,
    Uncheckable,
    algorithm,
    cose_key,
    from_cose_key,
    raw_public,
    thumbprint,
    verify,
)
from edge_agent.seal.cbor import COSE_SIGN, COSE_SIGN1, SealError, dumps, loads

__all__ = [
    "CUSTODY", "HEAD", "RUN", "SESSION", "WITNESS", "PublicKey", "Signature", "Signed", "SignedByAll", "Signer", "cose_key",
    "from_cose_key", "parse", "parse_all", "payload_of", "raw_public", "sign", "sign_all", "thumbprint",
]  # fmt: skip

HEAD = "application/x.hsc1-head+cbor"
RUN = "application/x.hsc1-run+cbor"
SESSION = "application/x.hsc1-session+cbor"
WITNESS = "application/x.hsc1-witness+cbor"
CUSTODY = "application/x.hsc1-custody+cbor"
AMENDMENT = "application/x.hsc1-amendment+cbor"


@dataclass(frozen=True, slots=True)
class Signed:
    """A parsed COSE_Sign1 whose signature is *not yet* checked."""

    content_type: str
    algorithm: int
    kid: bytes
    payload: bytes
    protected: bytes
    signature: bytes

    def check(self, key: PublicKey, content_type: str) -> bytes:
        """The payload, if ``key`` signed it as ``content_type``.

        Raises:
            SealError: another content type, another key, a wrong signature.
        """
        _check_type(self.content_type, content_type)
        _check_key(self.algorithm, self.kid, key)
        verify(key, self.signature, _sign1_input(self.protected, self.payload))
        return self.payload


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of a COSE_Sign."""

    algorithm: int
    kid: bytes
    protected: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedByAll:
    """A parsed COSE_Sign whose signatures are *not yet* checked."""

    content_type: str
    payload: bytes
    protected: bytes
    signatures: tuple[Signature, ...]

    def check(self, keys: Mapping[bytes, PublicKey], content_type: str) -> tuple[str, ...]:
        """Check every signature that is there.

        Args:
            keys: what should have signed, by kid, in the order of the signatures.
            content_type: what the payload must be.

        Returns:
            The names of the algorithms whose signature is missing, or cannot be checked by this build.

        Raises:
            SealError: another content type, a signature by another key, out of order, twice or wrong; none that can be checked.
        """
        _check_type(self.content_type, content_type)
        order = {kid: number for number, kid in enumerate(keys)}
        places = [order.get(each.kid, -1) for each in self.signatures]
        if -1 in places:
            raise SealError("COSE: signed by another key")
        if sorted(set(places)) != places:
            raise SealError("COSE: a signature is there twice, or out of order")
        held = set()
        for each in self.signatures:
            _check_key(each.algorithm, each.kid, keys[each.kid])
            try:
                verify(keys[each.kid], each.signature, _sign_input(self.protected, each.protected, self.payload))
            except Uncheckable:
                continue
            held.add(each.kid)
        if not held:
            raise SealError("COSE: no signature that can be checked")
        return tuple(NAMES[algorithm(key)] for kid, key in keys.items() if kid not in held)


def sign(signer: Signer, content_type: str, payload: bytes) -> bytes:
    """Make a COSE_Sign1 over ``payload``."""
    key = signer.public_key()
    protected = dumps({1: algorithm(key), 3: content_type, 4: thumbprint(key)})
    return dumps(cbor2.CBORTag(COSE_SIGN1, [protected, {}, payload, signer.sign(_sign1_input(protected, payload))]))


def sign_all(signers: Sequence[Signer], content_type: str, payload: bytes) -> bytes:
    """Make a COSE_Sign over ``payload`` with one signature of each signer, in their order."""
    body = dumps({3: content_type})
    signatures = []
    for signer in signers:
        key = signer.public_key()
        protected = dumps({1: algorithm(key), 4: thumbprint(key)})
        signatures.append([protected, {}, signer.sign(_sign_input(body, protected, payload))])
    return dumps(cbor2.CBORTag(COSE_SIGN, [body, {}, payload, signatures]))


def parse(data: bytes) -> Signed:
    """Read a COSE_Sign1.

    Raises:
        SealError: anything but the strict form above.
    """
    protected, payload, signature = _parts(data, COSE_SIGN1, "COSE_Sign1")
    if not isinstance(signature, bytes):
        raise SealError("COSE: unprotected headers, or parts that are not byte strings")
    header = loads(protected, "COSE protected header")
    if not isinstance(header, dict) or set(header) != {1, 3, 4} or header[1] not in (ED25519, ESP256):
        raise SealError("COSE: the protected header is not {Ed25519 or ES256, content type, kid}")
    if not isinstance(header[3], str) or not isinstance(header[4], bytes):
        raise SealError("COSE: content type or kid of a wrong type")
    return Signed(header[3], header[1], header[4], payload, protected, signature)


def parse_all(data: bytes) -> SignedByAll:
    """Read a COSE_Sign.

    Raises:
        SealError: anything but the strict form above.
    """
    protected, payload, signatures = _parts(data, COSE_SIGN, "COSE_Sign")
    header = loads(protected, "COSE protected header")
    if not isinstance(header, dict) or set(header) != {3} or not isinstance(header[3], str):
        raise SealError("COSE: the protected header is not {content type}")
    if not isinstance(signatures, list | tuple) or not signatures:
        raise SealError("COSE: no signatures")
    return SignedByAll(header[3], payload, protected, tuple(_signature(each) for each in signatures))


def payload_of(data: bytes) -> bytes:
    """The payload of either form, unchecked: for what this process signed itself.

    Raises:
        SealError: neither form.
    """
    # 0xd8 0x62 is tag 98, COSE_Sign.
    return parse_all(data).payload if data[:2] == b"\xd8\x62" else parse(data).payload


def _signature(value: Any) -> Signature:
    if not isinstance(value, list | tuple) or len(value) != 3 or value[1] != {}:
        raise SealError("COSE: a signature is not [protected, {}, signature]")
    protected, _, signature = value
    if not isinstance(protected, bytes) or not isinstance(signature, bytes):
        raise SealError("COSE: parts of a signature that are not byte strings")
    header = loads(protected, "COSE signature header")
    if not isinstance(header, dict) or set(header) != {1, 4} or header[1] not in NAMES or not isinstance(header[4], bytes):
        raise SealError("COSE: the header of a signature is not {algorithm, kid}")
    return Signature(header[1], header[4], protected, signature)


def _parts(data: bytes, tag: int, name: str) -> tuple[bytes, bytes, Any]:
    value = loads(data, "COSE")
    if not isinstance(value, cbor2.CBORTag) or value.tag != tag or not isinstance(value.value, list | tuple) or len(value.value) != 4:
        raise SealError(f"COSE: not a tagged {name}")
    protected, unprotected, payload, last = value.value
    if unprotected != {} or not isinstance(protected, bytes) or not isinstance(payload, bytes):
        raise SealError("COSE: unprotected headers, or parts that are not byte strings")
    return protected, payload, last


def _check_type(found: str, wanted: str) -> None:
    if found != wanted:
        raise SealError(f"COSE: content type {found!r}, wants {wanted!r}")


def _check_key(number: int, kid: bytes, key: PublicKey) -> None:
    if kid != thumbprint(key) or number != algorithm(key):
        raise SealError("COSE: signed by another key")


def _sign1_input(protected: bytes, payload: bytes) -> bytes:
    return dumps(["Signature1", protected, b"", payload])


def _sign_input(body: bytes, protected: bytes, payload: bytes) -> bytes:
    return dumps(["Signature", body, protected, b"", payload])
