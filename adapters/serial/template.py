"""Reads lines by a template (``{status:word} {mass:float} {unit:word}``) or by a regular expression with named groups.

Invariants: a template matches the whole line; blanks around the line are ignored, and blanks in the template stand for any
number of them. A line that does not match, a number that does not fit its dtype and a text that is too long give `Unparsed`,
never a guess.
``unit`` and ``NAME_unit`` go to the streams' unit, ``status`` to their status; every other field is a channel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from adapters.serial.outcome import Channel, Outcome, Reading, Unparsed, status_code

Kind = Literal["float", "int", "word", "text"]

LONGEST_UNIT = 16
DTYPES: Mapping[str, str] = {"float": "<f8", "int": "<i8", "word": "|S64", "text": "|S256"}
"""What a field of a template becomes when the configuration names no dtype."""

_FIELD = re.compile(r"\{(?P<name>[A-Za-z][A-Za-z0-9_]{0,62}|_):(?P<kind>[a-z]+)\}")
_EXPRESSIONS: Mapping[str, str] = {
    "float": r"[+-]?[ ]*(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?[Nn][Aa][Nn]|[+-]?[Ii][Nn][Ff](?:[Ii][Nn][Ii][Tt][Yy])?",
    "int": r"[+-]?[ ]*[0-9]+",
    "word": r"[^\s\x00-\x1f\x7f]+",
    "text": r"[^\x00-\x08\x0a-\x1f\x7f]*?",
}


@dataclass(frozen=True, slots=True)
class Form:
    """A template or pattern that was understood: the expression, and the kind of each named group."""

    expression: re.Pattern[str]
    kinds: Mapping[str, Kind]

    def channel_names(self) -> list[str]:
        """Names of the channels, in order."""
        names = [name for name in self.kinds if name not in ("unit", "status")]
        return [name for name in names if not (name.endswith("_unit") and name.removesuffix("_unit") in names)]


def from_template(template: str) -> Form:
    """Understand ``{mass:float} {unit:word}``; ``{_:word}`` is skipped, ``{{`` and ``}}`` are braces. Raises ValueError."""
    kinds: dict[str, Kind] = {}
    parts: list[str] = []
    position = 0
    while position < len(template):
        if template[position : position + 2] in ("{{", "}}"):
            parts.append(re.escape(template[position]))
            position += 2
        elif template[position] in "{}":
            field = _FIELD.match(template, position)
            if field is None or field["kind"] not in _EXPRESSIONS:
                raise ValueError(
                    f"parse, from {template[position : position + 30]!r}: a field is {{name:kind}} with the kinds "
                    f"{', '.join(_EXPRESSIONS)}; write for example {{mass:float}} {{unit:word}}, and {{{{ for a brace"
                )
            parts.append(_group(field["name"], _kind(field["kind"]), kinds))
            position = field.end()
        elif template[position].isspace():
            parts.append(r"\s+")
            position += len(template[position:]) - len(template[position:].lstrip())
        else:
            parts.append(re.escape(template[position]))
            position += 1
    return _checked(Form(re.compile("".join(parts)), kinds), f"parse = {template!r}")


def from_pattern(pattern: str, dtypes: Mapping[str, str]) -> Form:
    """Understand a regular expression with named groups, numbers unless ``dtypes`` says otherwise. Raises ValueError."""
    try:
        expression = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {e}") from e
    names = list(expression.groupindex)
    texts = {"unit", "status", *(f"{name}_unit" for name in names)}
    kinds: dict[str, Kind] = {}
    for name in names:
        sort = np.dtype(dtypes.get(name, "<f8")).kind
        kinds[name] = "word" if name in texts or sort == "S" else "float" if sort == "f" else "int"
    return _checked(Form(expression, kinds), f"pattern = {pattern!r}")


class TemplateParser:
    """Reads lines of a `Form`. Pure; safe to use from any thread."""

    def __init__(self, form: Form, encoding: str, dtypes: Mapping[str, str], units: Mapping[str, str]) -> None:
        """``dtypes`` and ``units`` are what the configuration says of single channels."""
        self.channels = tuple(
            Channel(name, dtypes.get(name, DTYPES[form.kinds[name]]), units.get(name)) for name in form.channel_names()
        )
        self._expression = form.expression
        self._kinds = form.kinds
        self._encoding = encoding
        self._unit_of = {c.name: f"{c.name}_unit" if f"{c.name}_unit" in form.kinds else "unit" for c in self.channels}

    def parse(self, line: bytes) -> Outcome:
        """The values of the line, in the order of ``channels``."""
        try:
            text = line.decode(self._encoding).strip()
        except UnicodeDecodeError:
            return Unparsed(f"bytes that are not {self._encoding}")
        match = self._expression.fullmatch(text)
        if match is None:
            return Unparsed("does not look as parse or pattern says")
        groups = match.groupdict()
        values: list[float | int | bytes] = []
        units: list[str | None] = []
        for channel in self.channels:
            value = _value(groups[channel.name], channel)
            if isinstance(value, Unparsed):
                return value
            unit = groups.get(self._unit_of[channel.name])
            if unit is not None and len(unit) > LONGEST_UNIT:
                return Unparsed(f"the unit {unit[:30]!r} is longer than {LONGEST_UNIT} characters")
            values.append(value)
            units.append(unit)
        return Reading(tuple(values), tuple(units), _status(groups.get("status"), self._kinds.get("status")))


class ScpiParser(TemplateParser):
    """As `TemplateParser`, with the numbers that SCPI-99 (7.2.1) uses for infinity and not-a-number."""

    def parse(self, line: bytes) -> Outcome:
        """The values of the line; 9.9E37 is infinity, 9.91E37 is NaN."""
        outcome = super().parse(line)
        if isinstance(outcome, Reading):
            return replace(outcome, values=tuple(_scpi(value) for value in outcome.values))
        return outcome


def fits(value: float, dtype: str) -> bool:
    """Whether a number can be held by a numeric dtype."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(kind).max)
    return int(np.iinfo(kind).min) <= value <= int(np.iinfo(kind).max)


def _group(name: str, kind: Kind, kinds: dict[str, Kind]) -> str:
    if name == "_":
        return f"(?:{_EXPRESSIONS[kind]})"
    if name in kinds:
        raise ValueError(f"parse names {name!r} twice; every field needs a name of its own, or _ to skip it")
    kinds[name] = kind
    return f"(?P<{name}>{_EXPRESSIONS[kind]})"


def _kind(text: str) -> Kind:
    return "float" if text == "float" else "int" if text == "int" else "word" if text == "word" else "text"


def _checked(form: Form, what: str) -> Form:
    if not form.channel_names():
        raise ValueError(f"{what} names no value; write for example {{mass:float}} {{unit:word}}, or (?P<mass>[-0-9.]+) in a pattern")
    return form


def _value(text: str | None, channel: Channel) -> float | int | bytes | Unparsed:
    if text is None:
        return Unparsed(f"has no {channel.name}")
    if np.dtype(channel.dtype).kind == "S":
        data = text.encode()
        longest = np.dtype(channel.dtype).itemsize
        if len(data) > longest:
            return Unparsed(f'{channel.name} is longer than {longest} bytes; set channels.{channel.name}.dtype = "|S{len(data)}"')
        return data
    # "-   12.3": balances put the sign in front of the blanks.
    digits = text.replace(" ", "")
    try:
        value = float(digits) if np.dtype(channel.dtype).kind == "f" else int(digits)
    except ValueError:
        return Unparsed(f"{channel.name} = {text[:30]!r} is no number of type {channel.dtype}")
    return value if fits(value, channel.dtype) else Unparsed(f"{channel.name} = {text[:30]!r} does not fit {channel.dtype}")


def _status(text: str | None, kind: Kind | None) -> int:
    if text is None:
        return 0
    return int(text.replace(" ", "")[:20]) & 0xFFFF_FFFF if kind == "int" else status_code(text)


def _scpi(value: float | int | bytes) -> float | int | bytes:
    if isinstance(value, float) and abs(value) == 9.9e37:
        return math.copysign(math.inf, value)
    return math.nan if value == 9.91e37 else value
