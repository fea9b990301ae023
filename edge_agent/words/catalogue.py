"""The lookup behind `t`: which language, which sentence.

The language is read from ``EDGE_AGENT_LANG``, else from ``LC_ALL``, ``LC_MESSAGES``, ``LANG`` (POSIX order), else from the system.
Sentences are read once; a sentence that two files translate differently is refused, because which of them is shown would depend on the
order of the files.
"""

from __future__ import annotations

import locale
import os
import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

Language = Literal["en", "ja"]
VARIABLES = ("EDGE_AGENT_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def language() -> Language:
    """The reader's language."""
    for variable in VARIABLES:
        if value := os.environ.get(variable):
            return "ja" if value.lower().startswith("ja") else "en"
    system = locale.getlocale()[0] or ""
    return "ja" if system.lower().startswith("ja") else "en"


def t(text: str, /, **values: object) -> str:
    """The sentence in the reader's language.

    Args:
        text: the English sentence, a literal; ``{name}`` marks a place, ``{{`` a brace.
        values: what stands in the places.
    """
    if language() == "ja":
        text = japanese().get(text, text)
    return text.format(**values)


@cache
def japanese() -> dict[str, str]:
    """English sentence -> Japanese sentence, of all rooms.

    Raises:
        ValueError: two files translate one sentence differently.
    """
    sentences: dict[str, str] = {}
    for file in sorted((files("edge_agent.words") / "ja").iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".toml"):
            continue
        for english, text in tomllib.loads(file.read_text(encoding="utf-8")).items():
            if sentences.setdefault(english, text) != text:
                raise ValueError(f"words/ja/{file.name}: {english!r} is translated differently in another file")
    return sentences
