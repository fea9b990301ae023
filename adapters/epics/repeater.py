"""Keeps libca from starting caRepeater, which would outlive us and listen on every interface.

A CA client that finds the repeater port free starts a detached caRepeater and registers with it until it is confirmed
(Channel Access Protocol Specification: REPEATER_REGISTER 0x18, REPEATER_CONFIRM 0x11). A repeater that already runs is
used. Otherwise a socket on loopback stands in: it confirms and passes no beacons on, so lost PVs are found again by
searching (at most a minute apart) and not by their beacon.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading

REGISTER = 0x18
CONFIRM = 0x11
DEFAULT_PORT = 5065
LOOPBACK = "127.0.0.1"
_HEADER = struct.Struct(">HHHHII")

log = logging.getLogger(__name__)


def keep_repeater_from_starting() -> None:
    """Point EPICS_CA_REPEATER_PORT at a stand-in, unless a repeater runs on this machine."""
    port = os.environ.get("EPICS_CA_REPEATER_PORT", "")
    if _taken(int(port) if port.isdigit() else DEFAULT_PORT):
        return
    # Held open for the life of the process: as long as libca lives, it may look for its repeater.
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.bind((LOOPBACK, 0))
    os.environ["EPICS_CA_REPEATER_PORT"] = str(held.getsockname()[1])
    threading.Thread(target=_confirm, args=(held,), daemon=True, name="CA repeater stand-in").start()


def _taken(port: int) -> bool:
    # Bound as libca does, to the wildcard address: that is how it finds out.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as e:
            return e.errno == errno.EADDRINUSE
    return False


def _confirm(held: socket.socket) -> None:
    while True:
        try:
            data, address = held.recvfrom(1024)
            # Clients before CA 4.x register by an empty datagram.
            if not data or (len(data) >= _HEADER.size and _HEADER.unpack_from(data)[0] == REGISTER):
                held.sendto(_HEADER.pack(CONFIRM, 0, 0, 0, 0, int.from_bytes(socket.inet_aton(address[0]), "big")), address)
        except OSError as e:
            log.debug("CA repeater stand-in: %s", e)
