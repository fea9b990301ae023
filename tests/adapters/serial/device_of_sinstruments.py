"""A device for the simulator ``sinstruments`` (its server, pty and TCP transports; run in an environment of its own): a pump with a
framed binary protocol, and a spectrometer that answers binary blocks. Started as ``python -m sinstruments``'s plug-in, never imported here."""

from __future__ import annotations

import struct

from sinstruments.simulator import BaseDevice, BaseProtocol


class FramedProtocol(BaseProtocol):
    """STX, data, ETX and the XOR of data and ETX."""

    def handle(self) -> None:
        waiting = b""
        while data := self.transport.read1(self.channel):
            waiting += data
            while b"\x03" in waiting[:-1]:
                end = waiting.index(b"\x03")
                message, waiting = waiting[waiting.index(b"\x02") + 1 : end], waiting[end + 2 :]
                reply = self.device.handle_message(message)
                if reply is not None:
                    self.transport.send(self.channel, reply)


class Pump(BaseDevice):
    """``P?`` is answered by the pressure, rising by 0.5 each time; every tenth answer has a wrong check."""

    protocol = FramedProtocol
    asked = 0

    def handle_message(self, message: bytes) -> bytes | None:
        if message != b"P?":
            return None
        Pump.asked += 1
        inner = b"P=%.1f mbar\x03" % (Pump.asked * 0.5)
        check = 0
        for byte in inner:
            check ^= byte
        return b"\x02" + inner + bytes((check ^ (Pump.asked % 10 == 0),))


class Spectrometer(BaseDevice):
    """``*IDN?`` and ``CURV?``: 64 numbers, of which the first counts the spectra; their bytes hold line feeds."""

    newline = b"\n"
    count = 0

    def handle_message(self, message: bytes) -> bytes | None:
        if message.strip() == b"*IDN?":
            return b"Simulated,Spectrometer,42,1.0\n"
        if message.strip() != b"CURV?":
            return None
        Spectrometer.count += 1
        return b"#3128" + struct.pack(">64H", Spectrometer.count, *range(0x0A00, 0x0A3F)) + b"\n"
