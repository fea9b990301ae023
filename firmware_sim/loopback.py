"""Keeps simulated instruments on the loopback interface, where a protocol library alone does not.

Invariant: after `confine_datagrams` returned True, no IPv4 datagram from outside this machine reaches the process.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import stat
from typing import Final

LOOPBACK: Final = "127.0.0.1"

log = logging.getLogger(__name__)


def hold_port() -> int:
    """Return a loopback port that is free for TCP and UDP now; its TCP side is given to nobody else while this process lives.

    A socket that is bound and does not listen keeps it from servers that ask for any port and from clients. A server that sets
    ``SO_REUSEADDR``, as servers do, may listen there; while none does, connections are refused.
    """
    for _ in range(100):
        tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((LOOPBACK, 0))
        atexit.register(tcp.close)
        port = int(tcp.getsockname()[1])
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                udp.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise OSError("no loopback port is free for both TCP and UDP")


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback TCP port now."""
    with socket.socket() as tcp:
        # As servers do: connections of an earlier server that are still dying down are no obstacle.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def confine_datagrams() -> bool:
    """Bind every IPv4 UDP socket of this process to the device `lo`.

    pvxs binds its search socket, and libca its client sockets, to 0.0.0.0 whatever their interface lists say.
    Returns False (and logs a warning) where the system cannot do it: anywhere but on Linux.
    """
    device = getattr(socket, "SO_BINDTODEVICE", None)
    if device is None:
        log.warning("this system cannot bind sockets to a device; search datagrams are taken on every interface")
        return False
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family == socket.AF_INET and one.type == socket.SOCK_DGRAM:
                    one.setsockopt(socket.SOL_SOCKET, device, b"lo\0")
        except PermissionError:
            log.warning("not allowed to bind sockets to a device; search datagrams are taken on every interface")
            return False
        except OSError as e:
            # Descriptors come and go while we look; one that is gone needs no confinement.
            log.debug("descriptor %s: %s", name, e)
    return True
