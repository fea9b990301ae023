from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys

import pytest

from firmware_sim.loopback import LOOPBACK, hold_port
from firmware_sim.repeater import CONFIRM, REGISTER, start_stand_in

PROBE = """
import socket
from firmware_sim.loopback import confine_datagrams
wide = socket.socket(type=socket.SOCK_DGRAM)
wide.bind(("0.0.0.0", 0))
stream = socket.socket()
assert confine_datagrams()
print(wide.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16), stream.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16))
"""


def test_datagram_sockets_are_bound_to_the_loopback_device() -> None:
    if sys.platform != "linux":
        return
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == r"b'lo\x00' b''"


def test_a_held_port_refuses_clients_until_a_server_listens_and_nobody_else_gets_it() -> None:
    port = hold_port()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((LOOPBACK, port))
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((LOOPBACK, port))
    for _ in range(2):  # a server may come back
        with socket.create_server((LOOPBACK, port)) as server, socket.create_connection((LOOPBACK, port)):
            server.accept()[0].close()
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind((LOOPBACK, port))


async def test_the_repeater_stand_in_holds_its_port_and_confirms_clients_only() -> None:
    transport, port = await start_stand_in()
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as client, socket.socket(type=socket.SOCK_DGRAM) as wide:
        try:
            wide.bind(("", port))
            raise AssertionError("the port is free, so a CA client would start a caRepeater")
        except OSError:
            pass
        client.setblocking(False)
        client.bind((LOOPBACK, 0))
        for noise in (b"\xff" * 5, struct.pack(">HHHHII", 1, 0, 0, 0, 0, 0)):
            client.sendto(noise, (LOOPBACK, port))
        for register in (struct.pack(">HHHHII", REGISTER, 0, 0, 0, 0, 0), b""):
            client.sendto(register, (LOOPBACK, port))
            answer = await asyncio.wait_for(loop.sock_recv(client, 64), 10)
            command, *_, address = struct.unpack(">HHHHII", answer)
            assert command == CONFIRM
            assert socket.inet_ntoa(address.to_bytes(4, "big")) == LOOPBACK
    transport.close()
