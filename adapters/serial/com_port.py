"""pyserial's RFC 2217 client, made to end in an orderly way when the server does not, and to count what the server tells of the line.

Invariants: a server that breaks off, or that speaks no Telnet, ends the connection and prints nothing; the socket is closed
with the port. In pyserial 3.5 an error in its thread goes to stderr, and a socket whose shutdown fails stays open.
"""

from __future__ import annotations

import logging
from dataclasses import astuple
from typing import Any, Final

from serial import rfc2217

from adapters.serial.line_errors import LineErrors, from_line_state

SET_LINESTATE_MASK: Final = b"\x0a"
BAD_LINE: Final = b"\x1e"
"""Tell of break, framing and parity errors and overruns (RFC 2217, section 3)."""

log = logging.getLogger(__name__)


class ComPort(rfc2217.Serial):
    """A port behind a device server that also sets baudrate and parity."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.errors: LineErrors | None = None
        super().__init__(*args, **settings)

    def open(self) -> None:
        """Open the port and ask to be told when the line is bad; a server that cannot do so says nothing."""
        super().open()
        self.rfc2217_send_subnegotiation(SET_LINESTATE_MASK, BAD_LINE)

    def close(self) -> None:
        """Close the port and its socket."""
        socket: Any = getattr(self, "_socket", None)
        super().close()
        if socket is not None:
            socket.close()

    def _telnet_process_subnegotiation(self, suboption: bytes) -> None:
        if suboption[:2] == rfc2217.COM_PORT_OPTION + rfc2217.SERVER_NOTIFY_LINESTATE and len(suboption) >= 3:
            before = self.errors or LineErrors()
            told = from_line_state(suboption[2])
            self.errors = LineErrors(*(a + b for a, b in zip(astuple(before), astuple(told), strict=True)))
        super()._telnet_process_subnegotiation(suboption)  # type: ignore[misc]

    def _telnet_read_loop(self) -> None:
        try:
            super()._telnet_read_loop()  # type: ignore[misc]
        except Exception as e:
            # Whatever it was, `read` finds this thread gone and says that the connection failed.
            log.debug("the connection to %s failed: %s: %s", self.portstr, type(e).__name__, e)
