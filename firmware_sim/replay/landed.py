"""Reads a landed run as `docs/layout.md` describes it, and nothing else: what a replay has to send, in the order in which it arrived.

Invariants: streams come from the segments in the order of their ordinals; rows that are no events (`valid` = 2) are left out, but the
first of them is what the source showed before; nothing of the agent is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

NO_TIME: Final = -(2**63)
INITIAL: Final = 2
FRAME_COLUMNS: Final = ("time", "time_arrival", "frame_number")
ROW_COLUMNS: Final = ("time", "time_arrival", "valid", "status", "value")


class RunError(Exception):
    """A run that cannot be played back; the message says why and what to do."""


@dataclass(slots=True)
class Landed:
    """One stream over all segments. `columns` are joined arrays of one length; frames stay in their files (`frames`).

    `times` (UTC ns) say when each item is due: the source's time, else that of its arrival.
    """

    key: str
    uri: str
    kind: str
    unit: str
    source_type: str
    attributes: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    frames: list[tuple[Path, str, int]] = field(default_factory=list)
    """Frame streams: file, dataset and length of each segment."""
    changed: bool = False
    """Whether type or shape changed within the run; `columns` end before that."""

    @property
    def instrument(self) -> str:
        """The part of the key before the slash."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """The part of the key behind the slash."""
        return self.key.partition("/")[2]

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """When each item is due."""
        own, arrival = self.columns["time"], self.columns["time_arrival"]
        return np.where(own == NO_TIME, arrival, own)

    @property
    def before(self) -> Any:
        """The value that the source showed before its first event; zero or empty where the run does not say, as of a frame."""
        if self.kind == "frames":
            path, name, _ = self.frames[0]
            with h5py.File(path) as file:
                return np.zeros(file[name].shape[1:], file[name].dtype)
        values = self.columns["value"]
        known = np.flatnonzero(self.columns["valid"] == INITIAL)
        return values[known[0]] if len(known) else np.zeros((1, *values.shape[1:]), values.dtype)[0]

    @property
    def states(self) -> list[str]:
        """The names of the states of an enumeration, in order; empty for other streams."""
        keys = (key for key in self.attributes if key.startswith("source_state_"))
        return [str(self.attributes[key]) for key in sorted(keys, key=lambda key: int(key.rpartition("_")[2]))]

    def each_frame(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the frames one by one, each read when it is wanted."""
        for path, name, _ in self.frames:
            with h5py.File(path) as file:
                yield from file[name]


@dataclass(frozen=True, slots=True)
class VendorFile:
    """A file below `files/INSTRUMENT/`; `mtime` in ns."""

    instrument: str
    name: str
    path: Path
    mtime: int

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Run:
    """A landed run: its streams by `instrument/stream`, and its vendor files in order of their times."""

    folder: Path
    streams: dict[str, Landed]
    files: list[VendorFile]


def read_run(folder: Path) -> Run:
    """Read everything but the frames' pixels.

    Raises:
        RunError: the folder holds no segments that can be read.
    """
    import hdf5plugin  # noqa: F401 - registers the filters that segments use, in the process that plays a run

    streams: dict[str, Landed] = {}
    segments = []
    for path in (*folder.glob("*_*.h5"), *folder.glob("*.nxs")):
        try:
            with h5py.File(path) as file:
                if "entry/integrity" in file:  # the master has none
                    segments.append((int(file["entry"].attrs["ordinal"]), path))
        except OSError as e:
            raise RunError(f"{path} cannot be read ({e}); fetch it again, or check the run: edge-agent verify {folder}") from e
    for _, path in sorted(segments):
        with h5py.File(path) as file:
            _read_segment(path, file["entry"], streams)
    files = sorted((_vendor_file(folder, path) for path in folder.glob("files/*/**/*") if path.is_file()), key=lambda one: one.mtime)
    if not (streams or files):
        raise RunError(f"{folder} holds no segment and no vendor file; give the folder of a landed run, as PROJECT/GROUP/DATE/000123")
    return Run(folder, streams, files)


def _vendor_file(folder: Path, path: Path) -> VendorFile:
    instrument, _, name = path.relative_to(folder / "files").as_posix().partition("/")
    return VendorFile(instrument, name, path, path.stat().st_mtime_ns)


def _read_segment(path: Path, entry: Any, streams: dict[str, Landed]) -> None:
    for instrument in (group for group in entry["instrument"].values() if isinstance(group, h5py.Group)):
        for group in (g for g in instrument.values() if isinstance(g, h5py.Group) and "source_id" in g.attrs):
            frames = "data" in group
            said = {name: _plain(value) for name, value in group.attrs.items()}
            data = group["data"] if frames else group["value"]
            stream = _stream(streams, said, "frames" if frames else "rows", _plain(data.attrs["units"]))
            if frames:
                stream.frames.append((path, data.name, len(data)))
            _extend(stream, {name: group[name][()] for name in (FRAME_COLUMNS if frames else ROW_COLUMNS) if name in group})
    if "tags" in entry:
        _read_tags(entry["tags"], streams)


def _read_tags(tags: Any, streams: dict[str, Landed]) -> None:
    described = {name: tags[name].asstr()[()] for name in ("source_id", "units", "source_uri", "source_type", "table")}
    columns = (*ROW_COLUMNS, "tag")
    tables = {name: {c: tags[name][c][()] for c in columns if c in tags[name]} for name in set(described["table"])}
    for line, key in enumerate(described["source_id"]):
        table = tables[described["table"][line]]
        mine = table["tag"] == line
        said = {"source_id": key, "source_uri": described["source_uri"][line], "source_type": described["source_type"][line]}
        stream = _stream(streams, said, "rows", described["units"][line])
        _extend(stream, {name: column[mine] for name, column in table.items() if name != "tag"})


def _stream(streams: dict[str, Landed], said: dict[str, Any], kind: str, unit: str) -> Landed:
    key = str(said["source_id"])
    if key not in streams:
        streams[key] = Landed(key, str(said["source_uri"]), kind, unit, str(said.get("source_type", "")), said)
    return streams[key]


def _extend(stream: Landed, columns: dict[str, npt.NDArray[Any]]) -> None:
    if not stream.columns:
        stream.columns = columns
        return
    stream.changed = stream.changed or any(_form(stream.columns[name]) != _form(columns[name]) for name in columns)
    if not stream.changed:
        stream.columns = {name: np.concatenate([stream.columns[name], columns[name]]) for name in columns}


def _form(column: npt.NDArray[Any]) -> tuple[Any, ...]:
    """Type and shape of one row."""
    return column.dtype, column.shape[1:]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value
