"""One MQTT message of data: ``EAP1 | u32 header length (big-endian) | CBOR header | raw bytes``.

The whole message is at most `MAX_MESSAGE` bytes. The header is inside the payload, not in MQTT 5 properties, so that
3.1.1 brokers carry it too. The piece at offset 0 brings the signed announcement of the item, and by that creates the
upload.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from edge_agent.seal.cbor import SealError, dumps, fields, loads
from edge_agent.wire.names import check_upload_id

MAGIC = b"EAP1"
MAX_MESSAGE = 1 << 20
_PREFIX = struct.Struct(">4sI")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``offset`` to ``offset + len(data)`` of an item of ``total`` bytes.

    ``turn`` rises each time the sender begins anew from an offset that the receiver told it, and comes back in the
    answer: late answers to an earlier turn are known as such. ``item`` is the encoded `SignedItem`, at offset 0 only.
    ``data`` of a piece that was received is a view of the message.
    """

    agent_id: bytes
    item_id: str
    offset: int
    total: int
    turn: int
    data: bytes | memoryview
    item: bytes | None = None

    def encode(self) -> bytes:
        """The message."""
        header = dumps(
            {
                1: self.agent_id, 2: self.item_id, 3: self.offset, 4: self.total, 5: hashlib.sha256(self.data).digest(),
                6: self.turn, 7: self.item,
            }
        )  # fmt: skip
        return b"".join((_PREFIX.pack(MAGIC, len(header)), header, self.data))


def room(limit: int, item: bytes) -> int:
    """Data bytes that fit into a message of ``limit`` bytes beside the largest header, which carries ``item``."""
    return limit - _PREFIX.size - len(item) - 200


def parse_piece(message: bytes) -> Piece:
    """The piece in a message, its digest checked.

    Raises:
        SealError: too long, not a piece, offsets that cannot be, bytes that do not match their digest.
        BadName: the upload id is not one.
    """
    if len(message) > MAX_MESSAGE:
        raise SealError(f"piece: a message of {len(message)} bytes, at most {MAX_MESSAGE} are taken")
    if len(message) < _PREFIX.size or message[:4] != MAGIC:
        raise SealError("piece: does not begin with EAP1")
    start = _PREFIX.size
    end = start + _PREFIX.unpack_from(message)[1]
    if end > len(message):
        raise SealError("piece: the header is longer than the message")
    agent_id, item_id, offset, total, digest, turn, item = fields(
        loads(message[start:end], "piece header"), "piece header",
        k1=bytes, k2=str, k3=int, k4=int, k5=bytes, k6=int, k7=(bytes, type(None)),
    )  # fmt: skip
    data = memoryview(message)[end:]
    if not 0 <= offset <= offset + len(data) <= total or turn < 0:
        raise SealError(f"piece: {len(data)} bytes at {offset} of {total}")
    if (item is not None) != (offset == 0):
        raise SealError("piece: the one at offset 0, and only that, announces the item")
    if hashlib.sha256(data).digest() != digest:
        raise SealError("piece: the bytes have another SHA-256 than the header says")
    return Piece(agent_id, check_upload_id(item_id), offset, total, turn, data, item)
