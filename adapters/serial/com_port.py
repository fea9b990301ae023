"""pyserial's RFC 2217 client, made to end in an orderly way when the server does not.

Invariants: a server that breaks off, or that speaks no Telnet, ends the connection and prints nothing; the socket is closed
with the port. In pyserial 3.5 an error in its thread goes to stderr, and a socket whose shutdown fails stays open.
"""

from __future__ import annotations

import logging
from typing import Any

from serial import rfc2217

log = logging.getLogger(__name__)


class ComPort(rfc2217.Serial):
    """A port behind a device server that also sets baudrate and parity."""

    def close(self) -> None:
        """Close the port and its socket."""
        socket: Any = getattr(self, "_socket", None)
        super().close()
        if socket is not None:
            socket.close()

    def _telnet_read_loop(self) -> None:
        try:
            super()._telnet_read_loop()  # type: ignore[misc]
        except Exception as e:
            # Whatever it was, `read` finds this thread gone and says that the connection failed.
            log.debug("the connection to %s failed: %s: %s", self.portstr, type(e).__name__, e)
