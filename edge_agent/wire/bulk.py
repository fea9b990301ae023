"""A TLS socket that gives as many records in one call as have arrived, where Python's gives one.

paho asks for the whole rest of a message each time. Python makes room for all of it, a megabyte, and fills in one record of 16 KiB.
"""

from __future__ import annotations

import ssl

_RECORD = 16 << 10
_BLOCK = 256 << 10
"""Bytes that one call gives at most: they are copied once more, out of the processor's cache."""


class BulkSocket(ssl.SSLSocket):
    """For ``ssl.SSLContext.sslsocket_class``; not blocking, and received from by one thread at a time."""

    _block: memoryview | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """What has arrived, at most ``buflen`` bytes; none at the end.

        Raises:
            ssl.SSLWantReadError: nothing has arrived.
        """
        if buflen <= _RECORD:
            return super().recv(buflen, flags)
        block = self._block = self._block or memoryview(bytearray(_BLOCK))
        most = min(buflen, _BLOCK)
        size = self.recv_into(block, most, flags)
        while 0 < size < most:
            try:
                more = self.recv_into(block[size:], most - size, flags)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                break
            if not more:
                break
            size += more
        return bytes(block[:size])
