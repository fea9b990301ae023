"""``<run>.hsc``: the run statement, signed at run close, with what is needed to check it alone (docs/signed-chunks.md, Beside a run)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.seal.cbor import Kind, SealError, dumps, fields, is_one_of, loads
from edge_agent.seal.keys import KeyChain, key_chain

FORMAT = "HSC/1"
RUN_NAME = "HSC/1/run"


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One segment of the run; a series of vendor files has name None, size 0 and a digest of zeros."""

    ordinal: int
    segment_id: bytes
    name: str | None
    size: int
    sha256: bytes
    head: bytes
    state: int


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file beside the segments: path in the run folder, size, SHA-256."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class RunStatement:
    """What the agent says of a whole run. ``gaps`` is (source id, number of gaps, items missing or None when unknown)."""

    agent_id: bytes
    run_no: int
    run_id: bytes
    segments: tuple[SegmentEntry, ...]
    files: tuple[NamedFile, ...]
    master: NamedFile | None
    others: Mapping[str, bytes]
    gaps: tuple[tuple[str, int, int | None], ...]
    outcome: str
    policy: bytes

    def payload(self) -> bytes:
        """The bytes that are signed."""
        segments = [[s.ordinal, s.segment_id, s.name, s.size, s.sha256, s.head, s.state] for s in self.segments]
        files = [[f.name, f.size, f.sha256] for f in self.files]
        master = None if self.master is None else [self.master.name, self.master.size, self.master.sha256]
        return dumps(
            {
                1: RUN_NAME, 2: self.agent_id, 3: self.run_no, 4: self.run_id, 5: segments, 6: files, 7: master,
                8: dict(self.others), 9: [list(gap) for gap in self.gaps], 10: self.outcome, 11: self.policy,
            }
        )  # fmt: skip


def parse_run(payload: bytes) -> RunStatement:
    """The statement in a payload.

    Raises:
        SealError: another statement, or parts of a wrong type.
    """
    name, agent, no, run_id, segments, files, master, others, gaps, outcome, policy = fields(
        loads(payload, "run statement"), "run statement", k1=str, k2=16, k3=int, k4=16, k5=list, k6=list,
        k7=(list, type(None)), k8=dict, k9=list, k10=str, k11=32,
    )  # fmt: skip
    if name != RUN_NAME:
        raise SealError("run statement: another statement")
    try:
        entries = tuple(_typed(SegmentEntry(*s), (int, 16, (str, type(None)), int, 32, 32, int)) for s in segments)
        named = tuple(_typed(NamedFile(*f), (str, int, 32)) for f in files)
        main = None if master is None else _typed(NamedFile(*master), (str, int, 32))
        counts = tuple((str(s), int(n), None if c is None else int(c)) for s, n, c in gaps)
    except (TypeError, ValueError) as error:
        raise SealError(f"run statement: {error}") from error
    if not all(isinstance(k, str) and is_one_of(v, 32) for k, v in others.items()):
        raise SealError("run statement: field 8 is not {name: digest}")
    statement = RunStatement(agent, no, run_id, entries, named, main, others, counts, outcome, policy)
    if statement.payload() != payload:
        raise SealError("run statement: a field of a wrong type")
    return statement


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The whole file. ``trees`` maps the segment ids of file series to their leaf payloads."""

    statement: bytes
    heads: tuple[bytes, ...]
    chain: KeyChain
    trees: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        trees = [{1: segment_id, 2: list(leaves)} for segment_id, leaves in self.trees.items()]
        return dumps({1: FORMAT, 2: self.statement, 3: list(self.heads), 4: self.chain.value(), 5: trees})


def parse_sidecar(data: bytes) -> Sidecar:
    """The content of a ``.hsc`` file.

    Raises:
        SealError: not one.
    """
    name, statement, heads, chain, trees = fields(loads(data, "sidecar"), "sidecar", k1=str, k2=bytes, k3=list, k4=dict, k5=list)
    if name != FORMAT:
        raise SealError(f"sidecar: format {name!r}, wants {FORMAT!r}")
    if not all(isinstance(h, bytes) for h in heads):
        raise SealError("sidecar: a head is not a byte string")
    by_id: dict[bytes, tuple[bytes, ...]] = {}
    for tree in trees:
        segment_id, leaves = fields(tree, "file tree", k1=16, k2=list)
        if not all(isinstance(leaf, bytes) for leaf in leaves):
            raise SealError("file tree: a leaf is not a byte string")
        if segment_id in by_id:
            raise SealError("file tree: twice for one segment")
        by_id[segment_id] = tuple(leaves)
    return Sidecar(statement, tuple(heads), key_chain(chain), by_id)


def _typed(value: Any, kinds: tuple[Kind | tuple[Kind, ...], ...]) -> Any:
    for name, kind in zip(value.__dataclass_fields__, kinds, strict=True):
        if not is_one_of(getattr(value, name), kind):
            raise TypeError(f"{type(value).__name__}.{name} is a {type(getattr(value, name)).__name__}")
    return value
