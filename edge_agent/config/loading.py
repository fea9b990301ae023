"""From a file to a `Config`, or to every mistake in it.

`examine` never raises: it returns what it found. `load` is for those who need the configuration: it raises one `InvalidConfig` with
all mistakes, and logs warnings. Only `InvalidConfig` comes out, whatever the bytes are.
"""

from __future__ import annotations

import logging
import tomllib
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from edge_agent.config.messages import findings
from edge_agent.config.models import Config
from edge_agent.config.positions import Path, Positions, faults, locate
from edge_agent.config.problems import InvalidConfig, Problem
from edge_agent.config.semantics import Remark, by_file, by_machine, inline_secrets
from edge_agent.words import t

log = logging.getLogger(__name__)

LARGEST = 4 * 2**20
"""Most bytes that a configuration may have."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What an examination found; ``config`` is None when there are errors."""

    file: str
    config: Config | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> list[Problem]:
        """The problems that keep the agent from starting."""
        return [problem for problem in self.problems if problem.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that do not."""
        return [problem for problem in self.problems if problem.level == "warning"]


def load(path: str | File) -> Config:
    """The configuration in a file.

    Raises:
        InvalidConfig: the file cannot be read or used; ``problems`` has every mistake with its line and column.
    """
    found = examine(path)
    if found.config is None:
        raise InvalidConfig(found.file, found.errors)
    for warning in found.warnings:
        log.warning("%s", warning)
    return found.config


def examine(path: str | File, *, machine: bool = False) -> Examination:
    """Everything that is right or wrong with a file; ``machine`` also looks at this machine's folders and secrets."""
    file = str(path)
    try:
        raw = File(path).open("rb")
        with raw:
            content = raw.read(LARGEST + 1)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        return _failed(file, 1, 1, t("cannot be read: {reason}", reason=reason), "CFG_FILE")
    if len(content) > LARGEST:
        return _failed(file, 1, 1, t("is larger than 4 MiB: this is no configuration"), "CFG_FILE")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        before = content[: e.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        return _failed(file, line, column, t("is not written in UTF-8; save it again as UTF-8"), "CFG_ENCODING")
    return examine_text(text, file, machine=machine)


def examine_text(text: str, file: str, *, machine: bool = False) -> Examination:
    """Everything that is right or wrong with the text of a configuration; ``file`` is its path, which relative paths start from."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        return Examination(file, None, tuple(Problem(file, m.line, m.column, m.key, m.message, m.code) for m in faults(text, e)))
    except RecursionError:
        return _failed(file, 1, 1, t("is nested too deeply"), "CFG_SYNTAX")
    except ValueError as e:  # a number or date that Python cannot hold
        return _failed(file, 1, 1, t("this is no TOML: {reason}", reason=e), "CFG_SYNTAX")
    positions = locate(text)
    config, problems = _validate(data, file, positions)
    remarks = [*by_file(data), *(by_machine(config) if machine and config else ())]
    problems += [_remarked(file, positions, remark) for remark in remarks]
    problems.sort(key=lambda p: (p.line, p.column))
    usable = not any(problem.level == "error" for problem in problems)
    return Examination(file, config if usable else None, tuple(problems))


def _validate(data: dict[str, Any], file: str, positions: Positions) -> tuple[Config | None, list[Problem]]:
    inline = list(inline_secrets(data))
    problems = [_remarked(file, positions, remark) for remark in inline]
    told = {remark.path for remark in inline}
    try:
        return Config.model_validate(data, context={"folder": File(file).absolute().parent}), problems
    except ValidationError as e:
        found = findings(e, data)
    except RecursionError:
        return None, [*problems, Problem(file, 1, 1, "", t("is nested too deeply"), "CFG_SYNTAX")]
    for finding in found:
        if finding.path not in told:
            at = positions.of_key(finding.path) if finding.at_key else positions.of_value(finding.path)
            problems.append(Problem(file, *at, _shown(finding.path), finding.message, finding.code, finding.nearest))
    return None, problems


def _remarked(file: str, positions: Positions, remark: Remark) -> Problem:
    at = positions.of_value(remark.path)
    return Problem(file, *at, _shown(remark.path), remark.message, remark.code, remark.nearest, remark.level)


def _shown(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _failed(file: str, line: int, column: int, message: str, code: str) -> Examination:
    return Examination(file, None, (Problem(file, line, column, "", message, code),))
