"""Log lines for people or for machines, on standard error; libraries that talk much are turned down."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

QUIET = ("aiohttp", "asyncua", "asyncio", "watchdog", "paho")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, code."""

    def format(self, record: logging.LogRecord) -> str:
        """Encode."""
        value = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "code": getattr(record, "code", None),
        }
        if record.exc_info:
            value["traceback"] = self.formatException(record.exc_info)
        return json.dumps(value, ensure_ascii=False)


def configure(level: str, *, as_json: bool) -> None:
    """Set up the root logger of the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
