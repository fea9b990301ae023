"""Which files of a folder are wanted. Pure.

A pattern without ``/`` looks at names, one with ``/`` at the path below the watched folder; ``*`` and ``?`` stop at ``/``, ``**`` does not,
``[a-z]`` is one of these characters. Upper and lower case differ. An exclusion also holds for everything below an excluded folder.
A template is such a pattern of the whole path with one ``{word}`` in it, which stands for what the word means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class Selection:
    """Wanted: matches one of ``include`` and none of ``exclude``."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include_names = [compile_pattern(p) for p in include if "/" not in p]
        self._include_paths = [compile_pattern(p) for p in include if "/" in p]
        self._exclude_names = [compile_pattern(p) for p in exclude if "/" not in p]
        self._exclude_paths = [compile_pattern(p) for p in exclude if "/" in p]

    def wants(self, path: str) -> bool:
        """Whether a file is wanted; ``path`` is below the watched folder, with ``/``."""
        name = path.rpartition("/")[2]
        chosen = any(p.fullmatch(name) for p in self._include_names) or any(p.fullmatch(path) for p in self._include_paths)
        return chosen and not self.excludes(path)

    def excludes(self, path: str) -> bool:
        """Whether a file or folder, or a folder above it, is excluded."""
        parts = path.split("/")
        above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        return any(p.fullmatch(part) for p in self._exclude_names for part in parts) or any(
            p.fullmatch(folder) for p in self._exclude_paths for folder in above
        )


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression that a pattern stands for."""
    return re.compile("".join(_translate(token) for token in _TOKEN.findall(pattern)), re.DOTALL)


def compile_template(template: str, word: str, meaning: str) -> re.Pattern[str]:
    """The regular expression of a template; the group ``word`` is what it is about, and ``meaning`` the regular expression of that.

    Raises:
        ValueError: ``{word}`` does not stand in it exactly once, or it begins with a slash.
    """
    before, found, after = template.partition(f"{{{word}}}")
    if not found or f"{{{word}}}" in after or template.startswith("/"):
        raise ValueError(f'{template!r} must hold {{{word}}} once and be a path below the folder')
    sides = ("".join(_translate(token) for token in _TOKEN.findall(side)) for side in (before, after))
    return re.compile(f"(?P<{word}>{meaning})".join(sides), re.DOTALL)


def _translate(token: str) -> str:
    if token in _MEANINGS:
        return _MEANINGS[token]
    if len(token) > 2 and token[0] == "[":
        inside = re.escape(token[1:-1]).replace(r"\-", "-").replace(r"\!", "!")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(token)
