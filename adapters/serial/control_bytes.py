"""Bytes as technicians and manuals write them: ``"AA 55"``, ``"STX"``, ``"DLE ETX"``, ``"CR LF"``. Pure.

A word of two hex digits is a byte (``FF`` is 0xFF, form feed is ``0C``); any other word is the ASCII name of a control byte.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

_WORDS: Final = "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT . CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US".split()
NAMES: Final = {name: code for code, name in enumerate(_WORDS) if name != "."} | {"XON": 0x11, "XOFF": 0x13, "DEL": 0x7F}
_HEX: Final = re.compile(r"[0-9A-Fa-f]{2}")


def parse_control_bytes(value: Any) -> bytes:
    """The bytes that ``value`` names; raises ValueError with what would do."""
    if isinstance(value, bytes):
        return value
    words = value.split() if isinstance(value, str) else []
    if not words or not all(_HEX.fullmatch(word) or word.upper() in NAMES for word in words):
        raise ValueError(f'{value!r} names no bytes; write hex digits or ASCII names, as "AA 55", "STX" or "CR LF"')
    return bytes(int(word, 16) if _HEX.fullmatch(word) else NAMES[word.upper()] for word in words)


def show_bytes(data: bytes) -> str:
    """Hex digits with blanks, as `parse_control_bytes` reads them."""
    return data.hex(" ").upper()


ControlBytes = Annotated[
    bytes,
    PlainValidator(parse_control_bytes),
    PlainSerializer(show_bytes, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["AA 55", "STX", "CR LF"]}),
]
"""One byte or more, written in hex or by their ASCII names."""
