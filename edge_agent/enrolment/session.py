"""Session keys: made in memory, lent the identity's word by a session record, never written down."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.enrolment.identity import Identity
from edge_agent.seal import cose
from edge_agent.seal.keys import KeyChain, SessionRecord

LIFE_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Session:
    """A signing key and the chain that a verifier needs for it."""

    signer: Ed25519PrivateKey = field(repr=False)
    chain: KeyChain
    record: SessionRecord


def new_session(identity: Identity, boot_id: bytes, now_ns: int, life_ns: int = LIFE_NS) -> Session:
    """Make a session key.

    Args:
        identity: whose word it gets; its certificate goes into the chain.
        boot_id: 16 bytes, of this boot.
        now_ns: UTC ns.
        life_ns: ns that the key is used.
    """
    signer = Ed25519PrivateKey.generate()
    record = SessionRecord(identity.agent_id, signer.public_key(), boot_id, now_ns, now_ns + life_ns)
    signed = cose.sign(identity.key, cose.SESSION, record.payload())
    return Session(signer, KeyChain((identity.certificate,), (signed,)), record)
