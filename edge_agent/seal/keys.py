"""Keys: the identity certificate, the session record that it signs, and the chain from a session's keys to the facility's root.

Certificates are checked for who issued them, not for today's date: a key is valid by its position in the agent log. A key chain is exactly
ordered and holds nothing that it does not need (docs/signed-chunks.md, Keys): what nobody has to look at, nobody can hide something in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
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
        loads(payload, "session record"), "session record", k1=str, k2=16, k3=list, k4=16, k5=int, k6=int
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


def joined(chains: Iterable[KeyChain]) -> KeyChain:
    """One chain of several valid ones, in the order that `check_chain` asks for.

    Raises:
        SealError: a certificate that cannot be read.
    """
    sessions: dict[bytes, None] = {}
    groups: dict[bytes, dict[bytes, tuple[bytes, ...]]] = {}
    for chain in chains:
        sessions |= dict.fromkeys(chain.sessions)
        for identity in _identities(chain.certificates):
            groups.setdefault(identity.kid, {}).setdefault(identity.parts[0], identity.parts)
    signers = dict.fromkeys(cose.parse(record).kid for record in sessions)
    parts = (parts for kid in signers for parts in groups.get(kid, {}).values())
    return KeyChain(tuple(der for part in parts for der in part), tuple(sessions))


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
    identities = _identities(chain.certificates)
    if not identities:
        raise SealError("key chain: no identity certificate")
    if len({identity.agent_id for identity in identities}) > 1:
        raise SealError("key chain: identity certificates of several agents")
    by_kid = {identity.kid: identity for identity in identities}
    sessions: dict[bytes, SessionRecord] = {}
    signers: dict[bytes, None] = {}
    for data in chain.sessions:
        signed = cose.parse(data)
        if signed.kid not in by_kid:
            raise SealError("key chain: a session record is signed by an identity that is not in the chain")
        identity = by_kid[signed.kid]
        record = parse_session(signed.check(identity.key, cose.SESSION))
        if record.agent_id != identity.agent_id:
            raise SealError("key chain: a session record names another agent than its certificate")
        sessions |= dict.fromkeys(record.by_kid, record)
        signers[signed.kid] = None
    if [kid for kid, _ in groupby(identity.kid for identity in identities)] != list(signers):
        raise SealError("key chain: identities that signed no session record, or not in the order of what they signed")
    known = {identity.kid for identity in identities if root is not None and issued_by(identity.certificate, root)}
    return Trusted(identities[0].agent_id, sessions, min(signers), known == set(signers))


@dataclass(frozen=True, slots=True)
class _Identity:
    """An identity certificate; ``parts`` are it and the certificate of the CA behind it, if that is there (DER)."""

    certificate: x509.Certificate
    key: IdentityKey
    kid: bytes
    agent_id: bytes
    parts: tuple[bytes, ...]


def _identities(certificates: Sequence[bytes]) -> list[_Identity]:
    """The identity certificates, each perhaps with its CA behind it.

    Raises:
        SealError: another certificate, or one twice.
    """
    found: list[_Identity] = []
    for der in certificates:
        certificate = load_certificate(der)
        names = [name for name in urns(certificate) if name.startswith(AGENT_URN)]
        if not names:
            above = found[-1] if found else None
            if above is None or len(above.parts) > 1 or not issued_by(above.certificate, certificate):
                raise SealError("key chain: a certificate that is no identity and certifies none before it")
            found[-1] = replace(above, parts=(*above.parts, der))
            continue
        if len(names) > 1 or any(der == identity.parts[0] for identity in found):
            raise SealError("key chain: an identity certificate twice, or with several names")
        key = signing_key(certificate)
        found.append(_Identity(certificate, key, cose.thumbprint(key), bytes.fromhex(_hex(names[0])), (der,)))
    return found


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


def check_receipt_certificates(certificates: Sequence[bytes]) -> None:
    """That each is a certificate of a receipt key; whose, only a root can say.

    Raises:
        SealError: one is not.
    """
    for der in certificates:
        certificate = load_certificate(der)
        if urns(certificate).count(RECEIPTS_URN) != 1:
            raise SealError("receipts: a certificate that is not for receipts")
        signing_key(certificate)


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
