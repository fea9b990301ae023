"""Time zones by IANA name, and the name of the system's own."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from pydantic_core import PydanticCustomError

from edge_agent.config.problems import nearest
from edge_agent.words import t

_LOCALTIME = Path("/etc/localtime")


@cache
def zone(name: str) -> ZoneInfo:
    """The zone of this name.

    Raises:
        PydanticCustomError: there is none; says which one is alike.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as e:  # unknown, a path, a folder of zones
        context = {"message": t('is no IANA time zone such as "Asia/Tokyo"'), "nearest": nearest(name, available_timezones())}
        raise PydanticCustomError("cfg_timezone", "{message}", context) from e


def system_timezone() -> str:
    """The system's zone by ``TZ`` or ``/etc/localtime``, else ``UTC``."""
    link = os.path.realpath(_LOCALTIME) if _LOCALTIME.is_symlink() else ""
    for name in (os.environ.get("TZ", "").lstrip(":"), link.partition("zoneinfo/")[2]):
        if name in available_timezones():
            return name
    return "UTC"
