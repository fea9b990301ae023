"""A spectrometer that sends spectra as definite-length blocks (IEEE 488.2, 8.7.9), each with a number and a checksum.

A block is `#`, the number of digits, the length in bytes, the payload and a line feed. The payload, little-endian: number of the
spectrum (uint32, from 1), exposure time in microseconds (uint32), counts (uint16 each), and the CRC of all before it. Two other forms:
`bare` blocks hold the counts alone, and `frame` is the payload without its CRC behind the bytes AA 55 and its length in bytes
(uint32), and then the CRC of length and payload.
Invariants: each spectrum counts once in the stream `spectrum`, whose truth has the SHA-256 of its counts and its number;
`READ?` gives one spectrum, `INITiate:CONTinuous ON` one each tick.
"""

from __future__ import annotations

import binascii
import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import numpy as np

from firmware_sim.faults import Fault
from firmware_sim.instrument import Options
from firmware_sim.line import LINE_FAULTS, LineInstrument, Reading
from firmware_sim.scpi import Interpreter, ScpiError, switch

HEAD: Final = struct.Struct("<II")
CRCS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "none": lambda _: b"",
    # CRC-16/IBM-3740: polynomial 0x1021, begun with 0xFFFF.
    "crc16": lambda data: struct.pack("<H", binascii.crc_hqx(data, 0xFFFF)),
    # CRC-32/ISO-HDLC, as of zlib and Ethernet.
    "crc32": lambda data: struct.pack("<I", zlib.crc32(data)),
}
FRAME_START: Final = b"\xaa\x55"
LINES: Final = ((0.21, 900.0), (0.34, 250.0), (0.35, 400.0), (0.62, 1800.0), (0.83, 120.0))
"""Emission lines: where in the spectrum (0 to 1), and counts at the top."""


class Spectrometer(LineInstrument):
    """`firmware-sim spectrometer`. Ready line: `path`, or `host`, `port` and `url`; `pixels`, `block` (bytes of a whole block), `crc`."""

    name = "spectrometer"
    model = "SPX-2048 (simulated)"
    end: ClassVar[bytes] = b"\n"
    main_stream = "spectrum"
    units: ClassVar[Mapping[str, str]] = {"spectrum": "count"}
    faults: ClassVar[Mapping[str, str]] = {
        **{kind: what for kind, what in LINE_FAULTS.items() if kind != "nan"},
        "reset": "continuous sending goes on, and numbers begin again at 1",
        "reorder": "the next two spectra are sent in the wrong order",
        "typechange": "the next spectrum has half as many pixels",
        "corrupt": "one bit of the next spectrum is turned over, its CRC as it was; not counted",
    }

    def __init__(
        self, options: Options, *, form: str = "numbered", pixels: int = 2048, crc: str = "crc32", tcp: bool = False, port: int = 0
    ) -> None:
        super().__init__(options, tcp=tcp, port=port)
        self._form = form
        self._pixels = pixels
        self._crc = crc
        self._number = 0
        self._continuous = False
        place = np.linspace(0, 1, pixels)
        lines = [top * np.exp(-(((place - centre) / 0.004) ** 2)) for centre, top in LINES]
        self._expected = 20 + np.sum(lines, axis=0)
        identity = f"firmware-sim,SPX-{pixels},S{700_000 + options.seed},1.4"
        self._scpi = Interpreter(
            identity,
            {"INITiate:CONTinuous": self._switch, "INITiate:CONTinuous?": lambda _: str(int(self._continuous))},
            lambda: self._switch("OFF"),
        )

    async def open(self) -> Mapping[str, Any]:
        """Make the line and begin to answer."""
        block = len(self._block(np.zeros(self._pixels, "<u2"), 0))
        return {**await super().open(), "pixels": self._pixels, "block": block, "crc": self._crc}

    @property
    def sends(self) -> bool:
        """After `INITiate:CONTinuous ON`."""
        return self._continuous

    def obey(self, command: str) -> bytes | None:
        """Answer by the book."""
        answer = self._scpi.obey(command)
        return None if answer is None else answer.encode() + self.end

    def measures(self, command: str) -> bool:
        """`READ?`."""
        return self._scpi.knows(command, "READ?")

    def reading(self, command: str) -> Reading:
        """One spectrum of Poisson counts."""
        self._number += 1
        return self._reading(self.rng.poisson(self._expected).clip(0, 65535).astype("<u2"), self._number)

    def not_now(self, command: str) -> bytes | None:
        """No answer, but an error."""
        self._scpi.complain(ScpiError(-230, "Data corrupt or stale"))
        return None

    def restart(self) -> bytes:
        """Begin to count again."""
        self._number = 0
        return b""

    def spoil(self, fault: Fault, reading: Reading) -> Reading:
        """Half a spectrum."""
        counts = self.rng.poisson(self._expected[::2]).clip(0, 65535).astype("<u2")
        return self._reading(counts, self._number)

    def forget_client(self) -> None:
        """End continuous sending."""
        self._continuous = False

    def _reading(self, counts: np.ndarray[Any, np.dtype[np.uint16]], spectrum: int) -> Reading:
        truth = {"sha256": hashlib.sha256(counts.tobytes()).hexdigest(), "shape": counts.shape, "dtype": "uint16", "unique_id": spectrum}
        return Reading(self._block(counts, spectrum), {"spectrum": truth})

    def _block(self, counts: np.ndarray[Any, np.dtype[np.uint16]], spectrum: int) -> bytes:
        if self._form == "bare":
            return _block(counts.tobytes()) + self.end
        body = HEAD.pack(spectrum, round(1e6 / self.options.rate)) + counts.tobytes()
        if self._form == "frame":
            body = struct.pack("<I", len(body)) + body
            return FRAME_START + body + CRCS[self._crc](body)
        return _block(body + CRCS[self._crc](body)) + self.end

    def _switch(self, text: str) -> None:
        self._continuous = switch(text)


def _block(payload: bytes) -> bytes:
    length = str(len(payload)).encode()
    return b"#%d%s%s" % (len(length), length, payload)
