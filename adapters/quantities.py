"""Durations and sizes as they stand in an adapter's table: text with a unit, so that nobody has to guess one.

In Python a duration is a float of seconds and a size an int of bytes. A bare number is refused with what would do.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([A-Za-z]+)")


def parse_seconds_or_zero(value: Any) -> float:
    """Seconds of ``"500 ms"``, ``"1 s"``, ``"2 min"``, ``"0 s"``; raises ValueError for a bare number or another unit."""
    return _parse(value, _SECONDS, 'duration; write for example "500 ms" or "2 s"')


def parse_seconds(value: Any) -> float:
    """The same of more than zero; raises ValueError for zero, too."""
    seconds = parse_seconds_or_zero(value)
    if seconds <= 0:
        raise ValueError("must be longer than 0 s")
    return seconds


def parse_bytes(value: Any) -> int:
    """Bytes of ``"2 GB"`` or ``"256 MiB"``; raises ValueError for a bare number or another unit."""
    return int(_parse(value, _BYTES, 'size; write for example "2 GB" or "256 MiB"'))


def _parse(value: Any, units: dict[str, Any], wanted: str) -> float:
    match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{value!r} is no {wanted}; units are {' '.join(units)}")
    return float(match[1]) * float(units[match[2]])


def _pattern(units: dict[str, Any]) -> str:
    return rf"^\s*{_NUMBER}\s*({'|'.join(units)})\s*$"


_WRITTEN = (
    PlainSerializer(lambda seconds: f"{seconds:.15g} s"),
    WithJsonSchema({"type": "string", "pattern": _pattern(_SECONDS), "examples": ["500 ms", "2 s"]}),
)

Seconds = Annotated[float, BeforeValidator(parse_seconds), *_WRITTEN]
"""A duration of more than zero, written with its unit."""

SecondsOrZero = Annotated[float, BeforeValidator(parse_seconds_or_zero), *_WRITTEN]
"""A duration, written with its unit."""

Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    PlainSerializer(lambda size: f"{size} B"),
    WithJsonSchema({"type": "string", "pattern": _pattern(_BYTES), "examples": ["2 GB"]}),
]
"""A size, written with its unit."""
