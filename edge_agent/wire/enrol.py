"""Enrolment messages: the one-time token, the agent's request under its identity key, the certificates that come back.

A token is ``edge1.`` and base64url of CBOR ``{1: secret 16 bytes, 2: SHA-256 of the service's root certificate (DER),
3: URL}``: whoever holds it knows which service to trust before the first byte is sent. The service keeps only the
SHA-256 of the secret.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps, fields, loads

TOKEN_PREFIX = "edge1."  # noqa: S105 - the public beginning of every token
ENROL = "application/x.hsc1-enrol+cbor"
ENROL_NAME = "EAP/1/enrol"
CERTIFICATES_NAME = "EAP/1/certificates"


@dataclass(frozen=True, slots=True)
class Token:
    """One permission to enrol. ``root`` is the SHA-256 of the root certificate's DER."""

    secret: bytes
    root: bytes
    url: str

    def text(self) -> str:
        """The form that people copy."""
        return TOKEN_PREFIX + base64.urlsafe_b64encode(dumps({1: self.secret, 2: self.root, 3: self.url})).decode().rstrip("=")


def parse_token(text: str) -> Token:
    """The token in its text; blanks and line breaks from copying are ignored.

    Raises:
        SealError: not a token.
    """
    text = "".join(text.split())
    if not text.startswith(TOKEN_PREFIX) or len(text) > 4096:
        raise SealError("token: does not begin with edge1.")
    body = text.removeprefix(TOKEN_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise SealError(f"token: cut or changed when it was copied ({error})") from error
    secret, root, url = fields(loads(data, "token"), "token", k1=bytes, k2=bytes, k3=str)
    if len(secret) != 16 or len(root) != 32 or not url.startswith("https://"):
        raise SealError("token: a part has a wrong length, or the URL is not https")
    return Token(secret, root, url)


@dataclass(frozen=True, slots=True)
class EnrolRequest:
    """What an agent asks for: ``csr`` (DER) for its TLS key, its identity key, the id that it gave itself, a name for people."""

    secret: bytes
    csr: bytes
    identity: dict[int, Any]
    agent_id: bytes
    name: str

    def payload(self) -> bytes:
        """The bytes that the identity key signs: proof that the agent holds it."""
        return dumps({1: ENROL_NAME, 2: self.secret, 3: self.csr, 4: self.identity, 5: self.agent_id, 6: self.name})


def sign_request(request: EnrolRequest, identity: cose.Signer) -> bytes:
    """The COSE that goes to ``POST /enroll``."""
    return cose.sign(identity, ENROL, request.payload())


def parse_request(data: bytes) -> EnrolRequest:
    """The request, checked to be signed by the identity key that it names.

    Raises:
        SealError: not a request, or the signature does not hold.
    """
    signed = cose.parse(data)
    name, secret, csr, identity, agent_id, label = fields(
        loads(signed.payload, "enrolment"), "enrolment", k1=str, k2=bytes, k3=bytes, k4=dict, k5=bytes, k6=str
    )
    if name != ENROL_NAME or len(agent_id) != 16 or len(label) > 100 or not label.isprintable():
        raise SealError("enrolment: another message, or a name or id of a wrong form")
    signed.check(cose.from_cose_key(identity), ENROL)
    return EnrolRequest(secret, csr, identity, agent_id, label)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What an enrolled agent gets (all DER): TLS client, identity, receipt certificate, root; and what it may write to."""

    tls: bytes
    identity: bytes
    receipts: bytes
    root: bytes
    agent_id: bytes
    service: str
    projects: tuple[str, ...]

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        return dumps(
            {
                1: CERTIFICATES_NAME, 2: self.tls, 3: self.identity, 4: self.receipts, 5: self.root, 6: self.agent_id,
                7: self.service, 8: list(self.projects),
            }
        )  # fmt: skip


def parse_certificates(data: bytes) -> Certificates:
    """The answer of ``POST /enroll`` and ``POST /renew``; who issued them is *not yet* checked.

    Raises:
        SealError: another message.
    """
    name, tls, identity, receipts, root, agent_id, service, projects = fields(
        loads(data, "certificates"), "certificates", k1=str, k2=bytes, k3=bytes, k4=bytes, k5=bytes, k6=bytes, k7=str, k8=list
    )
    if name != CERTIFICATES_NAME or len(agent_id) != 16 or not all(isinstance(p, str) for p in projects):
        raise SealError("certificates: another message")
    return Certificates(tls, identity, receipts, root, agent_id, service, tuple(projects))
