"""KEY_COMPROMISED of a landing service: that it shut an agent out because its identity key may be in other hands.

A COSE_Sign1 of the service's receipt key, outside HSC/1. It says how far each log of the agent was countersigned before: what a log
holds up to there was seen while the key was trusted, and nothing behind it is ever countersigned. By position, as everywhere; the time
is for people.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.seal.cbor import SealError, dumps, fields, is_one_of, loads, octets

NAME = "EAP/1/key-compromised"
COMPROMISED = "application/x.hsc1-key-compromised+cbor"


@dataclass(frozen=True, slots=True)
class SeenLog:
    """A log of the agent was countersigned up to ``size`` leaves with this root."""

    log_id: bytes
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Compromised:
    """The identity key with this RFC 9679 thumbprint, of this agent, is not trusted behind ``logs``; said at ``t_ns`` (UTC)."""

    agent_id: bytes
    identity: bytes
    logs: tuple[SeenLog, ...]
    t_ns: int

    def payload(self) -> bytes:
        """The bytes that are signed: deterministic CBOR."""
        return dumps({1: NAME, 2: self.agent_id, 3: self.identity, 4: [[s.log_id, s.size, s.root] for s in self.logs], 5: self.t_ns})


def parse_compromised(payload: bytes) -> Compromised:
    """The statement in a payload.

    Raises:
        SealError: another statement.
    """
    name, agent_id, identity, logs, t_ns = fields(
        loads(payload, "KEY_COMPROMISED"), "KEY_COMPROMISED", k1=str, k2=16, k3=32, k4=list, k5=int
    )
    if name != NAME:
        raise SealError("KEY_COMPROMISED: another statement")
    if not all(is_one_of(log, list) and len(log) == 3 and is_one_of(log[1], int) for log in logs):
        raise SealError("KEY_COMPROMISED: not a list of logs")
    seen = tuple(SeenLog(octets(log_id, 16), size, octets(root, 32)) for log_id, size, root in logs)
    return Compromised(agent_id, identity, seen, t_ns)
