"""The master file of a run with several segments: every stream as one virtual dataset over its segments, so that a viewer opens one file.

Sources are relative names in the same folder. ``frame_number``, ``valid`` and the times are virtual too; whoever wants proof opens
the segments: a virtual dataset shows fill values (all bits set, or NaN) where a segment is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from edge_agent.model import RunContext
from edge_agent.seal.meta import GroupMeta
from edge_agent.segment import hdf5, layout, nexus, nxmx, peek, tags
from edge_agent.segment.tags import Tag
from edge_agent.segment.types import TEXT_DTYPE, text

MAX_SOURCES = 256
INSTRUMENT = "/entry/instrument/"


@dataclass(frozen=True, slots=True)
class Part:
    """A segment as the master needs it: file name, shapes and dtypes of its chunked datasets by path."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]


def write_master(path: Path, run: RunContext, site: str, outcome: str, record: str, parts: Sequence[Part]) -> None:
    """Write the master beside its segments; at most `MAX_SOURCES` segments a dataset are joined, later ones stay in their own files.

    Args:
        path: the file to make; must not exist.
        run: the run.
        site: name of the facility or beamline.
        outcome: how the run ended.
        record: the run record as canonical JSON.
        parts: all segments in order.
    """
    sources: dict[str, list[Part]] = {}
    listed, tagged = _tagged(path.parent, parts)
    for part in parts:
        for dataset, shape in part.shapes.items():
            shared = dataset.startswith(f"{tags.GROUP}/")
            if shape[0] and (part.name in tagged or not shared):
                sources.setdefault(dataset, []).append(part)
    with hdf5.create(path) as file:
        for name, thing in layout.entry_objects(run, site, 0, "master", record).items():
            hdf5.add(file, name, thing, {})
        file["entry/outcome"] = outcome
        end = nexus.ended(record)
        if end is not None:
            file["entry/end_time"] = end
        if listed:
            hdf5.add(file, tags.GROUP, GroupMeta({"NX_class": text("NXcollection")}), {})
            for name, thing in tags.list_objects(listed).items():
                hdf5.add(file, name, thing, {})
        for dataset, members in sources.items():
            _join(file, dataset, members[:MAX_SOURCES])
        for first in {members[0].name for members in sources.values()}:
            _copy_attributes(file, path.with_name(first), [d for d, members in sources.items() if members[0].name == first])
        groups = sorted({dataset.rpartition("/")[0] for dataset in sources})
        frames = {d.removeprefix(INSTRUMENT).removesuffix("/data"): p[0].shapes[d][1:] for d, p in sources.items() if d.endswith("/data")}
        said = nxmx.detector_objects(record, nexus.MASTER, frames, end) if end else {}
        if not said.keys() & groups:
            for name, thing in said.items():
                if name not in file:
                    hdf5.add(file, name, thing, {})
        for group in groups:
            _describe(file[group])
        plottable = sorted(groups, key=lambda g: f"{g}/data" not in sources)
        if plottable:
            file["entry/data"] = h5py.SoftLink(plottable[0])
            file[plottable[0]].attrs.create("target", plottable[0], dtype=TEXT_DTYPE)


def _tagged(folder: Path, parts: Sequence[Part]) -> tuple[tuple[Tag, ...], set[str]]:
    """The list of tags of the run, and the segments whose rows are numbered by it.

    The list goes on from segment to segment. What was numbered anew after a crash, and a segment that was freed and cannot be asked:
    their rows stay in their own files.
    """
    paths = (folder / part.name for part in parts if any(name.startswith(f"{tags.GROUP}/") for name in part.shapes))
    lists = {path.name: peek.tags_of(path) for path in paths if path.exists()}
    longest = max(lists.values(), key=len, default=())
    return longest, {name for name, listed in lists.items() if listed == longest[: len(listed)]}


def _join(file: h5py.File, dataset: str, members: Sequence[Part]) -> None:
    """One virtual dataset; members whose type or item shape differ from the first (a changed camera) are left to their own files."""
    dtype, item = np.dtype(members[0].dtypes[dataset]), members[0].shapes[dataset][1:]
    same = [p for p in members if np.dtype(p.dtypes[dataset]) == dtype and p.shapes[dataset][1:] == item]
    length = sum(p.shapes[dataset][0] for p in same)
    virtual = h5py.VirtualLayout((length, *item), dtype)
    start = 0
    for part in same:
        shape = part.shapes[dataset]
        virtual[start : start + shape[0]] = h5py.VirtualSource(part.name, dataset, shape, dtype)
        start += shape[0]
    group, _, name = dataset.rpartition("/")
    made = file.require_group(group).create_virtual_dataset(name, virtual, fillvalue=_missing(dtype))
    made.attrs.create("units", "ns" if name.startswith("time") else "count" if name in ("data", "frame_number") else "", dtype=TEXT_DTYPE)


def _copy_attributes(file: h5py.File, source: Path, datasets: Sequence[str]) -> None:
    """Units and what the sources say of themselves, from the first segment; it may have been freed already, the names then suffice."""
    if not source.exists():
        return
    with h5py.File(source, "r") as segment:
        for name in {*datasets, *(dataset.rpartition("/")[0] for dataset in datasets)}:
            for key, value in segment[name].attrs.items():
                file[name].attrs.create(key, value, dtype=TEXT_DTYPE if isinstance(value, str) else None)


def _missing(dtype: np.dtype[Any]) -> object:
    if dtype.kind == "f":
        return np.nan
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return None


def _describe(group: h5py.Group) -> None:
    signal = "data" if "data" in group else "value"
    group.attrs.create("NX_class", "NXdata", dtype=TEXT_DTYPE)
    group.attrs.create("signal", signal, dtype=TEXT_DTYPE)
    rank = group[signal].ndim
    first = "frame_number" if "frame_number" in group else "time_arrival"
    group.attrs.create("axes", [first] + ["."] * (rank - 1), dtype=TEXT_DTYPE)
    if "NX_class" not in group.parent.attrs:
        group.parent.attrs.create("NX_class", "NXdetector" if signal == "data" else "NXcollection", dtype=TEXT_DTYPE)
