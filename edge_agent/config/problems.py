"""What is wrong with a configuration: one `Problem` a mistake, all of them in one `InvalidConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from edge_agent.errors import ConfigError
from edge_agent.words import t


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake and where it is.

    ``line`` and ``column`` count characters from 1; ``nearest`` is the valid one that was probably meant.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    code: str
    nearest: str | None = None
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """``lab.toml:3:1: instrument.balance.prot: unknown key (did you mean "port"?)``."""
        text = f"{self.file}:{self.line}:{self.column}: "
        text += f"{self.key}: " if self.key else ""
        if self.level == "warning":
            text += t("warning: ")
        text += self.message
        return text + (t(' (did you mean "{nearest}"?)', nearest=self.nearest) if self.nearest else "")


class InvalidConfig(ConfigError):
    """A configuration that cannot be used. ``problems`` are all that were found, in the order of the file."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        what = (
            t("The configuration {file} has one mistake.", file=file)
            if count == 1
            else t("The configuration {file} has {count} mistakes.", file=file, count=count)
        )
        super().__init__(
            what,
            why="\n".join(str(problem) for problem in self.problems),
            try_=t("edge-agent check {file}", file=file),
            code=self.problems[0].code if count == 1 else None,
        )


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that is most like this one, None when none is alike."""
    spelled = {known.lower(): known for known in valid}
    found = get_close_matches(word.lower(), spelled, n=1, cutoff=0.65)
    return spelled[found[0]] if found else None
