"""The truth file: what a simulated instrument really sent, one JSON object per line, flushed line by line.

Invariants: a line is written before the thing it describes can be seen by a client; per stream the counted items
are numbered 1, 2, 3 ... without a hole; timestamps of one process strictly increase, but for the faults
`clockstep` and `reorder`; a file without its end line
belongs to an instrument that was killed. Lines, in this order::

    {"truth": 1, "device": "balance", "protocol": "serial", "seed": 7, "units": {"mass": "g"}, "started_ns": T}
    {"stream": "Temperature", "n": 0, "t": T, "v": 293.15, "initial": true}
    {"stream": "Temperature", "n": 1, "t": T, "v": 293.19}
    {"stream": "image", "n": 1, "t": T, "sha256": HEX, "shape": [512, 512], "dtype": "uint16", "unique_id": 1}
    {"stream": "files", "n": 1, "t": T, "path": "scan_0001.csv", "size": 5120, "sha256": HEX}
    {"fault": "garbage", "at": 2.0, "arg": null, "t": T, ...}
    {"end": true, "sent": {"mass": 200}, "dropped": {}}

`protocol` is one of serial, opcua, ca, pva, files, and replay, which is several.
`t` is UTC in nanoseconds, always a multiple of 1000, and equal to
the source timestamp that a client of the protocol sees (serial lines carry none: there it is the time of the write).
`units` maps every stream to its unit as the instrument states it ("" for none).

- `"initial": true`, n = 0: what a client can read before production starts; not counted in `sent`.
- `v`: number, boolean or string. A float that JSON cannot carry is `"v": null, "nonfinite": "nan" | "inf" | "-inf"`.
- `sha256` of an image: over its raw C-order little-endian bytes; `shape` is (rows, columns).
- `"dropped": true`: the instrument counted the item (its own counter moved) and never put it on the wire. Such items
  are in `dropped`, not in `sent`; a client that watches the counter declares exactly these as lost.
- `clock`: nanoseconds by which the instrument's clock was wrong when it stamped the item (the fault `clockstep`).
- An item that a fault sends twice is two items. Items are in the order in which they were sent.
- A fault line says what went wrong, when (seconds since production began; `t` is never of a clock that is wrong), and
  what else is known of it.

Invariant of a comparison, per stream: sent + dropped = landed + lost.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TextIO, TypeAlias

Scalar: TypeAlias = float | int | bool | str
Protocol: TypeAlias = Literal["serial", "opcua", "ca", "pva", "files", "replay"]

VERSION: Final = 1


class TruthError(Exception):
    """A truth file that cannot be read; the message names the file, the line and the reason."""


@dataclass(frozen=True, slots=True)
class Header:
    """First line: who wrote the file. `started_ns` is UTC in nanoseconds."""

    device: str
    protocol: str
    seed: int
    units: Mapping[str, str]
    started_ns: int


@dataclass(frozen=True, slots=True)
class Item:
    """One thing sent. `t` in UTC ns; `clock`: by how many ns the clock that gave it was wrong.

    `size` in bytes; `shape` in elements (rows, columns); hashes in lower-case hex.
    """

    stream: str
    n: int
    t: int
    v: Scalar | None = None
    sha256: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    unique_id: int | None = None
    path: str | None = None
    size: int | None = None
    clock: int | None = None
    initial: bool = False
    dropped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the line's object: only what applies, non-finite floats spelled out."""
        line: dict[str, Any] = {"stream": self.stream, "n": self.n, "t": self.t}
        if isinstance(self.v, float) and not math.isfinite(self.v):
            line |= {"v": None, "nonfinite": str(self.v)}
        elif self.v is not None:
            line["v"] = self.v
        for key in ("sha256", "dtype", "unique_id", "path", "size", "clock"):
            if (value := getattr(self, key)) is not None:
                line[key] = value
        if self.shape is not None:
            line["shape"] = list(self.shape)
        return line | {key: True for key in ("initial", "dropped") if getattr(self, key)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Item:
        """Build an item from a line's object; raises KeyError, TypeError or ValueError on a malformed one."""
        known = dict(line)
        if (nonfinite := known.pop("nonfinite", None)) is not None:
            known["v"] = float(nonfinite)
        if (shape := known.get("shape")) is not None:
            known["shape"] = tuple(int(n) for n in shape)
        return cls(**known)


@dataclass(frozen=True, slots=True)
class FaultNote:
    """A fault that was injected `at` seconds after production began; `details` is what the device adds."""

    kind: str
    at: float
    arg: str | None
    t: int
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Truth:
    """A whole truth file. `complete` is False when the end line is missing: the instrument was killed."""

    header: Header
    items: tuple[Item, ...]
    initial: tuple[Item, ...]
    faults: tuple[FaultNote, ...]
    sent: Mapping[str, int]
    dropped: Mapping[str, int]
    complete: bool

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of all streams that have an item or an initial value, sorted."""
        return tuple(sorted({item.stream for item in (*self.items, *self.initial)}))

    def of(self, stream: str, *, dropped: bool = False) -> list[Item]:
        """Return the counted items of one stream in order, the dropped ones only if asked for."""
        return [item for item in self.items if item.stream == stream and (dropped or not item.dropped)]

    def initial_of(self, stream: str) -> Item | None:
        """Return what a client could read of this stream before production, if anything."""
        return next((item for item in self.initial if item.stream == stream), None)


@dataclass(slots=True)
class TruthWriter:
    """Writes a truth file and numbers the items; without a path it only counts.

    Not thread-safe: a device calls it from its event loop only.
    """

    device: str
    protocol: Protocol
    seed: int
    units: Mapping[str, str]
    path: Path | None = None
    sent: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    ended: bool = False
    clock_offset_ns: int = 0
    """By how much the instrument's clock is wrong: the fault `clockstep` sets it."""
    _file: TextIO | None = None
    _last_ns: int = 0
    _numbers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        """Create the file and write its first line; raises OSError when the path cannot be written."""
        if self.path is not None:
            self._file = self.path.open("w", encoding="utf-8")
        header = {"truth": VERSION, "device": self.device, "protocol": self.protocol, "seed": self.seed}
        self._write(header | {"units": dict(self.units), "started_ns": self.now()})

    def now(self) -> int:
        """Return the instrument's clock: UTC ns as a multiple of 1000, later than every time before unless a fault set the clock."""
        self._last_ns = max(self._last_ns + 1000, time.time_ns() // 1000 * 1000)
        return self._last_ns + self.clock_offset_ns

    def initial(self, stream: str, t: int, v: Scalar) -> None:
        """Note a value that a client can read before production starts."""
        self._write(Item(stream, 0, t, v=v, initial=True).to_json())

    def item(self, stream: str, t: int, **what: Any) -> int:
        """Count and note one item; `what` are the further fields of `Item`. Returns its number within the stream."""
        self._numbers[stream] += 1
        item = Item(stream, self._numbers[stream], t, clock=self.clock_offset_ns or None, **what)
        counter = self.dropped if item.dropped else self.sent
        counter[stream] = counter.get(stream, 0) + 1
        self._write(item.to_json())
        return item.n

    def fault(self, kind: str, at: float, arg: str | None, **details: Any) -> None:
        """Note an injected fault."""
        self._write({"fault": kind, "at": at, "arg": arg, "t": self.now() - self.clock_offset_ns, **details})

    def end(self) -> None:
        """Write the last line once and close the file; nothing can be sent after it."""
        if self.ended:
            return
        self._write({"end": True, "sent": self.sent, "dropped": self.dropped})
        self.ended = True
        if self._file is not None:
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.ended:
            raise RuntimeError(f"{self.device}: nothing may be sent after the end line")
        if self._file is not None:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()


def read_truth(path: Path | str) -> Truth:
    """Read a truth file, also one whose writer was killed (then `complete` is False and a torn last line is left out).

    Raises:
        TruthError: the file is empty, is no truth file, or a line before the last one is malformed.
        OSError: the file cannot be read.
    """
    path = Path(path)
    header: Header | None = None
    items: list[Item] = []
    faults: list[FaultNote] = []
    end: Mapping[str, Any] | None = None
    for number, line in _objects(path):
        if end is not None:
            raise TruthError(f"{path}, line {number}: something follows the end line")
        try:
            if header is None:
                header = _header(line)
            elif "end" in line:
                end = {"sent": dict(line["sent"]), "dropped": dict(line["dropped"])}
            elif "fault" in line:
                faults.append(_fault(line))
            else:
                items.append(Item.from_json(line))
        except (KeyError, TypeError, ValueError) as e:
            raise TruthError(f"{path}, line {number}: not a line of a truth file of version {VERSION} ({e})") from e
    if header is None:
        raise TruthError(f"{path}: empty, so not a truth file; give the file that --truth named")
    counted = tuple(item for item in items if not item.initial)
    sent: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for item in counted:
        counter = dropped if item.dropped else sent
        counter[item.stream] = counter.get(item.stream, 0) + 1
    if end is not None and end != {"sent": sent, "dropped": dropped}:
        raise TruthError(f"{path}: the end line says {end}, the items are {sent} sent, {dropped} dropped; the file was altered")
    return Truth(
        header=header,
        items=counted,
        initial=tuple(item for item in items if item.initial),
        faults=tuple(faults),
        sent=sent,
        dropped=dropped,
        complete=end is not None,
    )


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # What stands behind the last line feed is a line whose writer died while writing it.
    whole_lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    for number, text in enumerate(whole_lines, start=1):
        try:
            value = json.loads(text)
        except ValueError as e:
            raise TruthError(f"{path}, line {number}: not JSON ({e})") from e
        if not isinstance(value, dict):
            raise TruthError(f"{path}, line {number}: not a JSON object")
        yield number, value


def _header(line: Mapping[str, Any]) -> Header:
    known = dict(line)
    if known.pop("truth") != VERSION:
        raise ValueError(f"version {line['truth']}")
    return Header(**known)


def _fault(line: Mapping[str, Any]) -> FaultNote:
    details = {key: value for key, value in line.items() if key not in {"fault", "at", "arg", "t"}}
    return FaultNote(kind=line["fault"], at=line["at"], arg=line["arg"], t=line["t"], details=details)
