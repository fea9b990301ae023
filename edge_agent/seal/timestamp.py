"""RFC 3161 time-stamps: the request for one, the token in the answer, and what a token proves.

A token says that a time-stamping authority (TSA) saw a SHA-256 digest by its time. Signatures, certificates and times are checked by
``rfc3161-client``; revocation is not looked up. Tokens are kept in strict DER: OpenSSL writes the certificates of a token in the order in
which they are configured, a SET that strict parsers refuse, and no signature covers that order.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from rfc3161_client import PKIStatus, TimeStampResponse, VerificationError, VerifierBuilder, decode_timestamp_response

from edge_agent.seal.cbor import SealError

MAX_TOKEN = 64 << 10
"""Bytes of a token or an answer: real ones have 1 to 10 kB."""
REQUEST_TYPE, REPLY_TYPE = "application/timestamp-query", "application/timestamp-reply"
SHA256_OID = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_SHA256 = bytes.fromhex("300d06096086480165030402010500")
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_GRANTED = bytes.fromhex("3003020100")
_TRUE = b"\x01\x01\xff"
_STATUS = {int(status): status.name.lower() for status in PKIStatus}
_UNFIT = (VerificationError, ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What the library and the certificates in a token raise."""
_INTEGER, _OCTETS, _SEQUENCE, _SET, _TAGGED = 0x02, 0x04, 0x30, 0x31, 0xA0
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a token says: ``digest`` (SHA-256) was there at ``t_ns`` (the TSA's clock, UTC ns)."""

    digest: bytes
    t_ns: int


def request(digest: bytes, nonce: int) -> bytes:
    """A TimeStampReq (RFC 3161 section 2.4.1) for a SHA-256 digest, 32 bytes; asks for the TSA's certificate.

    Args:
        digest: what is to be stamped.
        nonce: a random number; the answer has to repeat it.
    """
    imprint = _item(_SEQUENCE, _SHA256 + _item(_OCTETS, digest))
    return _item(_SEQUENCE, _integer(1) + imprint + _integer(nonce) + _TRUE)


def token_of(answer: bytes, digest: bytes, nonce: int, roots: Sequence[x509.Certificate] = ()) -> bytes:
    """The token (DER) in a TimeStampResp, if it is the answer to `request`.

    Args:
        answer: what the TSA sent.
        digest: of the request.
        nonce: of the request.
        roots: certificates that the TSA must lead to; none: who signed is left to those who verify the run.

    Raises:
        SealError: no answer of a TSA, a refusal, another digest or nonce, or a token that ``roots`` do not vouch for.
    """
    if len(answer) > MAX_TOKEN:
        raise SealError(f"time-stamp: an answer of {len(answer)} bytes")
    status, *rest = _parts(_content(answer, _SEQUENCE))
    if not rest:
        decoded = _decoded(answer)
        said = "; ".join(decoded.status_string) or "it gives no reason"
        raise SealError(f"time-stamp: refused with status {_STATUS.get(decoded.status, decoded.status)}: {said}")
    if status != _GRANTED:
        raise SealError("time-stamp: granted with modifications or warnings, which the request does not allow")
    token = _sorted(rest[0])
    decoded = _decoded(_item(_SEQUENCE, _GRANTED + token))
    if _stamp(decoded).digest != digest:
        raise SealError("time-stamp: of another digest than the one that was sent")
    if decoded.tst_info.nonce != nonce:
        raise SealError("time-stamp: the nonce is not the one that was sent; an old answer, or another's")
    if roots:
        check_token(token, roots)
    return token


def stamp_of(token: bytes) -> Stamp:
    """What a token says, before anybody checked who says it.

    Raises:
        SealError: no token over a SHA-256 digest.
    """
    return _stamp(_decoded(_item(_SEQUENCE, _GRANTED + token)))


def check_token(token: bytes, roots: Sequence[x509.Certificate]) -> Stamp:
    """What a token proves.

    Args:
        token: TimeStampToken, DER.
        roots: certificates of TSAs' authorities; the chain to one of them must have been valid at the time of the token.

    Raises:
        SealError: no token, a wrong signature, no chain to a root, a certificate that may not stamp.
    """
    decoded = _decoded(_item(_SEQUENCE, _GRANTED + token))
    stamp = _stamp(decoded)
    why = "none was given"
    # One by one: OpenSSL takes the first of several authorities with one name (an old key and a new one) and no other.
    for root in roots:
        try:
            VerifierBuilder(roots=[root]).build().verify(decoded, stamp.digest)
            return stamp
        except _UNFIT as error:
            why = str(error)
    raise SealError(f"time-stamp: no given root vouches for it: {why}")


def _decoded(response: bytes) -> TimeStampResponse:
    if len(response) > MAX_TOKEN:
        raise SealError(f"time-stamp: {len(response)} bytes")
    try:
        return decode_timestamp_response(response)
    except ValueError as error:
        raise SealError(f"time-stamp: cannot be read: {error}") from error


def _stamp(decoded: TimeStampResponse) -> Stamp:
    try:
        info = decoded.tst_info
        imprint = info.message_imprint
        passed = info.gen_time - _EPOCH
    except ValueError as error:
        raise SealError(f"time-stamp: cannot be read: {error}") from error
    if imprint.hash_algorithm != SHA256_OID or len(imprint.message) != 32:
        raise SealError("time-stamp: not of a SHA-256 digest")
    return Stamp(imprint.message, (passed.days * 86_400 + passed.seconds) * 10**9 + passed.microseconds * 1000)


# DER (X.690), as much as a request and the order of a SET need.


def _item(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x80 | (n := (size.bit_length() + 7) // 8)]) + size.to_bytes(n, "big")
    return bytes([tag]) + length + content


def _integer(value: int) -> bytes:
    return _item(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _parts(content: bytes) -> list[bytes]:
    """The encoded items that stand one after the other, at least one."""
    parts: list[bytes] = []
    at = 0
    while at < len(content) or not parts:
        first = content[at + 1] if at + 1 < len(content) else 0
        extra = first & 0x7F if first & 0x80 else 0
        size = int.from_bytes(content[at + 2 : at + 2 + extra], "big") if extra else first
        end = at + 2 + extra + size
        if end > len(content) or extra > 4 or first == 0x80:
            raise SealError("time-stamp: not DER")
        parts.append(content[at:end])
        at = end
    return parts


def _content(item: bytes, tag: int) -> bytes:
    """The content of the one item that ``item`` is."""
    if len(_parts(item)) != 1 or item[0] != tag:
        raise SealError("time-stamp: not DER, or another structure")
    return item[2 + (item[1] & 0x7F if item[1] & 0x80 else 0) :]


def _sorted(token: bytes) -> bytes:
    """The token with its certificates in the order of DER (X.690 section 11.6)."""
    kind, *explicit = _parts(_content(token, _SEQUENCE))
    if kind != _SIGNED_DATA or len(explicit) != 1:
        raise SealError("time-stamp: the token is no CMS SignedData")
    parts = _parts(_content(_content(explicit[0], _TAGGED), _SEQUENCE))
    ordered = [_item(_TAGGED, b"".join(sorted(_parts(_content(p, _TAGGED))))) if p[0] == _TAGGED else p for p in parts]
    return _item(_SEQUENCE, kind + _item(_TAGGED, _item(_SEQUENCE, b"".join(ordered))))
