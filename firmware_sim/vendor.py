"""A vendor's program that drops files in a folder: CSV scans written slowly in place, TIFF images renamed into place.

Invariants: files are numbered without a hole; the truth of a file is written before the file is complete (closed or
renamed); its modification time is the truth's `t`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from firmware_sim.faults import Fault
from firmware_sim.instrument import Instrument, Options, StartError
from firmware_sim.truth import Protocol

POINTS: Final = 200
IMAGE_SIDE: Final = 64
PIECES: Final = 4


class Vendor(Instrument):
    """`firmware-sim vendor`. Ready line: `folder`, an absolute path."""

    name = "vendor"
    model = "DiffractoScan 4.2 (simulated)"
    protocol: ClassVar[Protocol] = "files"
    main_stream = "files"
    units: ClassVar[Mapping[str, str]] = {"files": ""}
    rate = 1.0
    faults: ClassVar[Mapping[str, str]] = {
        "zero": "a file of 0 bytes, counted",
        "garbage": "a file of ARG (1000) random bytes under the name of a scan, counted",
        "partial": "a scan is written in two halves, ARG (0.5) seconds apart",
        "drip": "a scan is written line by line, within ARG (1) seconds",
        "hang": "nothing is written for ARG (5) seconds",
        "clockstep": "the times of files are set by ARG (3600) seconds, back with a minus",
        "abandon": "a temporary file that is never finished; not counted",
    }

    def __init__(self, options: Options, *, folder: Path) -> None:
        super().__init__(options)
        self._folder = folder
        self._files = 0

    async def open(self) -> Mapping[str, Any]:
        """Make the folder."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StartError(f"cannot make the folder {self._folder} ({e}); give another --folder") from e
        if next(self._folder.glob("scan_[0-9]*.csv"), None) is not None:
            raise StartError(f"{self._folder} holds scans already and they would be written over; give an empty --folder")
        return {"folder": str(self._folder.resolve())}

    async def tick(self) -> None:
        """Write the next file: scan_0001.csv, image_0001.tif, scan_0002.csv and so on."""
        number, is_image = divmod(self._files, 2)
        self._files += 1
        if is_image:
            self._rename_into_place(f"image_{number + 1:04d}.tif", self._tiff())
        else:
            await self._write_slowly(f"scan_{number + 1:04d}.csv", self._csv(number + 1))

    async def inject(self, fault: Fault, at: float) -> None:
        """Write the odd file that `faults` describes."""
        number = self.truth.sent.get("files", 0)
        name = f"image_{number:04d}.unfinished.tmp"
        self.truth.fault(fault.kind, at, fault.arg, **({"path": name} if fault.kind == "abandon" else {}))
        match fault.kind:
            case "zero":
                self._rename_into_place(f"empty_{number:04d}.dat", b"")
            case "garbage":
                noise = self.rng.integers(0, 256, int(fault.number(1000)), dtype="u1").tobytes()
                self._rename_into_place(f"scan_noise_{number:04d}.csv", noise)
            case "partial":
                await self._write_slowly(f"scan_halves_{number:04d}.csv", self._csv(number), pieces=2, pause=fault.number(0.5))
            case "drip":
                content = self._csv(number)
                lines = content.count(b"\n")
                await self._write_slowly(f"scan_slow_{number:04d}.csv", content, pieces=lines, pause=fault.number(1) / lines)
            case "hang":
                await asyncio.sleep(fault.number(5))
            case "clockstep":
                self.step_clock(fault)
            case "abandon":
                (self._folder / name).write_bytes(self._tiff()[:100])

    async def close(self) -> None:
        """Nothing is open between ticks."""

    async def _write_slowly(self, name: str, content: bytes, pieces: int = PIECES, pause: float | None = None) -> None:
        """Write in place, with a pause after each piece, as a program does that logs while it measures: over 0.4 periods."""
        pause = 0.4 / PIECES / self.options.rate if pause is None else pause
        step = len(content) // pieces + 1
        with (self._folder / name).open("wb", buffering=0) as file:
            for begin in range(0, len(content), step):
                file.write(content[begin : begin + step])
                await asyncio.sleep(pause)
            t = self._account(name, content)
            os.utime(file.fileno(), ns=(t, t))

    def _rename_into_place(self, name: str, content: bytes) -> None:
        temporary = self._folder / f".{name}.tmp"
        temporary.write_bytes(content)
        t = self._account(name, content)
        os.utime(temporary, ns=(t, t))
        temporary.rename(self._folder / name)

    def _account(self, name: str, content: bytes) -> int:
        t = self.truth.now()
        self.truth.item("files", t, path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        return t

    def _csv(self, number: int) -> bytes:
        two_theta = np.linspace(10, 80, POINTS)
        counts = self.rng.poisson(100 + 5000 * np.exp(-(((two_theta - 35) / 0.4) ** 2)))
        rows = "".join(f"{angle:.4f},{count}\r\n" for angle, count in zip(two_theta, counts, strict=True))
        return f"# DiffractoScan 4.2, scan {number}\r\n2theta [deg],counts\r\n{rows}".encode()

    def _tiff(self) -> bytes:
        return tiff(self.rng.poisson(40, (IMAGE_SIDE, IMAGE_SIDE)).astype("<u2"))


def tiff(image: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    """Return a 16-bit grey image (rows, columns) as an uncompressed baseline TIFF 6.0, one strip, little-endian."""
    rows, columns = image.shape
    pixels = image.astype("<u2").tobytes()
    short, long = 3, 4
    tags = [
        (256, long, columns), (257, long, rows), (258, short, 16), (259, short, 1), (262, short, 1),
        (273, long, 8), (277, short, 1), (278, long, rows), (279, long, len(pixels)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory + struct.pack("<I", 0)
