"""Ready files: small files that say that others are finished. Pure.

A template says what the ready file of a file is called, beside it or (with ``../``) beside its folder. ``{name}`` stands for the file's
whole name, ``{stem}`` for its name up to the last dot, ``{folder}`` for the name of its folder. ``{name}.ready`` and ``{stem}.done``
speak of one file or set; ``DONE``, ``{folder}.ready`` and ``../{folder}.ready`` of all files of a folder, not of its sub-folders. Paths
are below the watched folder, with ``/``.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

ABOVE = "../"
_WORD = re.compile(r"\{(name|stem|folder)\}")


class ReadyFiles:
    """What a template means below a folder that is called ``root``."""

    def __init__(self, template: str, root: str) -> None:
        """Raises ValueError: the template is none."""
        self._above = template.startswith(ABOVE)
        self._name = template.removeprefix(ABOVE)
        fixed = _WORD.sub("", self._name)
        if not fixed.strip(".") or re.search(r"[/\\{}\0]", fixed) or (self._above and "{folder}" not in self._name):
            raise ValueError(f'{template!r} names no ready file; write for example "{{stem}}.done", "DONE" or "../{{folder}}.ready"')
        known: set[str] = set()
        parts = (_pattern(part, known) if n % 2 else re.escape(part) for n, part in enumerate(_WORD.split(self._name)))
        self._is_one = re.compile("".join(parts), re.DOTALL)
        self._root = root

    def of(self, path: str) -> str | None:
        """The ready file of a file; None: it would be outside of the watched folder, or the file is a ready file itself."""
        place = PurePosixPath(path)
        if self.is_one(path) or (self._above and len(place.parts) < 2):
            return None
        values = {"name": place.name, "stem": place.stem, "folder": place.parent.name or self._root}
        name = _WORD.sub(lambda word: values[word[1]], self._name)
        return ((place.parent.parent if self._above else place.parent) / name).as_posix()

    def is_one(self, path: str) -> bool:
        """Whether a path is a ready file by its name."""
        return self._is_one.fullmatch(PurePosixPath(path).name) is not None

    def folder_of(self, path: str) -> str:
        """The folder of the files that a ready file speaks of; empty for the watched one."""
        place = PurePosixPath(path)
        found = self._is_one.fullmatch(place.name)
        folder = place.parent / found["folder"] if self._above and found is not None else place.parent
        return "" if folder == PurePosixPath() else folder.as_posix()


def _pattern(word: str, known: set[str]) -> str:
    """What a word may stand for: the same each time that it is there."""
    if word in known:
        return f"(?P={word})"
    known.add(word)
    return f"(?P<{word}>.+)"
