"""Plays a landed run: every item of every stream in the order and at the pace at which it was recorded, or faster.

Invariants: items of one stream keep their order; times are those of now, `speed` times as dense as they were; what a stream showed
before its first event is shown before the start. Gaps of the run are gaps of the playback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from firmware_sim.instrument import Instrument, Options, Presence, StartError
from firmware_sim.replay.files import FilesPart
from firmware_sim.replay.landed import INITIAL, Landed, Run, RunError, VendorFile, read_run
from firmware_sim.replay.line import LinePart, raw_of
from firmware_sim.replay.part import Part
from firmware_sim.replay.playable import NETWORK, is_alarm, scheme, why_not
from firmware_sim.truth import Protocol

LATEST_WAIT = 0.5
"""Seconds after which a wait for the next item looks whether the playback was stopped."""


class Replay(Instrument):
    """`firmware-sim replay`.

    Ready line: `instruments`, each with the addresses of its protocol, `streams`, `items`, and what is `left_out` with the reason.
    """

    name = "replay"
    model = "Playback of a landed run"
    protocol: ClassVar[Protocol] = "replay"
    main_stream = ""
    units: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Options, *, run: Path, speed: float, instruments: tuple[str, ...], folder: Path | None) -> None:
        try:
            landed = read_run(run)
            self._streams = _chosen(landed, instruments)
        except RunError as e:
            raise StartError(str(e)) from e
        self._left_out = {stream.key: why for stream in self._streams if (why := why_not(stream))}
        self._streams = [stream for stream in self._streams if stream.key not in self._left_out]
        self.units = {stream.key: stream.unit for stream in self._streams}  # type: ignore[misc]
        super().__init__(options)
        self._speed = speed
        self._files = [file for file in landed.files if not instruments or file.instrument in instruments]
        if self._files and folder is None:
            raise StartError(f"the run holds {len(self._files)} vendor files; say where they go: --folder, or choose others: --instrument")
        self._folder = folder
        self._parts: dict[str, Part] = {}
        self._part_of: dict[str, Part] = {}
        self._file_part: FilesPart | None = None
        self._due: list[tuple[int, int, int]] = []
        """Time in ns, stream or -1 for a file, row."""
        self._next = 0
        self._began = 0.0
        self._presence = Presence()

    @property
    def full(self) -> bool:
        """True when everything was played."""
        return self._next >= len(self._due)

    async def open(self) -> Mapping[str, Any]:
        """Serve each protocol, and lay out what is due when."""
        shown: dict[str, Any] = {}
        try:
            for name, part, streams in self._make_parts():
                self._parts[name] = part
                self._part_of |= dict.fromkeys((stream.key for stream in streams), part)
                shown[name] = await part.open()
        except RunError as e:
            raise StartError(str(e)) from e
        if self._files and self._folder is not None:
            for name in {file.instrument for file in self._files}:
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            self._file_part = FilesPart(self._folder, self.truth)
            shown["files"] = {"folder": str(self._folder.resolve())}
        self._lay_out()
        names = [stream.key for stream in self._streams]
        return {"instruments": shown, "streams": names, "items": len(self._due), "left_out": self._left_out}

    async def tick(self) -> None:
        """Show what is due, or wait for it."""
        clock = asyncio.get_running_loop().time
        self._began = self._began or clock()
        due = (self._due[self._next][0] - self._due[0][0]) / 1e9 / self._speed + self._began
        if due > clock():
            await asyncio.sleep(min(due - clock(), LATEST_WAIT))
            return
        _, place, row = self._due[self._next]
        self._next += 1
        if place < 0:
            self._play_file(self._files[row])
            return
        stream = self._streams[place]
        await self._part_of[stream.key].show(stream, row)

    async def close(self) -> None:
        """Stop serving."""
        for part in self._parts.values():
            await part.close()

    def _make_parts(self) -> list[tuple[str, Part, list[Landed]]]:
        """One part for each network protocol, and one for each serial instrument; only what is needed is imported."""
        by_scheme: dict[str, list[Landed]] = {}
        for stream in self._streams:
            key = scheme(stream) if scheme(stream) in NETWORK else f"serial {stream.instrument}"
            by_scheme.setdefault(key, []).append(stream)
        made: list[tuple[str, Part, list[Landed]]] = []
        for key, streams in by_scheme.items():
            if key == "opc.tcp":
                from firmware_sim.replay.opcua import OpcUaPart

                made.append(("opcua", OpcUaPart(streams, self.truth), streams))
            elif key == "ca":
                from firmware_sim.replay.ca import CaPart

                made.append(("ca", CaPart(streams, self.truth), streams))
            elif key == "pva":
                from firmware_sim.replay.pva import PvaPart

                made.append(("pva", PvaPart(streams, self.truth), streams))
            else:
                instrument = streams[0].instrument
                raw = raw_of(streams, instrument)
                made.append((instrument, LinePart([raw], self.truth), [raw]))
        return made

    def _lay_out(self) -> None:
        columns = []
        # What belongs to a value or a frame of the same time comes before it.
        for place, stream in sorted(enumerate(self._streams), key=lambda one: _goes_with_another(one[1]), reverse=True):
            if stream.key not in self._part_of:
                continue  # values of a serial line, of which the bytes are played
            times = stream.times
            rows = np.arange(len(times))
            if "valid" in stream.columns:
                rows = rows[stream.columns["valid"] != INITIAL]
            # A clock that was set, or an item that overtook another, does not change the order in which they came.
            columns.append((np.maximum.accumulate(times[rows]) if len(rows) else rows, np.full(len(rows), place), rows))
        columns.append((np.array([f.mtime for f in self._files], np.int64), np.full(len(self._files), -1), np.arange(len(self._files))))
        times, places, rows = (np.concatenate([column[i] for column in columns]) for i in range(3))
        order = np.argsort(times, kind="stable")
        self._due = list(zip(times[order].tolist(), places[order].tolist(), rows[order].tolist(), strict=True))

    def _play_file(self, file: VendorFile) -> None:
        if self._file_part is not None:
            self._file_part.show(file)


def _goes_with_another(stream: Landed) -> bool:
    return stream.kind == "rows" and (stream.source_type.endswith("attribute") or is_alarm(stream))


def _chosen(run: Run, instruments: tuple[str, ...]) -> list[Landed]:
    there = {stream.instrument for stream in run.streams.values()} | {file.instrument for file in run.files}
    if missing := set(instruments) - there:
        raise RunError(f"the run has no instrument {sorted(missing)[0]!r}; it has {', '.join(sorted(there))}")
    return [stream for stream in run.streams.values() if not instruments or stream.instrument in instruments]
