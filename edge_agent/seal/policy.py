"""The policy digest: binds the label of a run into OPEN, CLOSE and the run statement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from edge_agent.seal.cbor import dumps


def policy_digest(access: str, allowed: Iterable[str]) -> bytes:
    """``SHA-256(CBOR {1: access, 2: [allowed targets, sorted]})``, 32 bytes."""
    return hashlib.sha256(dumps({1: access, 2: sorted(allowed)})).digest()
