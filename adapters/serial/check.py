"""Checks at the end of a frame: the CRCs of the RevEng catalogue (by ``anycrc``) and the plain sums that instruments use. Pure.

A CRC is named as in the catalogue, with or without dashes: ``crc16-modbus``, ``CRC-16/MODBUS`` and ``modbus`` are one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache, reduce
from operator import xor
from typing import Final

import anycrc

SUMS: Final[dict[str, tuple[int, Callable[[bytes], int]]]] = {
    "sum8": (1, lambda data: sum(data) & 0xFF),
    "sum16": (2, lambda data: sum(data) & 0xFFFF),
    "lrc": (1, lambda data: -sum(data) & 0xFF),
    "ones8": (1, lambda data: ~sum(data) & 0xFF),
    "xor8": (1, lambda data: reduce(xor, data, 0)),
    "fletcher16": (2, lambda data: _fletcher(data)),
}
"""Bytes of the result, and how it is made. lrc: the sum with it is 0 (ISO 1155); ones8: the sum with it is FF; xor8: BCC, NMEA."""


@cache
def checker(name: str) -> tuple[int, Callable[[bytes], int]]:
    """How many bytes the check has, and the function that makes it; raises ValueError for a name that nobody knows."""
    if name.lower() in SUMS:
        return SUMS[name.lower()]
    known = {_plain(one): one for one in (*anycrc.models, *anycrc.aliases)}
    if _plain(name) not in known:
        close = get_close_matches(_plain(name), known, 1)
        best = f"; did you mean {known[close[0]].lower()}?" if close else ""
        raise ValueError(f"{name!r} is no check; write {', '.join(SUMS)}, or a CRC as crc16-modbus, crc16-ccitt-false, crc32{best}")
    model = anycrc.Model(known[_plain(name)])
    width = _width(known[_plain(name)])
    if width % 8:
        raise ValueError(f"{name!r} has {width} bits; only checks of whole bytes can stand in a frame")
    return width // 8, model.calc


def _width(name: str) -> int:
    return int(anycrc.models[anycrc.aliases.get(name, name)].width)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _fletcher(data: bytes) -> int:
    low = high = 0
    for byte in data:
        low = (low + byte) % 255
        high = (high + low) % 255
    return high << 8 | low
