"""Stands in for caRepeater, which CA clients otherwise start detached, for ever and on every interface.

A CA client starts a repeater when it can bind the repeater port itself, then registers until it is confirmed
(Channel Access Protocol Specification, REPEATER_REGISTER 0x18, REPEATER_CONFIRM 0x11). This one holds the port on
loopback, confirms, and passes no beacons on: whoever shares a machine with a simulated IOC needs none.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final, cast

from firmware_sim.loopback import LOOPBACK

REGISTER: Final = 0x18
CONFIRM: Final = 0x11
_HEADER: Final = struct.Struct(">HHHHII")


class _StandIn(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        # Clients before CA 4.x register by an empty datagram.
        registers = not data or (len(data) >= _HEADER.size and _HEADER.unpack_from(data)[0] == REGISTER)
        if registers and self._transport is not None:
            address = int.from_bytes(socket.inet_aton(addr[0]), "big")
            self._transport.sendto(_HEADER.pack(CONFIRM, 0, 0, 0, 0, address), addr)


async def start_stand_in() -> tuple[asyncio.DatagramTransport, int]:
    """Hold a free repeater port on loopback; returns the transport (close it) and the port number."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_StandIn, local_addr=(LOOPBACK, 0))
    return transport, int(transport.get_extra_info("sockname")[1])
