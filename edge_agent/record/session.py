"""The session key: made at boot, kept in memory only, certified by the identity key; signs every head of this boot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.seal import cose
from edge_agent.seal.keys import KeyChain, SessionRecord

LIFETIME_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Session:
    """What signs: ``key`` never leaves the process; ``chain`` is what a stranger needs to check it."""

    agent_id: bytes
    boot_id: bytes
    key: Ed25519PrivateKey
    chain: KeyChain


def new_session(agent_id: bytes, identity: cose.Signer, certificates: Sequence[bytes], now_ns: int) -> Session:
    """Make a session key and have the identity key certify it.

    Args:
        agent_id: 16 bytes, given at enrolment.
        identity: the identity key; used once.
        certificates: DER, the identity certificate first.
        now_ns: UTC ns.
    """
    key = Ed25519PrivateKey.generate()
    boot_id = os.urandom(16)
    record = SessionRecord(agent_id, key.public_key(), boot_id, now_ns, now_ns + LIFETIME_NS)
    chain = KeyChain(tuple(certificates), (cose.sign(identity, cose.SESSION, record.payload()),))
    return Session(agent_id, boot_id, key, chain)
