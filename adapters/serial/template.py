"""Reads lines by a template (``{status:word} {mass:float} {unit:word}``) or by a regular expression with named groups.

Invariants: a template matches the whole line; blanks around the line are ignored, and blanks in the template stand for any
number of them. A line that does not match, a number that does not fit its dtype and a text that is too long give `Unparsed`,
never a guess.
``unit`` and ``NAME_unit`` go to the streams' unit, ``status`` to their status, a field of the kind ``ts`` to their source time; every
other field is a channel.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from adapters.serial.outcome import Channel, Columns, Outcome, Reading, Unparsed, Value, status_code
from adapters.serial.stamps import Stamps
from adapters.serial.why import Why
from edge_agent.model import NO_TIME

Kind = Literal["float", "int", "word", "text", "ts"]

LONGEST_UNIT = 16
TIME = "time"
"""A group of this name in a pattern is the instrument's own time."""
DTYPES: Mapping[str, str] = {"float": "<f8", "int": "<i8", "word": "|S64", "text": "|S256"}
"""What a field of a template becomes when the configuration names no dtype."""

_FIELD = re.compile(r"\{(?P<name>[A-Za-z][A-Za-z0-9_]{0,62}|_):(?P<kind>[a-z]+)\}")
_EXPRESSIONS: Mapping[str, str] = {
    "float": r"[+-]?[ ]*(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?[Nn][Aa][Nn]|[+-]?[Ii][Nn][Ff](?:[Ii][Nn][Ii][Tt][Yy])?",
    "int": r"[+-]?[ ]*[0-9]+",
    "word": r"[^\s\x00-\x1f\x7f]+",
    "text": r"[^\x00-\x08\x0a-\x1f\x7f]*?",
    "ts": r"[^\x00-\x08\x0a-\x1f\x7f]+?",
}
ASCII_LIKE = frozenset({"ascii", "utf-8", "iso8859-1"})
"""Encodings in which a line end is a line end, so that many lines can be decoded at once."""


@dataclass(frozen=True, slots=True)
class Form:
    """A template or pattern that was understood: the expression, and the kind of each named group."""

    expression: re.Pattern[str]
    kinds: Mapping[str, Kind]
    many: re.Pattern[str] | None = None
    """The same for many lines with a line feed between them, where that is possible; unnamed groups of a line, in order."""

    def channel_names(self) -> list[str]:
        """Names of the channels, in order."""
        names = [name for name, kind in self.kinds.items() if name not in ("unit", "status") and kind != "ts"]
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
    expression = "".join(parts)
    # A blank of a template may be any white space, but must not reach into the next line.
    many = "^{0}*(?:{1}){0}*$".format(r"[^\S\n]", expression.replace(r"\s+", r"[^\S\n]+"))
    return _checked(Form(re.compile(expression), kinds, re.compile(many, re.MULTILINE)), f"parse = {template!r}")


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
        if name == TIME:
            kinds[name] = "ts"
            continue
        kinds[name] = "word" if name in texts or sort == "S" else "float" if sort == "f" else "int"
    return _checked(Form(expression, kinds), f"pattern = {pattern!r}")


class TemplateParser:
    """Reads lines of a `Form`. Pure; safe to use from any thread."""

    def __init__(
        self, form: Form, encoding: str, dtypes: Mapping[str, str], units: Mapping[str, str], stamps: Stamps | None = None
    ) -> None:
        """``dtypes`` and ``units`` are what the configuration says of single channels."""
        self.channels = tuple(Channel(name, dtypes.get(name, DTYPES[form.kinds[name]]), units.get(name)) for name in form.channel_names())
        self._expression = form.expression
        self._many = form.many
        self._kinds = form.kinds
        self._encoding = encoding
        self._unit_of = {c.name: f"{c.name}_unit" if f"{c.name}_unit" in form.kinds else "unit" for c in self.channels}
        self._time = next((name for name, kind in form.kinds.items() if kind == "ts"), None)
        self._stamps = stamps or Stamps()
        plain = self._time is None and all(np.dtype(c.dtype).kind in "fS" for c in self.channels) and form.kinds.get("status") != "int"
        self._places = {name: place - 1 for name, place in form.expression.groupindex.items()}
        self._at_once = plain and codecs.lookup(encoding).name in ASCII_LIKE

    def parse(self, line: bytes) -> Outcome:
        """The values of the line, in the order of ``channels``."""
        try:
            text = line.decode(self._encoding).strip()
        except UnicodeDecodeError:
            return Unparsed(Why("bytes that are not {encoding}", encoding=self._encoding))
        match = self._expression.fullmatch(text)
        if match is None:
            return Unparsed(Why("does not look as parse or pattern says"))
        groups = match.groupdict()
        values: list[Value] = []
        units: list[str | None] = []
        for channel in self.channels:
            value = _value(groups[channel.name], channel)
            if isinstance(value, Unparsed):
                return value
            unit = groups.get(self._unit_of[channel.name])
            if unit is not None and len(unit) > LONGEST_UNIT:
                return Unparsed(Why("the unit {unit} is longer than {most} characters", unit=repr(unit[:30]), most=LONGEST_UNIT))
            values.append(value)
            units.append(unit)
        stamp = self._stamp(groups[self._time]) if self._time is not None else NO_TIME
        if isinstance(stamp, Unparsed):
            return stamp
        return Reading(tuple(values), tuple(units), _status(groups.get("status"), self._kinds.get("status")), stamp)

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """See `Parser`; None also where one of the lines is no item, or the unit changes between them."""
        if not self._at_once:
            return None
        try:
            texts = b"\n".join(lines).decode(self._encoding)
        except UnicodeDecodeError:
            return None
        columns = self._columns(texts, len(lines))
        if columns is None:
            return None
        values: list[npt.NDArray[Any]] = []
        for channel in self.channels:
            column = _column(columns[self._places[channel.name]], channel.dtype)
            if column is None:
                return None
            values.append(column)
        units: list[str | None] = []
        for channel in self.channels:
            place = self._places.get(self._unit_of[channel.name])
            there = {None} if place is None else set(columns[place])
            unit = there.pop()
            if there or (unit is not None and len(unit) > LONGEST_UNIT):
                return None
            units.append(unit)
        status = np.zeros(len(lines), np.uint32)
        if "status" in self._places:
            words = columns[self._places["status"]]
            codes = {word: _status(word, "word") for word in set(words)}
            status = np.array([codes[word] for word in words], np.uint32)
        return Columns(tuple(values), tuple(units), status)

    def _columns(self, texts: str, count: int) -> Sequence[Sequence[str | None]] | None:
        """The groups of so many lines, each of all lines; None where one of them does not fit."""
        if self._many is not None:
            found = self._many.findall(texts)
            if len(found) != count or texts.count("\n") != count - 1:
                return None
            return list(zip(*found, strict=True)) if self._many.groups > 1 else [found]
        matches = [self._expression.fullmatch(text.strip()) for text in texts.split("\n")]
        groups = [match.groups() for match in matches if match is not None]
        return list(zip(*groups, strict=True)) if len(groups) == len(matches) == count else None

    def _stamp(self, text: str | None) -> int | Unparsed:
        if text is None:
            return NO_TIME
        try:
            return self._stamps.read(text.strip())
        except ValueError:
            return Unparsed(Why("{text} is no time; see time_format", text=repr(text[:40])))


class ScpiParser(TemplateParser):
    """As `TemplateParser`, with the numbers that SCPI-99 (7.2.1) uses for infinity and not-a-number."""

    def parse(self, line: bytes) -> Outcome:
        """The values of the line; 9.9E37 is infinity, 9.91E37 is NaN."""
        outcome = super().parse(line)
        if isinstance(outcome, Reading):
            return replace(outcome, values=tuple(_scpi(value) for value in outcome.values))
        return outcome

    def parse_many(self, lines: Sequence[bytes]) -> Columns | None:
        """See `Parser`; None where one of the numbers means no number."""
        columns = super().parse_many(lines)
        if columns is not None and any(column.dtype.kind == "f" and (abs(column) >= 9.9e37).any() for column in columns.values):
            return None
        return columns


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
    kinds: Mapping[str, Kind] = {"float": "float", "int": "int", "word": "word", "ts": "ts"}
    return kinds.get(text, "text")


def _checked(form: Form, what: str) -> Form:
    if sum(kind == "ts" for kind in form.kinds.values()) > 1:
        raise ValueError(f"{what} has two times; a row has one time of the instrument")
    if not form.channel_names():
        raise ValueError(f"{what} names no value; write for example {{mass:float}} {{unit:word}}, or (?P<mass>[-0-9.]+) in a pattern")
    return form


def _column(texts: Sequence[str | None], dtype: str) -> npt.NDArray[Any] | None:
    """One group of all lines as numbers or texts; None where they have to be looked at one by one."""
    kind = np.dtype(dtype)
    try:
        if kind.kind == "S":
            data = [text.encode() for text in texts if text is not None]
            return np.array(data, dtype) if len(data) == len(texts) and max(map(len, data)) <= kind.itemsize else None
        numbers = np.array(list(map(float, texts)))  # type: ignore[arg-type]  # None raises TypeError
    except (ValueError, TypeError):
        return None
    if kind.itemsize == 8:
        return numbers
    finite = numbers[np.isfinite(numbers)]
    return numbers.astype(kind) if not len(finite) or abs(finite).max() <= float(np.finfo(kind).max) else None


def _value(text: str | None, channel: Channel) -> Value | Unparsed:
    if text is None:
        return Unparsed(Why("has no {channel}", channel=channel.name))
    if np.dtype(channel.dtype).kind == "S":
        data = text.encode()
        longest = np.dtype(channel.dtype).itemsize
        if len(data) > longest:
            return Unparsed(
                Why(
                    '{channel} is longer than {most} bytes; set channels.{channel}.dtype = "|S{size}"',
                    channel=channel.name,
                    most=longest,
                    size=len(data),
                )
            )
        return data
    # "-   12.3": balances put the sign in front of the blanks.
    digits = text.replace(" ", "")
    try:
        value = float(digits) if np.dtype(channel.dtype).kind == "f" else int(digits)
    except ValueError:
        return Unparsed(
            Why("{channel} = {text} is no number of type {dtype}", channel=channel.name, text=repr(text[:30]), dtype=channel.dtype)
        )
    if not fits(value, channel.dtype):
        return Unparsed(Why("{channel} = {text} does not fit {dtype}", channel=channel.name, text=repr(text[:30]), dtype=channel.dtype))
    return value


def _status(text: str | None, kind: Kind | None) -> int:
    if text is None:
        return 0
    return int(text.replace(" ", "")[:20]) & 0xFFFF_FFFF if kind == "int" else status_code(text)


def _scpi(value: Value) -> Value:
    if isinstance(value, float) and abs(value) == 9.9e37:
        return math.copysign(math.inf, value)
    return math.nan if isinstance(value, float) and value == 9.91e37 else value
