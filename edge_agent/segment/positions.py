"""Whether each segment of a run was closed by keys that were valid at its place in the agent log (docs/signed-chunks.md, Keys).

A key is valid from its KEY_ADD leaf on until its KEY_RETIRE or KEY_COMPROMISED leaf, by position and not by time. Only what the receipts
prove is judged; a key leaf that is not there says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.seal import cose, leaf
from edge_agent.seal.log_leaf import KeyAdd, KeyCompromised, KeyRetire
from edge_agent.seal.receipt import Inclusion
from edge_agent.segment.statement import Stated


def misplaced(inclusions: Sequence[Inclusion], stated: Stated) -> str:
    """What is wrong with the place of a segment in the log, empty when nothing is.

    Args:
        inclusions: checked proofs of leaves in witnessed logs.
        stated: the checked sidecar.
    """
    parsed = [(proof, leaf.parse(proof.payload)) for proof in inclusions]
    for entry in stated.statement.segments:
        kids = {signature.kid for signature in cose.parse_all(stated.heads[entry.head]).signatures}
        for closing, closed in parsed:
            # Whatever run and ordinal it names: the head is what the keys signed.
            if not isinstance(closed, leaf.SegmentClose) or (closed.segment_id, closed.head) != (entry.segment_id, entry.head):
                continue
            for place, key in parsed:
                if place.log_id == closing.log_id and isinstance(key, KeyAdd | KeyRetire | KeyCompromised) and kids & set(key.kids):
                    before = place.index < closing.index
                    if before is not isinstance(key, KeyAdd):
                        said = "announced" if isinstance(key, KeyAdd) else "retired" if isinstance(key, KeyRetire) else "compromised"
                        where = "only behind" if isinstance(key, KeyAdd) else "before"
                        return f"segment {entry.ordinal} is signed by a key that was {said} {where} its place in the agent log"
    return ""
