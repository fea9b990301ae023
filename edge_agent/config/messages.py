"""A validation error of pydantic, said in the words of a configuration: which key, what is wrong, what was probably meant.

Values are not repeated in messages: a password in the wrong place must not reach a screen or a log.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edge_agent.config import adapters
from edge_agent.config.models import COMMON, Config, Instrument
from edge_agent.config.positions import Path
from edge_agent.config.problems import nearest
from edge_agent.config.targets import KINDS
from edge_agent.words import t

_QUOTED = re.compile(r"'([^']*)'")
_TYPES = {
    "string": "text in quotes",
    "path": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list in [ ]",
    "tuple": "a list in [ ]",
    "set": "a list in [ ]",
    "frozen_set": "a list in [ ]",
    "dict": "a table",
    "model": "a table",
    "model_attributes": "a table",
    "dataclass": "a table",
}
_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
    datetime.date: "a date or time",
    datetime.time: "a date or time",
    object: "this",
}
WORDS = frozenset(_TYPES.values()) | frozenset(_KINDS.values())
"""Words that are looked up by name, which no search for sentences finds."""

_LIMITS = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<"), "less_than_equal": ("le", "<=")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake, by the path in the file.

    ``at_key`` says that the key is at fault, not its value; of a missing key the last part of ``path`` is not in the file.
    """

    path: Path
    message: str
    code: str
    nearest: str | None = None
    at_key: bool = False
    union: Path | None = None
    """Where the value could have been one of several types; None where there was only one."""
    is_type: bool = False


def findings(error: ValidationError, data: Mapping[str, Any]) -> list[Finding]:
    """All mistakes in ``data``, the branches of one union told as one."""
    found = [_finding(details, data) for details in error.errors(include_url=False)]
    meant = {(*finding.path[:-1], finding.nearest) for finding in found if finding.code == "CFG_UNKNOWN_KEY"}
    return [finding for finding in _merged(found) if finding.code != "CFG_MISSING_KEY" or finding.path not in meant]


def _finding(details: ErrorDetails, data: Mapping[str, Any]) -> Finding:
    loc = details["loc"]
    if loc[0] == "instrument" and loc[2:3] == ("settings",):
        loc = (*loc[:2], *loc[3:])
    path, union = _path(loc, data)
    kind, context = details["type"], details.get("ctx", {})
    if kind == "missing":
        return Finding((*path, str(loc[-1])), t("is missing"), "CFG_MISSING_KEY", union=union)
    if kind == "extra_forbidden":
        return _unknown(path, data, union)
    if kind.startswith("cfg_"):
        is_key = loc[-1] == "[key]"
        return Finding(path, details["msg"], kind.upper(), context.get("nearest"), at_key=is_key, union=union)
    if kind in ("literal_error", "enum"):
        choices = _QUOTED.findall(str(context.get("expected", "")))
        wrong = details["input"]
        close = nearest(wrong, choices) if isinstance(wrong, str) else None
        return Finding(path, t("must be one of {choices}", choices=", ".join(choices)), "CFG_VALUE", close, union=union)
    text, is_type = _text(kind, context, details)
    return Finding(path, text, "CFG_TYPE" if is_type else "CFG_VALUE", union=union, is_type=is_type)


def _text(kind: str, context: Mapping[str, Any], details: ErrorDetails) -> tuple[str, bool]:
    for ending in ("_type", "_parsing", "_from_float", "_attributes_type"):
        if (name := _TYPES.get(kind.removesuffix(ending))) and kind.endswith(ending):
            return t("must be {expected}, not {found}", expected=t(name), found=_what(details["input"])), True
    if kind in _LIMITS:
        key, sign = _LIMITS[kind]
        return t("must be {sign} {limit}", sign=sign, limit=context.get(key)), False
    if kind == "string_pattern_mismatch":
        return t("must look like {pattern}", pattern=context.get("pattern")), False
    return details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, "), kind.endswith("_type")


def _what(value: object) -> str:
    return t(next(name for kind, name in _KINDS.items() if isinstance(value, kind)))


def _path(loc: tuple[int | str, ...], data: Any) -> tuple[Path, Path | None]:
    """The part of ``loc`` that is in the file, and where a name of a union's branch stood first."""
    path: Path = ()
    union: Path | None = None
    for part in loc:
        if isinstance(data, dict) and part in data:
            data, path = data[part], (*path, part)
        elif isinstance(data, list) and isinstance(part, int) and 0 <= part < len(data):
            data, path = data[part], (*path, part)
        elif union is None:
            union = path
    return path, union


def _unknown(path: Path, data: Mapping[str, Any], union: Path | None) -> Finding:
    wrong = str(path[-1])
    if len(path) > 1 and wrong in keys_at((), data):
        message = t("unknown key here; it belongs to the top of the file, before the first [table]")
        return Finding(path, message, "CFG_UNKNOWN_KEY", at_key=True, union=union)
    return Finding(path, t("unknown key"), "CFG_UNKNOWN_KEY", nearest(wrong, keys_at(path[:-1], data)), at_key=True, union=union)


def keys_at(path: Path, data: Mapping[str, Any]) -> set[str]:
    """The valid keys of the table at ``path``."""
    models: set[type[BaseModel]] = {Config}
    rest = path
    keys: set[str] = set()
    if len(path) >= 2 and path[0] == "instrument":
        table = data["instrument"][path[1]]
        models = {Instrument}
        if (name := table.get("adapter")) in adapters.names():
            models = {adapters.adapter_class(name).Config}
        rest, keys = path[2:], set(COMMON) if len(path) == 2 else set()
    elif len(path) >= 2 and path[0] == "target":
        table = data["target"][path[1]]
        models, rest = {model for kind, model in KINDS.items() if kind in table}, path[2:]
    for part in rest:
        fields = [field for model in models for name, field in model.model_fields.items() if part in (name, field.alias)]
        models = {model for field in fields for model in _models(field.annotation)} if fields else models
    return keys | {field.alias or name for model in models for name, field in model.model_fields.items() if name != "settings"}


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _merged(found: list[Finding]) -> Iterable[Finding]:
    unions: dict[Path, list[Finding]] = {}
    for finding in found:
        if finding.union is not None:
            unions.setdefault(finding.union, []).append(finding)
    for finding in found:
        if finding.union is None:
            yield finding
            continue
        branches = unions.pop(finding.union, [])
        precise = [branch for branch in branches if not (branch.is_type and branch.path == finding.union)]
        if precise:
            yield from precise
        elif branches:
            yield Finding(finding.path, t(", or ").join(dict.fromkeys(branch.message for branch in branches)), finding.code)
