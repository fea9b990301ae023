"""Values as they are written in a configuration: durations, sizes, days and paths.

Each is an annotated type for pydantic models. A number without a unit is refused: nobody has to guess whether ``10`` were seconds or
milliseconds. In Python a duration is a float of seconds, a size an int of bytes.
"""

from __future__ import annotations

import datetime
import re
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from edge_agent.words import t

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

_NUMBER = r"[0-9]{1,19}(\.[0-9]{1,9})?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s0-9.]+)\s*")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_LARGEST = 2**63 - 1
_DATE = {"type": "string", "format": "date", "pattern": r"^\d{4}-\d{2}-\d{2}$", "examples": ["2027-03-31"]}


def duration(value: object) -> float:
    """``"500 ms"`` -> 0.5 (seconds).

    Raises:
        PydanticCustomError: not text, no number, or no known unit; says which units there are.
    """
    number, unit = _split(value, tuple(SECONDS), "2 s")
    if unit not in SECONDS:
        raise _bad(t('"{unit}" is no unit of time; there are {units}', unit=unit, units=" ".join(SECONDS)))
    return float(number) * SECONDS[unit]


def positive_duration(value: object) -> float:
    """A duration that is not 0 s.

    Raises:
        PydanticCustomError: as `duration`, or it is 0.
    """
    if seconds := duration(value):
        return seconds
    raise _bad(t("must be longer than 0 s"))


def size(value: object) -> int:
    """``"20 GB"`` -> 20_000_000_000 (bytes); ``"256 MiB"`` counts in powers of two.

    Raises:
        PydanticCustomError: not text, no number, or no known unit; says which units there are.
    """
    number, unit = _split(value, tuple(BYTES), "20 GB")
    factor = next((BYTES[known] for known in BYTES if known.lower() == unit.lower()), None)
    if factor is None:
        raise _bad(t('"{unit}" is no unit of size; there are {units}', unit=unit, units=" ".join(BYTES)))
    if (amount := number * factor) > _LARGEST:
        raise _bad(t("is larger than any disk"))
    return int(amount)


def rate(value: object) -> int:
    """``"20 MB/s"`` -> 20_000_000 (bytes per second).

    Raises:
        PydanticCustomError: as `size`, or it is 0, or not per second.
    """
    text = value.strip() if isinstance(value, str) else value
    if not isinstance(text, str) or not text.endswith("/s"):
        raise _bad(t('must be text such as "{example}"', example="20 MB/s"))
    if amount := size(text.removesuffix("/s")):
        return amount
    raise _bad(t("must be more than 0"))


def hours(value: object) -> tuple[time, time]:
    """``"22:00-06:00"`` -> begin and end.

    Raises:
        PydanticCustomError: it is something else, or no time at all.
    """
    if isinstance(value, tuple):
        return value
    match = _HOURS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _bad(t('must be text such as "{example}"', example="22:00-06:00"))
    begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if begin == end:
        raise _bad(t("begins and ends at the same time; leave it out to send always"))
    return begin, end


def _hours_text(value: tuple[time, time]) -> str:
    return "-".join(f"{at:%H:%M}" for at in value)


def date(value: object) -> object:
    """A day, as text or as TOML writes it without quotes.

    Raises:
        PydanticCustomError: it is none.
    """
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    try:
        return datetime.date.fromisoformat(value) if isinstance(value, str) else _no_date()
    except ValueError:
        return _no_date()


def _no_date() -> NoReturn:
    raise _bad(t('must be a date such as "{example}"', example="2027-03-31"))


def local_path(value: object, info: ValidationInfo) -> object:
    """A path on this machine: ``~`` is the home folder, a relative path is below the folder of the configuration."""
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise _bad(t("must be a path"))
    try:
        path = Path(value).expanduser()
    except RuntimeError as e:
        raise _bad(t("the home folder of this user is unknown; write the whole path")) from e
    base = (info.context or {}).get("folder") if isinstance(info.context, dict | None) else None
    return path if base is None else Path(base) / path


def _split(value: object, units: tuple[str, ...], example: str) -> tuple[Decimal, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise _bad(t('needs a unit: write it as text, "{value} {unit}"', value=value, unit=example.split()[1]))
    if not isinstance(value, str):
        raise _bad(t('must be text such as "{example}"', example=example))
    if not (match := _QUANTITY.fullmatch(value)):
        raise _bad(t('must be a number and a unit such as "{example}"; units are {units}', example=example, units=" ".join(units)))
    return Decimal(match[1]), match[3]


def _bad(message: str) -> PydanticCustomError:
    return PydanticCustomError("cfg_value", "{message}", {"message": message})


def _schema(units: dict[str, float] | dict[str, int], example: str, after: str = "") -> WithJsonSchema:
    pattern = rf"^\s*{_NUMBER}\s*({'|'.join(units)}){after}\s*$"
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + " s"


Duration = Annotated[float, BeforeValidator(duration), PlainSerializer(_seconds_text), _schema(SECONDS, "2 s")]
"""``"2 s"``, ``"500 ms"``, ``"1.5 h"``: seconds as a float, 0 or more."""

PositiveDuration = Annotated[float, BeforeValidator(positive_duration), PlainSerializer(_seconds_text), _schema(SECONDS, "2 s")]
"""A duration of more than 0 s."""

Size = Annotated[int, BeforeValidator(size), PlainSerializer(lambda n: f"{n} B"), _schema(BYTES, "20 GB")]
"""``"20 GB"``, ``"256 MiB"``: bytes as an int, 0 or more."""

Date = Annotated[datetime.date, BeforeValidator(date), WithJsonSchema(_DATE)]
"""``"2027-03-31"``: a day (ISO 8601)."""

LocalPath = Annotated[Path, BeforeValidator(local_path, json_schema_input_type=str), WithJsonSchema({"type": "string"})]
"""A path on this machine, made absolute against the folder of the configuration file."""

Rate = Annotated[
    int, BeforeValidator(rate), PlainSerializer(lambda n: f"{n} B/s"),
    WithJsonSchema({"type": "string", "pattern": r"^\s*[0-9.]+\s*[A-Za-z]+/s\s*$", "examples": ["20 MB/s"]}),
]  # fmt: skip
"""``"20 MB/s"``: bytes per second."""

DayHours = Annotated[
    tuple[time, time], BeforeValidator(hours), PlainSerializer(_hours_text),
    WithJsonSchema({"type": "string", "pattern": _HOURS.pattern, "examples": ["22:00-06:00"]}),
]  # fmt: skip
"""``"22:00-06:00"``: hours of the day, over midnight where they end before they begin."""
