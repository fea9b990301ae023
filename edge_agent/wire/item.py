"""The announcement of one item: what it is, where it belongs, which segment it claims to be; and its signed form for doors without mTLS."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.model import Access, ItemKind, Label, OutboxItem
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError, dumps, fields, loads
from edge_agent.seal.keys import KeyChain, key_chain
from edge_agent.wire.names import BadName, check_path, check_upload_id

NAME = "EAP/1/item"
SIGNED_ITEM = "application/x.hsc1-item+cbor"
MAX_SIZE = 2**46
"""Bytes of one item: far above what a segment may be, far below what a counter can hold."""

NO_SEGMENT = b"\0" * 16
NO_HEAD = b"\0" * 32


@dataclass(frozen=True, slots=True)
class ItemHeader:
    """One item as both sides speak of it. ``sha256`` is None until the sender has read the whole file.

    ``segment_id`` (16 bytes) and ``head_hash`` (32 bytes) are zeros when the item is no segment. ``path`` is the path
    in the project space.
    """

    item_id: str
    kind: ItemKind
    path: str
    size: int
    sha256: bytes | None
    run_id: bytes
    run_no: int
    project: str
    access: Access
    allowed: tuple[str, ...]
    segment_id: bytes
    head_hash: bytes
    agent_id: bytes

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        return dumps(
            {
                1: NAME, 2: self.item_id, 3: str(self.kind), 4: self.path, 5: self.size, 6: self.sha256, 7: self.run_id, 8: self.run_no,
                9: self.project, 10: str(self.access), 11: list(self.allowed), 12: self.segment_id, 13: self.head_hash, 14: self.agent_id,
            }
        )  # fmt: skip

    def with_digest(self, sha256: bytes) -> ItemHeader:
        """The same item, its SHA-256 known."""
        return replace(self, sha256=sha256)

    def same_item(self, other: ItemHeader) -> bool:
        """Whether both announce the same bytes for the same place; a digest that one of them does not know yet is no difference."""
        if self.sha256 is not None and other.sha256 is not None and self.sha256 != other.sha256:
            return False
        return replace(self, sha256=None) == replace(other, sha256=None)

    @property
    def label(self) -> Label:
        """The run's label."""
        return Label(self.access, frozenset(self.allowed))


def upload_id(item: OutboxItem) -> str:
    """The id under which an item is uploaded: its own, but each revision of a run's receipts is an upload of its own."""
    if item.kind is ItemKind.RECEIPTS and item.sha256 is not None:
        return f"{item.item_id[:47]}-{item.sha256[:8].hex()}"
    return item.item_id


def header_of(item: OutboxItem, agent_id: bytes) -> ItemHeader:
    """The announcement of an item of the outbox.

    Raises:
        BadName: the item's id or remote path is not one that a landing service stores.
    """
    own = check_upload_id(upload_id(item))
    check_path(item.remote, item.project)
    return ItemHeader(
        own, item.kind, item.remote, item.size, item.sha256, item.run_id, item.run_no, item.project, item.label.access,
        tuple(sorted(item.label.allowed)), item.segment_id, item.head_hash, agent_id,
    )  # fmt: skip


def parse_header(data: bytes) -> ItemHeader:
    """The announcement in its CBOR.

    Raises:
        SealError: not one, or a field has a wrong type or length.
        BadName: an id, project or path that is not stored.
    """
    name, item_id, kind, path, size, sha256, run_id, run_no, project, access, allowed, segment_id, head, agent_id = fields(
        loads(data, "item header"), "item header", k1=str, k2=str, k3=str, k4=str, k5=int, k6=(bytes, type(None)), k7=bytes, k8=int,
        k9=str, k10=str, k11=list, k12=bytes, k13=bytes, k14=bytes,
    )  # fmt: skip
    if name != NAME:
        raise SealError("item header: another message")
    try:
        header = ItemHeader(
            check_upload_id(item_id), ItemKind(kind), check_path(path, project), size, sha256, run_id, run_no, project, Access(access),
            tuple(allowed), segment_id, head, agent_id,
        )  # fmt: skip
    except BadName:
        raise
    except ValueError as error:
        raise SealError(f"item header: {error}") from error
    _check(header)
    return header


def _check(header: ItemHeader) -> None:
    lengths = (
        (header.run_id, 16, "run id"),
        (header.segment_id, 16, "segment id"),
        (header.head_hash, 32, "head hash"),
        (header.agent_id, 16, "agent id"),
    )
    for value, length, what in lengths:
        if len(value) != length:
            raise SealError(f"item header: {what} of {len(value)} bytes, wants {length}")
    if header.sha256 is not None and len(header.sha256) != 32:
        raise SealError("item header: a SHA-256 is 32 bytes")
    if not 0 <= header.size <= MAX_SIZE:
        raise SealError(f"item header: a size of {header.size}")
    if not 0 <= header.run_no < 2**63:
        raise SealError(f"item header: run number {header.run_no}")
    if not all(isinstance(name, str) for name in header.allowed):
        raise SealError("item header: a target's name is not a text")
    wanted = header.kind is ItemKind.SEGMENT
    if (header.segment_id != NO_SEGMENT, header.head_hash != NO_HEAD) != (wanted, wanted):
        raise SealError("item header: segments, and only they, name a segment id and a head")


@dataclass(frozen=True, slots=True)
class SignedItem:
    """An announcement under a session key, with the chain that leads to the facility's root."""

    cose: bytes
    chain: KeyChain

    def encode(self) -> bytes:
        """Deterministic CBOR ``{1: COSE, 2: key chain}``."""
        return dumps({1: self.cose, 2: self.chain.value()})


def sign_item(header: ItemHeader, signer: cose.Signer, chain: KeyChain) -> SignedItem:
    """Sign an announcement with a session key."""
    return SignedItem(cose.sign(signer, SIGNED_ITEM, header.encode()), chain)


def parse_signed_item(data: bytes) -> SignedItem:
    """The parts, signature *not yet* checked.

    Raises:
        SealError: not a signed announcement.
    """
    signed, chain = fields(loads(data, "signed item"), "signed item", k1=bytes, k2=dict)
    return SignedItem(signed, key_chain(chain))
