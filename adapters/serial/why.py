"""Reasons that stand in a record in English and on a screen in the reader's language. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_agent.words import t


class Why(str):
    """A reason, in English; ``text`` with its ``{places}`` and ``values`` are what a translation needs. Values may be reasons."""

    __slots__ = ("text", "values")
    text: str
    values: Mapping[str, Any]

    def __new__(cls, text: str, /, **values: Any) -> Why:
        """``text`` is an English sentence, a literal, with named places for the ``values``."""
        self = super().__new__(cls, text.format(**values))
        self.text, self.values = text, values
        return self

    @property
    def here(self) -> str:
        """The reason in the reader's language."""
        return t(self.text, **{name: value.here if isinstance(value, Why) else value for name, value in self.values.items()})
