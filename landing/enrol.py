"""Enrolment: a one-time token for one agent's certificates; renewal while the old TLS certificate still lives.

Invariants: a token is used once, within its time, and only its SHA-256 is stored; the request is signed by the
identity key that is certified; an agent id that belongs to one identity key is never given to another.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.model import utc_now_ns
from edge_agent.seal import cose
from edge_agent.seal.algorithm import IdentityKey, from_raw, identity_key
from edge_agent.seal.cbor import SealError
from edge_agent.wire.enrol import Certificates, EnrolRequest, Token, parse_request
from edge_agent.wire.names import check_project
from edge_agent.wire.refusal import Code, Refused
from edge_agent.wire.words import six_words
from landing.authority import Authority
from landing.catalogue import Agent, Catalogue
from landing.revoke import check_not_revoked, shut_out

TOKEN_LIFE_NS = 15 * 60 * 10**9
_LOG = logging.getLogger(__name__)


def issue_token(
    catalogue: Catalogue, root_der: bytes, url: str, projects: Sequence[str], now_ns: int, life_ns: int = TOKEN_LIFE_NS
) -> Token:
    """Make a token that lets one agent enrol for some projects.

    Raises:
        BadName: a project's name is not one.
    """
    token = Token(secrets.token_bytes(16), hashlib.sha256(root_der).digest(), url)
    catalogue.add_token(hashlib.sha256(token.secret).digest(), tuple(check_project(p) for p in projects), now_ns + life_ns)
    return token


class Registrar:
    """Hands out certificates."""

    def __init__(
        self, authority: Authority, catalogue: Catalogue, service: str, receipts_der: bytes, clock: Callable[[], int] = utc_now_ns
    ) -> None:
        self._authority = authority
        self._catalogue = catalogue
        self._service = service
        self._receipts = receipts_der
        self._clock = clock

    def enrol(self, data: bytes) -> Certificates:
        """Answer a signed request; the token is used up only when this succeeds.

        Raises:
            Refused: TOKEN, AGENT_TAKEN, REVOKED, SIGNATURE.
        """
        try:
            request = parse_request(data)
            identity = identity_key(request.identity)
        except SealError as error:
            raise Refused(Code.SIGNATURE, "The enrolment request does not hold", why=str(error)) from error
        secret = hashlib.sha256(request.secret).digest()
        projects = self._projects(secret)
        public = cose.raw_public(identity)
        known = self._catalogue.agent(request.agent_id)
        check_not_revoked(known)
        if self._catalogue.key_is_revoked(public):
            raise shut_out()
        if known is not None and known.identity != public:
            why = f"agent {request.agent_id.hex()} has another identity key"
            raise Refused(
                Code.AGENT_TAKEN, "This agent id is taken", why=why, try_="enrol under a new identity: remove the identity folder"
            )
        certificates = self._certificates(request.csr, identity, request.agent_id, projects | (known.projects if known else frozenset()))
        if not self._catalogue.enrol(secret, Agent(request.agent_id, public, request.name, projects), self._clock()):
            raise _used()
        self._tell(request, public, projects)
        return certificates

    def renew(self, agent_id: bytes, csr: bytes) -> Certificates:
        """A new TLS certificate for an agent that came with its old one.

        Raises:
            Refused: UNKNOWN_AGENT, REVOKED, BAD_REQUEST.
        """
        agent = self._catalogue.agent(agent_id)
        if agent is None:
            raise Refused(Code.UNKNOWN_AGENT, "This agent is not enrolled here", try_="enrol it with a new token")
        check_not_revoked(agent)
        return self._certificates(csr, from_raw(agent.identity), agent_id, agent.projects)

    def _projects(self, secret: bytes) -> frozenset[str]:
        token = self._catalogue.token(secret)
        if token is None:
            raise Refused(
                Code.TOKEN, "This token is not known", why="it was not made here, or was changed when it was copied", try_=_NEW_TOKEN
            )
        if token.used_by is not None:
            raise _used()
        if token.t_until < self._clock():
            raise Refused(Code.TOKEN, "This token has expired", why="a token lives 15 minutes", try_=_NEW_TOKEN)
        return frozenset(token.projects)

    def _certificates(self, csr: bytes, identity: IdentityKey, agent_id: bytes, projects: frozenset[str]) -> Certificates:
        try:
            request = x509.load_der_x509_csr(csr)
            key = request.public_key()
        except (ValueError, TypeError) as error:
            raise Refused(Code.BAD_REQUEST, "The TLS certificate request cannot be read", why=str(error)) from error
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise Refused(Code.BAD_REQUEST, "The TLS certificate request does not hold", why="wants a P-256 key and its own signature")
        tls = self._authority.client(key, agent_id).public_bytes(Encoding.DER)
        certified = self._authority.identity(identity, agent_id).public_bytes(Encoding.DER)
        return Certificates(tls, certified, self._receipts, self._authority.root_der, agent_id, self._service, tuple(sorted(projects)))

    def _tell(self, request: EnrolRequest, public: bytes, projects: frozenset[str]) -> None:
        words = six_words(hashlib.sha256(public).digest())
        _LOG.info("enrolled %r as agent %s for %s; its key: %s", request.name, request.agent_id.hex(), ", ".join(sorted(projects)), words)


_NEW_TOKEN = "make a new one: python -m landing token DIR --project P"  # noqa: S105 - a command, not a secret


def _used() -> Refused:
    return Refused(Code.TOKEN, "This token was used already", why="a token enrols one agent", try_=_NEW_TOKEN)
