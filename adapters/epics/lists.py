"""PV lists as facilities keep them: autosave request files (``.req``) and tables (``.csv``). Pure but for reading files.

A request file has a PV a line, ``#`` comments, macros ``$(P)`` or ``${P=default}``, and ``file other.req P=X:,R=m1`` for files that
stand beside it (synApps autosave, "Request files"). A table has a heading with ``pv`` and, where wanted, ``name`` and ``unit``, between
commas, semicolons or tabs; without a heading, its first column holds the PVs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MOST_FILES = 16
"""Files within files."""

_MACRO = re.compile(r"\$(?:\(([^()=,]+)(?:=([^()]*))?\)|\{([^{}=,]+)(?:=([^{}]*))?\})")
_PAIR = re.compile(r"\s*([^=,\s]+)\s*=\s*(\"[^\"]*\"|[^,\s]*)\s*,?")


@dataclass(frozen=True, slots=True)
class Listed:
    """One PV of a list; ``name`` and ``unit`` where the list has them."""

    pv: str
    name: str | None = None
    unit: str | None = None


def read_list(path: Path, macros: Mapping[str, str]) -> list[Listed]:
    """The PVs of a list, each once, in their order.

    Raises:
        ValueError: the file cannot be read, or something in it cannot be understood; with file and line.
    """
    found = _table(path) if path.suffix.lower() in (".csv", ".tsv", ".txt") else _request(path, macros, 0)
    return list({one.pv: one for one in found}.values())


def _request(path: Path, macros: Mapping[str, str], depth: int) -> Iterator[Listed]:
    if depth > MOST_FILES:
        raise ValueError(f"{path}: files name each other in a circle")
    for number, raw in enumerate(_text(path).splitlines(), 1):
        line = _expand(raw.partition("#")[0].strip(), macros, f"{path}, line {number}")
        if not line:
            continue
        word, _, rest = line.partition(" ")
        if word == "file":
            name, _, given = rest.strip().partition(" ")
            other = {key: value.strip('"') for key, value in _PAIR.findall(given)}
            yield from _request(path.parent / name.strip('"'), {**macros, **other}, depth + 1)
        else:
            yield Listed(word)


def _expand(line: str, macros: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name, default = (match[1], match[2]) if match[1] else (match[3], match[4])
        known = macros.get(name.strip(), default)
        if known is None:
            raise ValueError(f'{where}: the macro {name} has no value; give macros = {{ {name} = "..." }}')
        return known

    for _ in range(MOST_FILES):
        expanded = _MACRO.sub(value, line)
        if expanded == line:
            return line
        line = expanded
    raise ValueError(f"{where}: macros name each other in a circle")


def _table(path: Path) -> Iterator[Listed]:
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return
    delimiter = max(",;\t", key=lines[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    heading = [cell.lower() for cell in rows[0]]
    columns = {word: heading.index(word) for word in ("pv", "name", "unit") if word in heading} if "pv" in heading else {"pv": 0}
    for row in rows[1:] if "pv" in heading else rows:
        cells = {word: row[n] for word, n in columns.items() if n < len(row)}
        if cells.get("pv"):
            yield Listed(cells["pv"], cells.get("name") or None, cells.get("unit") or None)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ValueError(f"{path} cannot be read: {e.strerror or e}") from e
    for encoding in ("utf-8-sig", "cp932"):  # what spreadsheets save in Japan
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise ValueError(f"{path} is written neither in UTF-8 nor in Shift JIS; save it again as UTF-8")
