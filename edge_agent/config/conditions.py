"""Two small languages inside strings: when an instrument records (``run_while``), and what happens between runs (``idle``)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from edge_agent.config.values import positive_duration
from edge_agent.words import t

Op = Literal["==", "!=", ">", "<", ">=", "<="]

_OPS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"(?P<uri>[a-z][a-z0-9+.-]*://\S+)\s+(?P<op>[=!<>]=?|=)\s*(?P<value>\S.*)")
_QUOTED = re.compile(r"""(["'])(?P<text>[^"']*)\1""")
_RING = re.compile(r"ring\s*[=: ]\s*(?P<duration>\S.*)")
_EXAMPLE = "ca://BL05:SHUTTER == 1"


@dataclass(frozen=True, slots=True)
class RunWhile:
    """A run is open while the value at ``uri`` compares so with ``value`` (a number, or text for == and !=)."""

    uri: str
    op: Op
    value: float | str

    def __str__(self) -> str:
        """As it stands in the configuration."""
        value = f'"{self.value}"' if isinstance(self.value, str) else f"{self.value:.15g}"
        return f"{self.uri} {self.op} {value}"

    def holds(self, value: float | str) -> bool:
        """Whether the condition is true for a value of the source; text and number are never equal and have no order."""
        if isinstance(value, str) is not isinstance(self.value, str):
            return self.op == "!="
        return _OPS[self.op](value, self.value)


@dataclass(frozen=True, slots=True)
class Idle:
    """What happens to a stream between runs: kept in daily runs, ignored (counted), or the last ``seconds`` held for the next run."""

    mode: Literal["keep", "ignore", "ring"]
    seconds: float = 0.0

    def __str__(self) -> str:
        """As it stands in the configuration."""
        return f"ring = {self.seconds:.15g} s" if self.mode == "ring" else self.mode


def parse_run_while(value: object) -> RunWhile:
    """``"ca://BL05:SHUTTER == 1"``.

    Raises:
        PydanticCustomError: another form; says which one is meant.
    """
    if isinstance(value, RunWhile):
        return value
    if not isinstance(value, str) or not (match := _CONDITION.fullmatch(value.strip())):
        raise _bad(t('must be an address, a comparison and a value such as "{example}"', example=_EXAMPLE))
    op = match["op"]
    if op not in _OPS:
        raise _bad(t('"{op}" is no comparison; there are {ops}', op=op, ops=" ".join(_OPS)))
    text = match["value"]
    right: float | str
    if quoted := _QUOTED.fullmatch(text):
        right = quoted["text"]
    else:
        try:
            right = float(text)
        except ValueError:
            right = text
    if right != right:
        raise _bad(t("nan equals nothing; compare with a number"))
    if isinstance(right, str) and op not in ("==", "!="):
        raise _bad(t('"{value}" is text and has no order; use == or !=, or a number', value=right))
    return RunWhile(match["uri"], cast(Op, op), right)


def parse_idle(value: object) -> Idle:
    """``"keep"``, ``"ignore"`` or ``"ring = 30 s"``.

    Raises:
        PydanticCustomError: none of them, or the time is no duration.
    """
    if isinstance(value, Idle):
        return value
    if value == "keep":
        return Idle("keep")
    if value == "ignore":
        return Idle("ignore")
    if isinstance(value, str) and (match := _RING.fullmatch(value.strip())):
        return Idle("ring", positive_duration(match["duration"]))
    raise _bad(t('must be "keep", "ignore" or "ring = 30 s"'))


def _bad(message: str) -> PydanticCustomError:
    return PydanticCustomError("cfg_value", "{message}", {"message": message})


RunWhileText = Annotated[
    RunWhile,
    PlainValidator(parse_run_while),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^\s*[a-z][a-z0-9+.-]*://\S+\s+(==|!=|>=|<=|>|<)\s*\S", "examples": [_EXAMPLE]}),
]
"""``"ca://BL05:SHUTTER == 1"``."""

IdleText = Annotated[
    Idle,
    PlainValidator(parse_idle),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^(keep|ignore|\s*ring\s*[=: ].+)$", "examples": ["keep", "ignore", "ring = 30 s"]}),
]
"""``"keep"``, ``"ignore"``, ``"ring = 30 s"``."""
