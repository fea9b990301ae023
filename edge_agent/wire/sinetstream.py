"""SINETStream's message format, version 3, not encrypted: what the reader of NII's SINETStream 1.10 takes (``sinetstream/packet.py``).

``DF 03 00 00 | 00 00 (key version: none) | C3 01 (Avro single object) | schema fingerprint | timestamp | length | message``, the last
three as Avro writes them: zig-zag varints. The reader checks nothing of the message; and one payload that is no frame ends an
asynchronous reader, so a topic of ours carries frames only. Avro specification 1.8.2, "Single-object encoding", "Binary encoding".
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEADER = bytes.fromhex("df030000 0000 c301 1f9c0c91eb33664f")
"""The fingerprint is the CRC-64-AVRO of the schema, little-endian; the developer guide prints another one, which the reader refuses."""

LONGEST = 200
_PLAIN = frozenset((string.ascii_letters + string.digits + "-_.:").encode())


def frame(message: bytes, t_ns: int = 0) -> bytes:
    """The payload of one message.

    Args:
        message: what the reader hands out.
        t_ns: when it was acquired, UTC ns; 0: not known. The format keeps microseconds.
    """
    return HEADER + _long(t_ns // 1000) + _long(len(message)) + message


@dataclass(frozen=True, slots=True)
class Word:
    """One message: the levels of its topic below the configured one, its content, when it was acquired (UTC ns, 0: unknown)."""

    levels: tuple[str, ...]
    content: Mapping[str, Any]
    t_ns: int

    def payload(self) -> bytes:
        """The SINETStream frame around JSON in UTF-8."""
        return frame(json.dumps(self.content, ensure_ascii=False, allow_nan=False).encode(), self.t_ns)


def topic(*parts: str) -> str:
    """A topic of names that strangers chose: no name adds a level, is a wildcard, or gets to the broker's own ``$`` topics.

    What is not a letter, a digit or one of ``- _ . :`` is written as ``%XX`` of its UTF-8; long names end in a digest; different names
    are different topics.
    """
    return "/".join(_part(part) for part in parts)


def _part(name: str) -> str:
    text = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass")) or "%"
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{text[:LONGEST]}%~{digest}"


def _long(value: int) -> bytes:
    """An Avro long: zig-zag, then seven bits a byte, the lowest first."""
    left = (value << 1) ^ (value >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)
