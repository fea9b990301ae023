"""Files that are one item: an image and its header, a scan and its log. Pure.

A set is what the templates of one entry of ``together`` make of one ``{name}``; the first template's file leads it. A set is whole when a
file for each template is there and has settled; until then none of its files is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from adapters.files.patterns import compile_template
from adapters.files.settling import Candidate

NAME = ".+?"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file stands: in the set ``name`` of an entry, as which ``member`` of it."""

    entry: int
    name: str
    member: int


@dataclass(slots=True)
class _Set:
    waiting: dict[int, Candidate] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)


class Sets:
    """The sets of a folder. Paths are below it, with ``/``."""

    def __init__(self, together: Sequence[Sequence[str]]) -> None:
        """Take the templates.

        Raises:
            ValueError: one is none.
        """
        self._templates = [[compile_template(template, "name", NAME) for template in entry] for entry in together]
        self._sets: dict[tuple[int, str], _Set] = {}

    def place(self, path: str) -> Place | None:
        """The place of a file in its set; None: it stands for itself."""
        for number, entry in enumerate(self._templates):
            for member, template in enumerate(entry):
                found = template.fullmatch(path)
                if found is not None:
                    return Place(number, found["name"], member)
        return None

    def settled(self, place: Place, candidate: Candidate) -> list[Candidate]:
        """A file has settled: all that can be taken now, the leader first; nothing while another is missing."""
        found = self._sets.setdefault((place.entry, place.name), _Set())
        found.waiting[place.member] = candidate
        if len(found.waiting.keys() | found.taken) < len(self._templates[place.entry]):
            return []
        whole, found.waiting = found.waiting, {}
        return [whole[member] for member in sorted(whole)]

    def took(self, place: Place) -> None:
        """A file needs nothing any more, in this version."""
        self._sets.setdefault((place.entry, place.name), _Set()).taken.add(place.member)

    def keep_only(self, paths: Iterable[str]) -> None:
        """A whole look found these; sets of which nothing is there are forgotten."""
        if self._templates:
            there = {(place.entry, place.name) for path in paths if (place := self.place(path)) is not None}
            self._sets = {key: found for key, found in self._sets.items() if key in there}

    def incomplete(self) -> int:
        """How many files wait for others."""
        return sum(len(found.waiting) for found in self._sets.values())
