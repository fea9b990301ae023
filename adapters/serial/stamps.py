"""Times as instruments write them: ISO 8601 and its neighbours, seconds since 1970, or a format of one's own. Pure.

A time without a zone is in the zone that was configured, else in that of this machine.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_PARTS: Final = re.compile(
    r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})[T ,;]+"
    r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?[ ]?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_SECONDS: Final = re.compile(r"[0-9]{9,10}(?:\.[0-9]{1,9})?")
_NS: Final = 1_000_000_000


class Stamps:
    """Reads times; ``read`` raises ValueError for what is none."""

    def __init__(self, form: str | None = None, timezone: str | None = None) -> None:
        self._form = form
        self._zone: tzinfo | None = zone(timezone) if timezone is not None else None

    def read(self, text: str) -> int:
        """UTC nanoseconds since 1970."""
        if self._form is not None:
            return self._ns(datetime.strptime(text, self._form))  # noqa: DTZ007 - the zone is added, if it has none
        parts = _PARTS.fullmatch(text)
        if parts is None:
            if _SECONDS.fullmatch(text) is None:
                raise ValueError(text)
            seconds, _, fraction = text.partition(".")
            return int(seconds) * _NS + int(fraction.ljust(9, "0") or 0)
        year, month, day, hour, minute, second = (int(part or 0) for part in parts.groups()[:6])
        stamp = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - as above
        if parts[8] is not None:
            stamp = stamp.replace(tzinfo=UTC if parts[8] == "Z" else datetime.strptime(parts[8], "%z").tzinfo)
        return self._ns(stamp) + int((parts[7] or "").ljust(9, "0"))

    def _ns(self, stamp: datetime) -> int:
        if stamp.tzinfo is None:
            stamp = stamp.replace(tzinfo=self._zone) if self._zone is not None else stamp.astimezone()
        try:
            whole = int(stamp.replace(microsecond=0).timestamp())
        except (OverflowError, OSError) as e:
            raise ValueError(f"{stamp} is out of range") from e
        return whole * _NS + stamp.microsecond * 1000


def zone(name: str) -> ZoneInfo:
    """The time zone of this name; raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise ValueError(f'{name!r} is no time zone; write for example "Asia/Tokyo" or "UTC"') from e


def example(form: str) -> None:
    """Raise ValueError when ``form`` is no format of `datetime.strptime`."""
    try:
        datetime.strptime(datetime.now(UTC).strftime(form), form)  # noqa: DTZ007
    except ValueError as e:
        raise ValueError(f'time_format = {form!r} is no format of a time; write for example "%d.%m.%Y %H:%M:%S"') from e
