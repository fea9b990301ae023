"""Keys: the identity certificate, the session record that it signs, and the chain from a session's keys to the facility's root.

Certificates are checked for who issued them, not for today's date: a key is valid by its position in the agent log
(docs/signed-chunks.md, Keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_agent.seal import cose
from edge_agent.seal.algorithm import IdentityKey, MlDsaKey, PublicKey
from edge_agent.seal.cbor import SealError, dumps, fields, loads

SESSION_NAME = "HSC/1/session"
AGENT_URN = "urn:hsc:agent:"
RECEIPTS_URN = "urn:hsc:receipts"


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """The statement by which the identity key lends its word to a session's keys. Times are UTC ns.

    ``keys``: Ed25519 or P-256 first, which signs alone where one signature is enough, then ML-DSA-65 if the session has it. An anchor
    head or a run statement must carry a signature of each.
    """

    agent_id: bytes
    keys: tuple[PublicKey, ...]
    boot_id: bytes
    t_from: int
    t_to: int

    @property
    def key(self) -> PublicKey:
        """The key that signs alone."""
        return self.keys[0]

    @property
    def by_kid(self) -> dict[bytes, PublicKey]:
        """All keys by their kid, in the order of the record."""
        return {cose.thumbprint(key): key for key in self.keys}

    def payload(self) -> bytes:
        """The bytes that the identity key signs."""
        keys = [cose.cose_key(key) for key in self.keys]
        return dumps({1: SESSION_NAME, 2: self.agent_id, 3: keys, 4: self.boot_id, 5: self.t_from, 6: self.t_to})


def parse_session(payload: bytes) -> SessionRecord:
    """The record in a payload.

    Raises:
        SealError: not a session record.
    """
    name, agent, values, boot, t_from, t_to = fields(
        loads(payload, "session record"), "session record", k1=str, k2=bytes, k3=list, k4=bytes, k5=int, k6=int
    )
    if name != SESSION_NAME:
        raise SealError("session record: another statement")
    keys = tuple(cose.from_cose_key(value) for value in values)
    if [isinstance(key, MlDsaKey) for key in keys] not in ([False], [False, True]):
        raise SealError("session record: the keys are not Ed25519 or P-256, then perhaps ML-DSA-65")
    return SessionRecord(agent, keys, boot, t_from, t_to)


@dataclass(frozen=True, slots=True)
class KeyChain:
    """Certificates (DER) and session records (COSE) that a file carries so that it can be checked alone."""

    certificates: tuple[bytes, ...]
    sessions: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        return dumps(self.value())

    def value(self) -> dict[int, Any]:
        """The map of the page."""
        return {1: list(self.certificates), 2: list(self.sessions)}


def key_chain(value: Any) -> KeyChain:
    """The chain in a decoded map.

    Raises:
        SealError: not a key chain.
    """
    certificates, sessions = fields(value, "key chain", k1=list, k2=list)
    if not all(isinstance(part, bytes) for part in (*certificates, *sessions)):
        raise SealError("key chain: parts that are not byte strings")
    return KeyChain(tuple(certificates), tuple(sessions))


def parse_key_chain(data: bytes) -> KeyChain:
    """The chain in its CBOR."""
    return key_chain(loads(data, "key chain"))


def load_certificate(der: bytes) -> x509.Certificate:
    """Parse a DER certificate.

    Raises:
        SealError: not one.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise SealError(f"certificate: {error}") from error


def urns(certificate: x509.Certificate) -> list[str]:
    """The URI names of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether ``root`` is a CA that signed ``certificate``, or is that certificate itself (an agent that was never enrolled)."""
    try:
        certificate.verify_directly_issued_by(root)
        authority = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return authority or certificate == root


def signing_key(certificate: x509.Certificate) -> IdentityKey:
    """The Ed25519 or P-256 key of a certificate.

    Raises:
        SealError: another kind of key.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SealError(f"certificate: {error}") from error
    if isinstance(key, Ed25519PublicKey) or (isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
        return key
    raise SealError("certificate: the key is neither Ed25519 nor P-256")


@dataclass(frozen=True, slots=True)
class Trusted:
    """Session records of a chain by the kid of each of their keys.

    ``rooted`` says that the identity leads to the given root, ``identity`` is its kid.
    """

    agent_id: bytes
    sessions: dict[bytes, SessionRecord]
    identity: bytes
    rooted: bool


def check_chain(chain: KeyChain, root: x509.Certificate | None) -> Trusted:
    """Follow session records to an identity certificate, and that to the root when one is given.

    Raises:
        SealError: no identity certificate, a record that it did not sign, records of several agents.
    """
    certificates = [load_certificate(der) for der in chain.certificates]
    identities = [(c, name) for c in certificates for name in urns(c) if name.startswith(AGENT_URN)]
    if not identities:
        raise SealError("key chain: no identity certificate")
    by_kid = {cose.thumbprint(signing_key(c)): (c, bytes.fromhex(_hex(name))) for c, name in identities}
    sessions: dict[bytes, SessionRecord] = {}
    used: set[bytes] = set()
    agent_ids: set[bytes] = set()
    for data in chain.sessions:
        signed = cose.parse(data)
        if signed.kid not in by_kid:
            raise SealError("key chain: a session record is signed by an identity that is not in the chain")
        certificate, agent_id = by_kid[signed.kid]
        record = parse_session(signed.check(signing_key(certificate), cose.SESSION))
        if record.agent_id != agent_id:
            raise SealError("key chain: a session record names another agent than its certificate")
        sessions |= dict.fromkeys(record.by_kid, record)
        used.add(signed.kid)
        agent_ids.add(agent_id)
    if len(agent_ids) != 1:
        raise SealError("key chain: session records of no agent or of several")
    rooted = root is not None and all(issued_by(by_kid[kid][0], root) for kid in used)
    return Trusted(agent_ids.pop(), sessions, min(used), rooted)


@dataclass(frozen=True, slots=True)
class Word:
    """A statement of a session: ``missing`` names the algorithms of its record whose signature is not there, which is a downgrade."""

    payload: bytes
    record: SessionRecord
    missing: tuple[str, ...]


def session_word(data: bytes, trusted: Trusted, content_type: str) -> Word:
    """What a COSE_Sign says, after every signature in it was checked against one session record of the chain.

    Raises:
        SealError: a key that is not in the chain, or a signature that does not hold.
    """
    signed = cose.parse_all(data)
    record = trusted.sessions.get(signed.signatures[0].kid)
    if record is None:
        raise SealError("signed by a key that is not in the key chain")
    return Word(signed.payload, record, signed.check(record.by_kid, content_type))


def receipt_key(certificates: Sequence[bytes], kid: bytes, root: x509.Certificate) -> PublicKey | None:
    """The receipt key with that kid among ``certificates``, if the root issued its certificate; else None."""
    for der in certificates:
        certificate = load_certificate(der)
        if RECEIPTS_URN not in urns(certificate) or not issued_by(certificate, root):
            continue
        key = signing_key(certificate)
        if cose.thumbprint(key) == kid:
            return key
    return None


def _hex(urn: str) -> str:
    digits = urn.removeprefix(AGENT_URN)
    if len(digits) != 32 or any(c not in "0123456789abcdef" for c in digits):
        raise SealError(f"identity certificate: {urn!r} does not name an agent")
    return digits
