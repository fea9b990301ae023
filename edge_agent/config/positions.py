"""Where each key of a TOML file stands, and what is wrong with its grammar.

The values come from tomllib, which knows no positions; the positions come from a tree-sitter parse of the same bytes. Lines and
columns count from 1, columns in characters. The walk uses no recursion, so a hostile nesting cannot exhaust the stack.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from edge_agent.words import t

Path = tuple[str | int, ...]
"""Keys and array indices from the top: ``("instrument", "balance", "port")``."""

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_KEYS = ("bare_key", "quoted_key", "dotted_key")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value begin."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A fault of grammar, or a key that is there twice."""

    line: int
    column: int
    key: str
    message: str
    code: str


@dataclass(slots=True)
class Positions:
    """Places by path, the paths that are written out themselves, and the keys that are there twice."""

    places: dict[Path, Place] = field(default_factory=dict)
    written: set[Path] = field(default_factory=set)
    doubles: list[Mistake] = field(default_factory=list)

    def known(self, path: Path) -> Path:
        """The longest beginning of ``path`` that is in the file; ``()`` is the file itself."""
        while path and path not in self.places:
            path = path[:-1]
        return path

    def of_key(self, path: Path) -> tuple[int, int]:
        """Line and column of the key, or of the nearest table around it."""
        place = self.places.get(self.known(path))
        return place.key if place else (1, 1)

    def of_value(self, path: Path) -> tuple[int, int]:
        """Line and column of the value, or of the nearest table around it."""
        place = self.places.get(self.known(path))
        return place.value if place else (1, 1)


def locate(text: str) -> Positions:
    """Positions of all keys in ``text``; of a text with faults, of those that can be read."""
    source = text.encode()
    found = Positions()
    arrays: dict[Path, int] = {}
    root = _parser().parse(source).root_node
    work: list[tuple[Node, Path]] = [(child, ()) for child in reversed(root.named_children)]
    lines = source.split(b"\n")
    while work:
        node, above = work.pop()
        if node.type in ("table", "table_array_element"):
            work.extend((child, path) for child, path in reversed(list(_table(node, found, arrays, lines))))
        elif node.type == "pair" and (name := _key(node)) is not None:
            path = (*above, *_names(name))
            value = node.named_children[-1]
            if _add(found, path, len(above), name, value, lines):
                work.append((value, path))
        elif node.type == "inline_table":
            work.extend((child, above) for child in reversed(node.named_children))
        elif node.type == "array":
            items = [child for child in node.named_children if child.type != "comment"]
            for index, item in enumerate(items):
                at = _point(item, lines)
                found.places.setdefault((*above, index), Place(at, at))
                work.append((item, (*above, index)))
    return found


def faults(text: str, error: tomllib.TOMLDecodeError) -> list[Mistake]:
    """Every fault of grammar in a text that tomllib refused, in the order of the file; at least the one that it named."""
    message = str(error)
    if message.startswith("Cannot") and (doubles := locate(text).doubles):
        return doubles
    at = _AT.search(message)
    if at and at[1]:
        line, column = int(at[1]), int(at[2])
    else:
        stripped = text.rstrip()
        line, column = stripped.count("\n") + 1, len(stripped) - (stripped.rfind("\n") + 1) + 1
    reason = message[: at.start()] if at else message
    return [Mistake(line, column, "", t("this is no TOML: {reason}", reason=reason), "CFG_SYNTAX")]


def _table(node: Node, found: Positions, arrays: dict[Path, int], lines: list[bytes]) -> Iterator[tuple[Node, Path]]:
    name = _key(node)
    if name is None:
        return
    *around, last = _names(name)
    path: Path = ()
    for part in around:
        path = (*path, part)
        if path in arrays:
            path = (*path, arrays[path])
    path = (*path, last)
    if node.type == "table_array_element":
        place = Place(_point(name, lines), _point(node, lines))
        for end in range(1, len(path) + 1):
            found.places.setdefault(path[:end], place)
        arrays[path] = arrays.get(path, -1) + 1
        path = (*path, arrays[path])
        found.places[path] = place
    elif not _add(found, path, 0, name, node, lines):
        return
    for child in node.named_children:
        if child.type == "pair":
            yield child, path


def _add(found: Positions, path: Path, above: int, name: Node, value: Node, lines: list[bytes]) -> bool:
    """Note a key or table; False when it is there twice."""
    place = Place(_point(name, lines), _point(value, lines))
    for end in range(above + 1, len(path)):  # tables that this key or header makes on the way
        found.places.setdefault(path[:end], place)
    if path in found.written:
        message = t("is there twice; the first is in line {line}", line=found.places[path].key[0])
        found.doubles.append(Mistake(*place.key, ".".join(str(part) for part in path), message, "CFG_DUPLICATE"))
        return False
    found.written.add(path)
    found.places[path] = place
    return True


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_toml.language()))


def _key(node: Node) -> Node | None:
    return next((child for child in node.named_children if child.type in _KEYS), None)


def _names(key: Node) -> tuple[str, ...]:
    parts: list[str] = []
    work = [key]
    while work:
        node = work.pop()
        if node.type == "dotted_key":
            work.extend(reversed(node.named_children))
        else:
            parts.append(_name(node.text or b""))
    return tuple(parts)


def _name(raw: bytes) -> str:
    text = raw.decode(errors="replace")
    if text[:1] not in "\"'":
        return text
    try:
        return str(next(iter(tomllib.loads(f"{text} = 0"))))
    except tomllib.TOMLDecodeError:
        return text


def _point(node: Node, lines: list[bytes]) -> tuple[int, int]:
    row, column = node.start_point
    return row + 1, len(lines[row][:column].decode(errors="replace")) + 1
