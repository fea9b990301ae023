"""Enrolling at a landing service with a one-time token, and renewing the TLS certificate later.

The root is taken from the service's unverified ``/health`` only to compare its SHA-256 with the one in the token; the
token's secret goes out only over a connection that this root verifies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge_agent.enrolment.identity import Enrolment, Identity, load_enrolment, open_identity, write_private
from edge_agent.errors import IntegrityError, PermissionRefused, TargetUnreachable, UsageError
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.keys import AGENT_URN, RECEIPTS_URN, issued_by, load_certificate, urns
from edge_agent.wire.enrol import Certificates, EnrolRequest, Token, parse_certificates, parse_token, sign_request
from edge_agent.wire.refusal import from_json
from edge_agent.wire.talk import MAX_CONTROL
from edge_agent.wire.tls import client_context, client_session, explain, read_body
from edge_agent.wire.words import six_words


def read_token(text: str) -> Token:
    """The token in its text.

    Raises:
        UsageError: not a token.
    """
    try:
        return parse_token(text)
    except SealError as error:
        raise UsageError("This is no enrolment token", why=str(error), try_="copy the whole line that `landing token` printed") from error


def token_words(token: Token) -> str:
    """The six words that the landing service printed beside the token."""
    return six_words(token.root)


async def enrol(folder: Path, token: Token, name: str) -> tuple[Identity, Enrolment]:
    """Enrol the agent whose identity is (or will be made) in ``folder``.

    Args:
        folder: the identity folder.
        token: what the landing service printed.
        name: of this agent, for people; at most 100 characters.

    Raises:
        TargetUnreachable: the service does not answer.
        PermissionRefused: the token is used, expired or unknown; another service answers than the token names.
        IntegrityError: the certificates that came back are not for us.
    """
    identity = open_identity(folder)
    root_pem = await _root(token)
    key, csr = _tls_key()
    request = EnrolRequest(token.secret, csr, cose.cose_key(identity.key.public_key()), identity.agent_id, name)
    body = await _post(token.url, client_context(root_pem), "/enroll", sign_request(request, identity.key))
    certificates = _checked(body, identity, key.public_key(), load_certificate(_der(root_pem)))
    return _keep(identity, key, certificates, token.url)


async def renew(folder: Path) -> tuple[Identity, Enrolment]:
    """Get a new TLS certificate with the one that still lives.

    Raises:
        UsageError: never enrolled.
        TargetUnreachable, PermissionRefused, IntegrityError: as `enrol`.
    """
    identity, enrolment = open_identity(folder), load_enrolment(folder)
    if enrolment is None:
        raise UsageError("This agent is not enrolled", try_="edge-agent enroll TOKEN")
    root_pem = enrolment.root.read_text()
    key, csr = _tls_key()
    body = await _post(enrolment.url, client_context(root_pem, enrolment.tls), "/renew", csr)
    certificates = _checked(body, identity, key.public_key(), load_certificate(_der(root_pem)))
    return _keep(identity, key, certificates, enrolment.url)


async def _root(token: Token) -> str:
    """PEM of the service's root, which is the one that the token names."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    try:
        async with client_session(unverified, token.url) as session, session.get("/health", allow_redirects=False) as reply:
            body = await read_body(reply, MAX_CONTROL)
            pem = _root_in(body)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise explain(error, token.url) from error
    der = b""
    with contextlib.suppress(ValueError):
        der = _der(pem)
    if hashlib.sha256(der).digest() != token.root:
        theirs = six_words(hashlib.sha256(der).digest()) if der else "no certificate"
        raise PermissionRefused(
            f"{token.url} is not the landing service of this token", why=f"the token names {token_words(token)!r}, there is {theirs!r}",
            try_="check the address; nothing secret was sent", code="ENROL_WRONG_SERVICE",
        )  # fmt: skip
    return pem


def _root_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["root"])
    except (ValueError, KeyError, TypeError):
        return ""


async def _post(url: str, context: ssl.SSLContext, path: str, body: bytes) -> bytes:
    try:
        async with client_session(context, url) as session, session.post(path, data=body, allow_redirects=False) as reply:
            answer = await read_body(reply, MAX_CONTROL)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise explain(error, url) from error
    if reply.status == 200:
        return answer
    refusal = from_json(answer.decode(errors="replace"))
    if refusal is None:
        raise TargetUnreachable(f"{url}: answered {reply.status}", why=answer[:200].decode(errors="replace"), code="LANDING_ANSWER")
    raise refusal.error(url)


def _tls_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge-agent")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, csr.public_bytes(Encoding.DER)


def _checked(body: bytes, identity: Identity, tls: ec.EllipticCurvePublicKey, root: x509.Certificate) -> Certificates:
    """The certificates, each issued by the root, for our keys and our id."""
    try:
        certificates = parse_certificates(body)
        if certificates.root != root.public_bytes(Encoding.DER):
            raise SealError("another root than the pinned one")
        ours = AGENT_URN + identity.agent_id.hex()
        wanted = (
            ("TLS", certificates.tls, ours, tls.public_numbers()),
            ("identity", certificates.identity, ours, identity.key.public_key()),
            ("receipt", certificates.receipts, RECEIPTS_URN, None),
        )
        for what, der, urn, key in wanted:
            certificate = load_certificate(der)
            public = certificate.public_key()
            found = public.public_numbers() if isinstance(public, ec.EllipticCurvePublicKey) else public
            if not issued_by(certificate, root) or urn not in urns(certificate) or (key is not None and found != key):
                raise SealError(f"the {what} certificate is not from the root, or not for us")
    except SealError as error:
        raise IntegrityError(
            "The landing service sent certificates that are not ours", why=str(error), try_="nothing was changed here; ask who runs it",
            code="ENROL_CERTIFICATES",
        ) from error  # fmt: skip
    return certificates


def _keep(identity: Identity, key: ec.EllipticCurvePrivateKey, got: Certificates, url: str) -> tuple[Identity, Enrolment]:
    folder = identity.folder
    enrolment = Enrolment(folder, url, got.service, got.projects)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    receipts = _pem(got.receipts)
    with contextlib.suppress(FileNotFoundError):
        known = (folder / "receipts.pem").read_bytes()
        receipts = known if receipts in known else known + receipts
    write_private(enrolment.root, _pem(got.root))
    write_private(enrolment.receipts, receipts)
    write_private(folder / "identity.pem", _pem(got.identity))
    write_private(enrolment.tls, private + _pem(got.tls))
    enrolment.save()
    return open_identity(folder), enrolment


def _pem(der: bytes) -> bytes:
    return load_certificate(der).public_bytes(Encoding.PEM)


def _der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
