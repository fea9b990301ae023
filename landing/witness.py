"""Countersigning heads of agent logs (docs/signed-chunks.md, Receipts; RFC 9162 section 2.1.4).

Invariants: an agent has one log; for it the sizes that were countersigned only grow, and each tree is a prefix of the
next; that memory is durable before the answer leaves, and the heads of an agent are looked at one by one, on however many
servers. The same head gets the same answer again. A log is replaced by another one only after its owner approved it
(``python -m landing approve-restart``), once each time, and the old one is never countersigned again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cryptography import x509

from edge_agent.model import utc_now_ns
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.head import Head, head_hash, parse_head
from edge_agent.seal.keys import Trusted, check_chain, parse_key_chain, session_word
from edge_agent.seal.receipt import Witness
from edge_agent.seal.tree import check_consistency
from edge_agent.wire.refusal import Code, Refused
from edge_agent.wire.talk import WitnessAsk
from landing.catalogue import Catalogue, SeenHead
from landing.revoke import check_not_revoked

_LOG = logging.getLogger(__name__)


def checked_payload(data: bytes, chain: bytes, content_type: str, agent_id: bytes, root: x509.Certificate) -> bytes:
    """The payload of a COSE that a session of this agent signed, its chain leading to our root; a head needs every key of the session.

    Raises:
        Refused: SIGNATURE or WRONG_AGENT.
    """
    try:
        trusted = check_chain(parse_key_chain(chain), root)
        if not trusted.rooted:
            raise SealError("the identity certificate was not issued by this service")
        payload = _whole_word(data, trusted) if content_type == cose.HEAD else _one_word(data, trusted, content_type)
    except SealError as error:
        raise Refused(
            Code.SIGNATURE, "The signature is not one of an enrolled agent", why=str(error), try_="enrol the agent here"
        ) from error
    if trusted.agent_id != agent_id:
        why = f"signed by agent {trusted.agent_id.hex()}, sent by {agent_id.hex()}"
        raise Refused(Code.WRONG_AGENT, "An agent may only speak for itself", why=why)
    return payload


def _whole_word(head: bytes, trusted: Trusted) -> bytes:
    word = session_word(head, trusted, cose.HEAD)
    if word.missing:
        raise SealError(f"the head has no {' and no '.join(word.missing)} signature that holds, and its session record promises one")
    return word.payload


def _one_word(data: bytes, trusted: Trusted, content_type: str) -> bytes:
    signed = cose.parse(data)
    if signed.kid not in trusted.sessions:
        raise SealError("signed by a key that has no session record in the chain")
    return signed.check(trusted.sessions[signed.kid].key, content_type)


class WitnessBook:
    """Remembers what was countersigned, and countersigns what continues it."""

    def __init__(self, catalogue: Catalogue, signer: cose.Signer, root: x509.Certificate, clock: Callable[[], int] = utc_now_ns) -> None:
        self._catalogue = catalogue
        self._signer = signer
        self._root = root
        self._clock = clock

    def last(self, agent_id: bytes, log_id: bytes) -> bytes | None:
        """The WITNESS (COSE) of the largest head of a log."""
        seen = self._catalogue.last_head(agent_id, log_id)
        return None if seen is None else seen.witness

    def countersign(self, agent_id: bytes, ask: WitnessAsk) -> bytes:
        """The WITNESS (COSE) of a head; blocks on the disk.

        Raises:
            Refused: SIGNATURE, WRONG_AGENT, REVOKED; LOG_SIZE with the size to prove from; FORK, which is logged as an alarm.
        """
        payload = checked_payload(ask.head, ask.chain, cose.HEAD, agent_id, self._root)
        try:
            head = parse_head(payload)
        except SealError as error:
            raise Refused(Code.BAD_REQUEST, "This is no head", why=str(error)) from error
        if head.agent_id != agent_id:
            raise Refused(Code.WRONG_AGENT, "An agent may only speak for itself", why=f"the head names agent {head.agent_id.hex()}")
        name = head_hash(payload)
        with self._catalogue.alone(b"witness " + agent_id, wait=True):
            check_not_revoked(self._catalogue.agent(agent_id))
            known = self._catalogue.head(agent_id, head.tree_id, name)
            if known is not None:
                return known.witness
            new = self._check_log(head)
            self._check(head, ask, self._catalogue.last_head(agent_id, head.tree_id))
            if new:
                self._catalogue.use_restart(agent_id, head.tree_id)
                _LOG.warning("agent %s goes on in the new log %s, as approved", agent_id.hex(), head.tree_id.hex())
            witness = Witness(agent_id, head.tree_id, head.size, head.root, name, self._clock())
            signed = cose.sign(self._signer, cose.WITNESS, witness.payload())
            self._catalogue.add_head(agent_id, head.tree_id, SeenHead(head.size, head.root, name, signed))
        return signed

    def _check_log(self, head: Head) -> bool:
        """Whether the head's log is a new one that the owner approved.

        Raises:
            Refused: FORK, another log than the one that the agent has here; LOG_RESTART when a new one is approved and this is none.
        """
        current = self._catalogue.current_log(head.agent_id)
        if current in (None, head.tree_id):
            return False
        if self._catalogue.last_head(head.agent_id, head.tree_id) is None and self._catalogue.restart_approved(head.agent_id):
            return True
        raise self._fork(head, f"another log than {current.hex() if current else ''}, which this service knows")

    def _check(self, head: Head, ask: WitnessAsk, last: SeenHead | None) -> None:
        size = 0 if last is None else last.size
        if head.size < size:
            raise self._fork(head, f"a head of {head.size} leaves after one of {size}")
        if ask.first != size:
            why = f"the proof begins at {ask.first}, this service saw {size}"
            raise Refused(Code.LOG_SIZE, "The proof begins at another size", why=why, try_=f"prove from {size}", have=size)
        if last is None:
            if ask.proof or head.size < 1:
                raise Refused(Code.BAD_REQUEST, "A first head has leaves, and no proof")
        elif not check_consistency(size, last.root, head.size, head.root, ask.proof):
            raise self._fork(head, f"the log of {head.size} leaves does not continue the one of {size}")

    def _fork(self, head: Head, why: str) -> Refused:
        if self._catalogue.restart_approved(head.agent_id):
            what = "This log cannot go on, and a new one is approved"
            return Refused(Code.LOG_RESTART, what, why=why, try_="the agent begins a new log by itself")
        _LOG.error("ALARM: agent %s shows two histories of log %s: %s", head.agent_id.hex(), head.tree_id.hex(), why)
        return Refused(
            Code.FORK, "This log shows two histories", why=why,
            try_=f"was its disk restored or lost? then its owner approves a new log: python -m landing approve-restart DIR "
            f"{head.agent_id.hex()}; if not, its key may be copied. Nothing was countersigned",
        )  # fmt: skip
