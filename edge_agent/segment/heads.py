"""Checks the anchor heads that a tree carries: each signed by a session of the chain, each bound to the tree and to the one before.

Pure: bytes in, the close head out (docs/signed-chunks.md, Heads). A signature that the session record promises and a head lacks is no
error but a downgrade: it is told, and the level is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.head import Head, State, head_hash, parse_head
from edge_agent.seal.keys import SessionRecord, Trusted, session_word
from edge_agent.seal.tree import Frontier, leaf_hash, root_of


@dataclass(frozen=True, slots=True)
class Checked:
    """A head whose signatures hold, and the hash of its payload; ``downgrade`` says which signature is missing, empty when none is."""

    head: Head
    hash: bytes
    downgrade: str
    session: SessionRecord
    cose: bytes = b""


def downgraded(what: str, missing: Sequence[str]) -> str:
    """The sentence for signatures that a session record promises and a statement lacks; empty when there are none."""
    return f"{what} has no {' and no '.join(missing)} signature that holds, and its session record promises one" if missing else ""


def signed_head(data: bytes, trusted: Trusted, what: str = "the close head") -> Checked:
    """The head in a COSE_Sign, if a session of the chain signed it for its agent.

    Raises:
        SealError: it did not.
    """
    word = session_word(data, trusted, cose.HEAD)
    head = parse_head(word.payload)
    if head.agent_id != trusted.agent_id:
        raise SealError("names another agent than its key chain")
    if head.boot_id != word.record.boot_id:
        raise SealError("names another boot than its session key")
    return Checked(head, head_hash(word.payload), downgraded(what, word.missing), word.record, data)


def check_heads(heads: Sequence[bytes], trusted: Trusted, tree_id: bytes, payloads: Sequence[bytes]) -> Checked:
    """The close head, after every anchor head was checked against the tree at its size.

    Args:
        heads: COSE of the anchor heads, oldest first, the close head last.
        trusted: the checked key chain.
        tree_id: segment id that every head must name.
        payloads: all leaf payloads.

    Raises:
        SealError: the first head that does not fit, by its number.
    """
    frontier = Frontier()
    previous: Checked | None = None
    downgrade = ""
    for number, data in enumerate(heads):
        last = number == len(heads) - 1
        try:
            checked = signed_head(data, trusted, f"head {number}")
            head = checked.head
            _check(head, previous, tree_id, len(payloads), last=last)
            if previous is not None and checked.session != previous.session and head.state is not State.RECOVERED:
                raise SealError("of another session than the one before it, and nobody recovered the segment")
            while frontier.size < head.size:
                frontier.append(payloads[frontier.size])
            if frontier.root() != head.root:
                raise SealError(f"the first {head.size} leaves are not those that were signed")
        except SealError as error:
            raise SealError(f"head {number}: {error}") from error
        previous, downgrade = checked, downgrade or checked.downgrade
    if previous is None:
        raise SealError("heads: there is none")
    return replace(previous, downgrade=downgrade)


def check_close_head(data: bytes, trusted: Trusted, tree_id: bytes, payloads: Sequence[bytes]) -> Checked:
    """That a close head stands for these leaves, where the anchors before it are not kept (series of vendor files).

    Raises:
        SealError: it does not.
    """
    checked = signed_head(data, trusted)
    head = checked.head
    if head.tree_id != tree_id:
        raise SealError("close head: of another tree")
    _check_last(head, len(payloads))
    if root_of([leaf_hash(payload) for payload in payloads]) != head.root:
        raise SealError("close head: the leaves are not those that were signed")
    return checked


def _check(head: Head, previous: Checked | None, tree_id: bytes, leaves: int, *, last: bool) -> None:
    before, before_hash = (None, None) if previous is None else (previous.head, previous.hash)
    if head.tree_id != tree_id:
        raise SealError("of another tree")
    if head.previous != before_hash:
        raise SealError("does not follow the one before it")
    if before is not None and (head.head_seq <= before.head_seq or head.size < before.size):
        raise SealError("older than the one before it")
    if not 0 <= head.size <= leaves:
        raise SealError(f"over {head.size} leaves, and {leaves} are there")
    if last:
        _check_last(head, leaves)
    elif head.state is not State.OPEN:
        raise SealError("a close head that is not the last one")


def _check_last(head: Head, leaves: int) -> None:
    if head.state is State.OPEN or head.size != leaves:
        raise SealError("the last one, and no close head over all leaves")
    if head.state is State.DAMAGED:
        raise SealError("the agent itself declared this tree damaged")
