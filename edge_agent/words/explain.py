"""What each error code means and what the operator does about it, from ``codes/*.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from edge_agent.words.catalogue import language


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code in the reader's language: what it means, and the cure."""

    meaning: str
    cure: str


def codes() -> list[str]:
    """All codes that are explained, sorted."""
    return sorted(_tables())


def explanation(code: str) -> Explanation | None:
    """The explanation of a code, None for an unknown one."""
    table = _tables().get(code)
    return None if table is None else Explanation(table["meaning"][language()], table["cure"][language()])


@cache
def _tables() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted((files("edge_agent.words") / "codes").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return found
