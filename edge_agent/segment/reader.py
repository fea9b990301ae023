"""Walks a foreign HDF5 file read-only into META objects and chunked datasets, refusing what a segment may not contain.

Invariants: nothing outside of the one file is ever opened (external links and storage, virtual datasets and user-defined links
are refused before the object is touched), soft links are not followed, every object is visited once (by its address), and
depth, number of objects and size of values are bounded. Errors name the path.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import h5py
from h5py import h5d, h5g, h5l, h5o

from edge_agent.seal.cbor import SealError
from edge_agent.seal.meta import DatasetMeta, GroupMeta, HardLink, MetaObject, SoftLink
from edge_agent.segment import types, values

MAX_OBJECTS = 200_000
MAX_DEPTH = 32
MAX_VALUE = 256 << 20
MAX_LINKS = 16
INTEGRITY = "/entry/integrity"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds. ``objects`` is the META map, ``integrity`` the objects of its tables, ``chunked`` open datasets by path."""

    objects: dict[str, MetaObject] = field(default_factory=dict)
    integrity: dict[str, MetaObject] = field(default_factory=dict)
    chunked: dict[str, h5d.DatasetID] = field(default_factory=dict)


def walk(file: h5py.File, *, tables: bool = True) -> Contents:
    """Everything in the file; without ``tables`` all but the integrity group, which is then not even opened.

    Raises:
        SealError: a link, type, layout or size that a segment may not have, by path.
    """
    size = file.id.get_filesize()
    contents = Contents()
    seen: dict[int, str] = {}
    # By path, so that the first path that reaches an object in the order of the page is the one that names it.
    waiting: list[tuple[bytes, Any, bytes]] = [(b"/", file.id, b"/")]
    while waiting:
        raw, parent, name = heapq.heappop(waiting)
        path = _text(raw)
        if path == INTEGRITY and not tables:
            continue
        try:
            waiting_below = _visit(path, parent, name, size, contents, seen)
        except (SealError, RuntimeError, OSError, LookupError, ValueError, TypeError) as error:
            raise SealError(f"{path}: {error}") from error
        for child, link in waiting_below:
            heapq.heappush(waiting, (raw.rstrip(b"/") + b"/" + link, child, link))
        if len(waiting) + len(seen) > MAX_OBJECTS:
            raise SealError(f"more than {MAX_OBJECTS} objects")
    return contents


def open_object(file: h5py.File, path: str) -> Any:
    """The group or dataset at an absolute path that hard links alone lead to.

    Raises:
        SealError: there is none, or another kind of link is on the way.
    """
    at: Any = h5g.open(file.id, b"/")
    done = ""
    for name in filter(None, path.split("/")):
        raw, done = name.encode(), f"{done}/{name}"
        if not isinstance(at, h5g.GroupID) or raw not in at:
            raise SealError(f"{done}: is not in the file")
        target = _link(at, raw)
        if target is not None:
            raise SealError(f"{done}: a soft link to {target}")
        at = h5o.open(at, raw)
    return at


def resolved(file: h5py.File, path: str) -> str:
    """The path without soft links, as far as the file has it; the links themselves are metadata, so META proves them.

    Raises:
        SealError: links that lead in circles.
    """
    for _ in range(MAX_LINKS):
        at: Any = h5g.open(file.id, b"/")
        names, done = [name for name in path.split("/") if name], ""
        for number, name in enumerate(names):
            raw = name.encode()
            if not isinstance(at, h5g.GroupID) or raw not in at:
                return path
            target = _link(at, raw)
            if target is not None:
                path = "/".join([target if target.startswith("/") else f"{done}/{target}", *names[number + 1 :]])
                break
            at, done = h5o.open(at, raw), f"{done}/{name}"
        else:
            return "/" + "/".join(names)
    raise SealError(f"{path}: more than {MAX_LINKS} soft links")


def _visit(path: str, parent: Any, name: bytes, size: int, contents: Contents, seen: dict[int, str]) -> list[tuple[Any, bytes]]:
    """Record one path; returns the links below it when it is a group that was not met before."""
    inside = path == INTEGRITY or path.startswith(INTEGRITY + "/")
    place = contents.integrity if inside else contents.objects
    target = None if path == "/" else _link(parent, name)
    if target is not None:
        place[path] = SoftLink(target)
        return []
    # Slow for a long index of chunks, and worth it: it goes through addresses that nothing else here reads, and other programs do.
    facts = h5o.get_info(parent, name)
    if facts.addr in seen:
        first = seen[facts.addr]
        if inside:
            raise SealError(f"the same object as {first}; the integrity tables may have no second name")
        place[path] = HardLink(first)
        return []
    seen[facts.addr] = path
    if inside and facts.rc != 1:
        raise SealError("has further links, or says so")
    if facts.type == h5o.TYPE_GROUP:
        return _group(path, h5o.open(parent, name), place)
    if facts.type == h5o.TYPE_DATASET:
        place[path] = _dataset(path, h5o.open(parent, name), min(size, size if inside else MAX_VALUE), contents)
        return []
    raise SealError("a committed type")


def _link(parent: Any, name: bytes) -> str | None:
    """The target of a soft link; None for a hard one."""
    kind = parent.links.get_info(name).type
    if kind == h5l.TYPE_SOFT:
        return _text(parent.links.get_val(name))
    if kind != h5l.TYPE_HARD:
        raise SealError("an external or user-defined link")
    return None


def _group(path: str, group: h5g.GroupID, place: dict[str, MetaObject]) -> list[tuple[Any, bytes]]:
    place[path] = GroupMeta(values.attributes(group, MAX_VALUE))
    count = group.get_num_objs()
    if count > MAX_OBJECTS:
        raise SealError(f"{count} links, more than {MAX_OBJECTS}")
    if count and path.count("/") >= MAX_DEPTH:
        raise SealError(f"nested more than {MAX_DEPTH} deep")
    names: list[bytes] = []
    group.links.iterate(names.append)
    if len(set(names)) != len(names):
        raise SealError("two links of one name")
    return [(group, name) for name in names]


def _dataset(path: str, dataset: h5d.DatasetID, limit: int, contents: Contents) -> DatasetMeta:
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    # Before anything else: asking a virtual dataset for its shape opens its sources.
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        raise SealError("a virtual dataset")
    if layout == h5d.CONTIGUOUS and properties.get_external_count():
        raise SealError("external storage")
    tid = dataset.get_type()
    kind = types.grammar(tid)
    if layout == h5d.CHUNKED:
        values.used_bytes(kind)
        contents.chunked[path] = dataset
        return DatasetMeta(kind, values.attributes(dataset, limit))
    if properties.fill_value_defined() != h5d.FILL_VALUE_DEFAULT:
        raise SealError("a fill value, in what is not chunked")
    value = values.dataset_value(dataset, tid, kind, limit)
    return DatasetMeta(kind, values.attributes(dataset, limit), value)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise SealError(f"a name that is not UTF-8: {name!r}") from error
