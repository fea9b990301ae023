"""A template that fits the lines that were seen, for somebody who has none yet. Pure.

Words that are the same in all lines stay as they are, numbers become fields, other words are skipped; a guess that does not read most of
the lines is not given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from adapters.serial.outcome import Reading
from adapters.serial.template import TemplateParser, from_template

_TOKEN: Final = re.compile(
    r"(?P<time>[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}[T ][0-9:.]+(?:Z|[+-][0-9]{2}:?[0-9]{2})?)"
    r"|(?P<number>(?<![A-Za-z0-9.])[+-]?[ ]*(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![0-9.]))"
    r"|(?P<word>[^\s,;:=0-9+-][^\s,;:=]*)|(?P<blank>\s+)|(?P<other>.)"
)
_MOST: Final = 0.8
_UNIT: Final = re.compile(r"[A-Za-z%°µ/][A-Za-z0-9%°µ/^.-]{0,7}")


def suggest(lines: Sequence[bytes]) -> str | None:
    """A template for ``--parse``; None when the lines are no text or do not look alike."""
    try:
        texts = [text for line in lines if (text := line.decode("ascii").strip())]
    except UnicodeDecodeError:
        return None
    for text in dict.fromkeys(texts):
        template = _template(text, texts)
        if template is not None and _share(template, texts) >= _MOST:
            return template
    return None


def _template(text: str, all_texts: Sequence[str]) -> str | None:
    pieces = [(found.lastgroup or "", found[0]) for found in _TOKEN.finditer(text)]
    numbers = sum(kind == "number" for kind, _ in pieces)
    if not numbers:
        return None
    parts: list[str] = []
    names: list[str] = []
    unit_of, last_word, named, stamped = "", "", False, False
    for kind, piece in pieces:
        if kind == "number":
            names.append(_name(last_word if named else "", names))
            parts.append(f"{{{names[-1]}:float}}")
            unit_of, last_word, named = names[-1], "", False
        elif kind == "time" and not stamped:
            parts.append("{time:ts}")
            stamped = True
        elif kind == "word" and unit_of and _UNIT.fullmatch(piece):
            parts.append("{unit:word}" if numbers == 1 else f"{{{unit_of}_unit:word}}")
            unit_of = ""
        elif kind == "word" or kind == "time":
            parts.append(_literal(piece) if all(piece in other for other in all_texts) else "{_:word}")
            last_word = piece
        else:
            parts.append(" " if kind == "blank" else _literal(piece))
            last_word = last_word if kind == "blank" or piece in "=:" else ""
            named = named or piece in "=:"
            unit_of = "" if piece == "," or piece == ";" else unit_of
    return "".join(parts)


def _name(word: str, taken: Sequence[str]) -> str:
    name = re.sub(r"[^a-z0-9_]", "", word.lower()).lstrip("0123456789_")[:20]
    if not name or name in taken or name in ("unit", "status"):
        name = next(f"value{i}" for i in range(1, 1000) if f"value{i}" not in taken)
    return name


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _share(template: str, texts: Sequence[str]) -> float:
    try:
        parser = TemplateParser(from_template(template), "ascii", {}, {})
    except ValueError:
        return 0.0
    return sum(isinstance(parser.parse(text.encode()), Reading) for text in texts) / len(texts)
