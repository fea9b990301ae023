"""Keeps asyncua's log out of ours: in an outage it writes a traceback every second, at level ERROR.

What matters of it is in the exceptions that the adapter reports, once an outage, through `Sink.disconnected`, and in the
numbers of the server's messages, which show any that could not be decoded. Whoever wants the library's own words sets
the level of the logger ``asyncua`` before the adapter runs, and it is left alone.
"""

from __future__ import annotations

import logging


def quieten() -> None:
    """Silence asyncua, unless its level was set on purpose."""
    library = logging.getLogger("asyncua")
    if library.level == logging.NOTSET:
        library.setLevel(logging.CRITICAL + 1)
