"""Keeps asyncua's log out of ours: in an outage it writes a traceback every second, at level ERROR.

Invariant: after `quieten` nothing of asyncua reaches the root logger above DEBUG; what matters of it is in the exceptions
that the adapter reports, once an outage, through `Sink.disconnected`.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class _Whisper(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.debug("%s: %s", record.name, record.getMessage())


def quieten() -> None:
    """Redirect asyncua's warnings and errors to our DEBUG; once a process, whoever calls."""
    library = logging.getLogger("asyncua")
    if any(isinstance(handler, _Whisper) for handler in library.handlers):
        return
    library.addHandler(_Whisper())
    library.propagate = False
    library.setLevel(logging.WARNING)
