"""Cuts the TCP connections of a server whose library has no way to do it.

Invariant: listening sockets stay; only accepted IPv4 connections of this process are shut down.
"""

from __future__ import annotations

import os
import socket
import stat


def cut_connections(port: int) -> int:
    """Shut down every TCP connection whose own port is `port`; returns how many there were."""
    cut = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.type == socket.SOCK_STREAM and one.family == socket.AF_INET and one.getsockname()[1] == port:
                    one.getpeername()  # a socket that only listens has no peer
                    one.shutdown(socket.SHUT_RDWR)
                    cut += 1
        except OSError:
            continue  # it listens, or it went while we looked
    return cut
