"""The session: keys made at boot and each day, kept in memory only, certified together by the identity key.

The first key (Ed25519) signs every head; ML-DSA-65 signs the anchor heads and the run statements beside it. Where this build of
``cryptography`` has no ML-DSA the session record names Ed25519 only, so nothing is promised that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.seal import cose
from edge_agent.seal.algorithm import new_ml_dsa
from edge_agent.seal.keys import KeyChain, SessionRecord

LIFETIME_NS = 24 * 3600 * 10**9


@dataclass(slots=True)
class Newest:
    """SHA-256 of the newest WITNESS receipt that the agent holds durably; shared by the sessions of a process, set by who witnesses."""

    receipt: bytes | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """What signs: ``keys`` never leave the process; ``chain`` is what a stranger needs to check them."""

    agent_id: bytes
    boot_id: bytes
    keys: tuple[cose.Signer, ...] = field(repr=False)
    record: SessionRecord
    chain: KeyChain
    newest: Newest = field(default_factory=Newest, compare=False)

    @property
    def key(self) -> cose.Signer:
        """The key that signs where one signature is enough."""
        return self.keys[0]

    @property
    def kids(self) -> tuple[bytes, ...]:
        """The kid of each key."""
        return tuple(self.record.by_kid)

    @property
    def record_cose(self) -> bytes:
        """The session record as the identity key signed it."""
        return self.chain.sessions[0]


def new_session(
    agent_id: bytes, identity: cose.Signer, certificates: Sequence[bytes], now_ns: int, boot_id: bytes | None = None
) -> Session:
    """Make session keys and have the identity key certify them.

    Args:
        agent_id: 16 bytes, given at enrolment.
        identity: the identity key; used once.
        certificates: DER, the identity certificate first.
        now_ns: UTC ns.
        boot_id: of this process, when it had a session before.
    """
    post_quantum = new_ml_dsa()
    keys: tuple[cose.Signer, ...] = (Ed25519PrivateKey.generate(), *(() if post_quantum is None else (post_quantum,)))
    boot = os.urandom(16) if boot_id is None else boot_id
    record = SessionRecord(agent_id, tuple(key.public_key() for key in keys), boot, now_ns, now_ns + LIFETIME_NS)
    chain = KeyChain(tuple(certificates), (cose.sign(identity, cose.SESSION, record.payload()),))
    return Session(agent_id, boot, keys, record, chain)
