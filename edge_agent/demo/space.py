"""Reads what landed: the files as docs/layout.md describes them, and nothing of the agent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters for normal reading
import numpy as np

from edge_agent.demo.judge import Landed

INITIAL = 2
NO_TIME = -(2**63)


def read_space(space: Path) -> dict[str, Landed]:
    """All streams below a project space, by ``instrument/stream``."""
    found: dict[str, Landed] = {}
    for path in sorted([*space.rglob("*.h5"), *space.rglob("*.nxs")]):
        with h5py.File(path, "r") as file:
            if "entry/integrity" in file:
                _read_segment(file, found)
    for path in sorted(p for p in space.rglob("files/*/**/*") if p.is_file()):
        parts = path.relative_to(space).parts
        below = parts.index("files")
        landed = found.setdefault(f"{parts[below + 1]}/files", Landed())
        landed.files["/".join(parts[below + 2 :])] = hashlib.sha256(path.read_bytes()).hexdigest()
    for landed in found.values():
        # A day's run and the sessions in it take turns.
        in_time = sorted(zip(landed.times, landed.values, strict=True), key=lambda pair: pair[0])
        landed.times, landed.values = [t for t, _ in in_time], [value for _, value in in_time]
    return found


def _read_segment(file: h5py.File, found: dict[str, Landed]) -> None:
    for group in file["entry/instrument"].values():
        if not isinstance(group, h5py.Group):
            continue
        for stream in group.values():
            if not isinstance(stream, h5py.Group) or "source_id" not in stream.attrs:
                continue
            landed = found.setdefault(stream.attrs["source_id"], Landed())
            if "data" in stream:
                landed.numbers += [int(n) for n in stream["frame_number"][()]]
                landed.digests += [hashlib.sha256(frame.tobytes()).hexdigest() for frame in stream["data"]]
            else:
                _add_rows(landed, *_columns(stream))
            landed.gaps += _gaps(stream["gaps"])
    if "entry/tags" in file:
        _read_tags(file["entry/tags"], found)


def _read_tags(tags: h5py.Group, found: dict[str, Landed]) -> None:
    """Streams that share tables: whose a row is, its column ``tag`` says."""
    sources, tables = (tags[name].asstr()[()] for name in ("source_id", "table"))
    for name in set(tables):
        owner = tags[name]["tag"][()]
        order = np.argsort(owner, kind="stable")
        starts = np.searchsorted(owner[order], np.arange(len(sources) + 1))
        columns = _columns(tags[name])
        for number in np.flatnonzero(tables == name):
            mine = order[starts[number] : starts[number + 1]]
            _add_rows(found.setdefault(sources[number], Landed()), *(column[mine] for column in columns))
    for source, gap in zip(tags["gaps/source_id"].asstr()[()], _gaps(tags["gaps"]), strict=True):
        found[source].gaps.append(gap)


def _columns(table: h5py.Group) -> tuple[Any, ...]:
    return tuple(table[name][()] for name in ("valid", "time", "time_arrival", "value"))


def _add_rows(landed: Landed, valid: Any, time: Any, arrival: Any, values: Any) -> None:
    events = valid != INITIAL
    landed.values += values[events].tolist()
    landed.times += np.where(time == NO_TIME, arrival, time)[events].tolist()


def _gaps(gaps: h5py.Group) -> list[tuple[int, int, int, int, int]]:
    columns = [gaps[name][()].tolist() for name in ("first", "last", "count", "time_from", "time_to")]
    return [(a, b, c, d, e) for a, b, c, d, e in zip(*columns, strict=True)]
