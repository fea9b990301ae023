"""Shutting an agent out whose identity may be stolen, for good.

Invariants: from the moment that `revoke` returns, no server over this catalogue answers the agent, renews its certificate, enrols its key
again, stores for it or countersigns its log; what was stored and countersigned before stays. The signed statement says how far that went.
"""

from __future__ import annotations

from edge_agent.seal import cose
from edge_agent.seal.algorithm import from_raw
from edge_agent.wire.refusal import Code, Refused
from edge_agent.wire.revocation import COMPROMISED, Compromised, SeenLog
from landing.catalogue import Agent, Catalogue, Revocation


def revoke(catalogue: Catalogue, signer: cose.Signer, agent: Agent, reason: str, t_ns: int) -> Revocation:
    """Shut an agent out; the second time nothing changes.

    Returns:
        What stands in the catalogue.
    """
    # Nobody countersigns a head of this agent between the look at its logs and the word.
    with catalogue.alone(b"witness " + agent.agent_id, wait=True):
        logs = tuple(SeenLog(log_id, seen.size, seen.root) for log_id, seen in catalogue.last_heads(agent.agent_id))
        said = Compromised(agent.agent_id, cose.thumbprint(from_raw(agent.identity)), logs, t_ns)
        signed = cose.sign(signer, COMPROMISED, said.payload())
        return catalogue.revoke(Revocation(agent.agent_id, reason, t_ns, signed))


def check_not_revoked(agent: Agent | None) -> None:
    """Let everybody pass who was not shut out.

    Raises:
        Refused: REVOKED.
    """
    if agent is not None and agent.revoked:
        raise shut_out()


def shut_out() -> Refused:
    """The refusal of an agent, or of a key, that was shut out."""
    return Refused(
        Code.REVOKED, "This agent was shut out", why="its identity key may be in other hands",
        try_="ask the operator of the landing service; to go on, enrol as a new agent: remove the folder of keys first",
    )  # fmt: skip
