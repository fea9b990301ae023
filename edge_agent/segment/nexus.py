"""The run record in the fields that NeXus has for it (docs/layout.md, "Who, what, with what"). Pure: the record's bytes in, objects out.

The one truth is the record as it stands in ``/entry/provenance/data``; everything here is derived from it, so the two cannot differ.
What is absent in the record has its reason there, and no field here. In the group of an instrument, names that begin with ``_`` are the
agent's: no stream can be called so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.seal.leaf import GapLeaf
from edge_agent.seal.meta import DatasetMeta, GroupMeta, MetaObject, Value
from edge_agent.segment import types

PROVENANCE = "/entry/provenance"
RECORD = f"{PROVENANCE}/data"
ROWS, MASTER = "rows", "master"
"""Series that hold streams of several instruments; the others belong to the one that they are named after."""

Objects = dict[str, MetaObject]
Fields = Mapping[str, DatasetMeta | None]


def record_objects(record: str, series: str) -> Objects:
    """Groups and fields of the record; parents come before children.

    Args:
        record: the run record as canonical JSON; what is not in it is not here.
        series: of the segment, ``rows`` or ``instrument/stream``, or ``master``.
    """
    said = json.loads(record)
    who, where, what = _part(said, "operator"), _part(said, "organisation"), _part(said, "sample")
    project, policy, clock = _part(said, "project"), _part(said, "policy"), _part(said, "clock")
    unattended = "operator" in said and "role" not in who
    orcid = _text(who, "orcid")
    found = _group(PROVENANCE, "NXcollection", {"type": _field("application/ld+json"), "data": _field(record)})
    found |= _group(
        "/entry/user", "NXuser",
        {
            "name": _said(who, "name"), "ORCID": _field(f"https://orcid.org/{orcid}") if orcid else None,
            "role": _field("unattended") if unattended else _said(who, "role"),
            "affiliation": _said(where, "name"), "identifier_ror": _said(where, "ror", type="ROR"),
        },
    )  # fmt: skip
    found |= _group("/entry/sample", "NXsample", {"name": _said(what, "name"), "identifier_igsn": _said(what, "igsn", type="IGSN")})
    found |= _group(
        "/entry/project", "NXcollection",
        {
            "name": _said(project, "name"), "identifier_proposal": _said(project, "proposal"),
            "identifier_grant": _said(project, "grant"), "funder": _said(project, "funder"),
            "rule": _said(project, "rule"), "rule_source": _said(project, "ruleSource"),
        },
    )  # fmt: skip
    found |= _group("/entry/policy", "NXcollection", {"authority": _said(policy, "authority"), "licence": _said(policy, "licence")})
    found |= _process(said)
    found |= _group(
        "/entry/clock", "NXcollection",
        {
            "source": _said(clock, "source"), "synchronised": _number(clock, "synced", ""),
            "offset": _number(clock, "offsetNs", "ns"), "uncertainty": _number(clock, "uncertaintyNs", "ns"),
        },
    )  # fmt: skip
    for instrument in said.get("instruments", ()):
        name, kinds = instrument["name"], instrument["delivers"]
        if series == MASTER or (series == ROWS and "rows" in kinds) or series.partition("/")[0] == name:
            found |= _instrument(instrument, "NXdetector" if "frames" in kinds and series != ROWS else "NXcollection")
    streams = said.get("streams")
    return found | _run_completeness(streams if isinstance(streams, list) else ())


def instrument_objects(record: str, series: str) -> Objects:
    """What the record says of the instruments alone: they may say of themselves after a segment was opened."""
    return {path: thing for path, thing in record_objects(record, series).items() if path.startswith("/entry/instrument/")}


def ended(record: str) -> str | None:
    """When the run ended, ISO 8601; None while it is open."""
    return _text(json.loads(record), "endedAt")


@dataclass(frozen=True, slots=True)
class Complete:
    """How complete a stream is: items received and known to be missing, gaps in all and those of unknown size."""

    source_id: str
    received: int
    missing: int
    gaps: int
    unknown: int
    counted: bool

    @property
    def expected(self) -> int:
        """Items that there were at the source; -1 where that cannot be known."""
        return self.received + self.missing if self.counted and not self.unknown else -1


def segment_completeness(received: Mapping[str, int], gaps: Mapping[str, Sequence[GapLeaf]], counted: Mapping[str, bool]) -> Objects:
    """``/entry/completeness`` of what one segment holds, by source."""
    rows = []
    for key in sorted({*received, *(key for key, leaves in gaps.items() if leaves)}):
        counts = [gap.count for gap in gaps.get(key, ())]
        known = [count for count in counts if count is not None]
        rows.append(Complete(key, received.get(key, 0), sum(known), len(counts), len(counts) - len(known), counted.get(key, False)))
    return completeness(rows)


def completeness(rows: Sequence[Complete]) -> Objects:
    """``/entry/completeness``: one entry a stream in each dataset."""
    counts = {"units": types.text("count")}

    def numbers(values: Iterable[int], **attributes: Value) -> DatasetMeta:
        array = types.array(np.array(list(values), dtype="<i8"))
        return DatasetMeta(array.type, counts | attributes, array)

    names = types.texts([row.source_id for row in rows])
    columns = {
        "source_id": DatasetMeta(names.type, {}, names), "received": numbers(row.received for row in rows),
        "missing": numbers(row.missing for row in rows), "gaps": numbers(row.gaps for row in rows),
        "gaps_of_unknown_size": numbers(row.unknown for row in rows),
        "expected": numbers((row.expected for row in rows), unknown=types.integer(-1)),
    }  # fmt: skip
    return _group("/entry/completeness", "NXcollection", columns)


def _run_completeness(streams: Sequence[Mapping[str, Any]]) -> Objects:
    """Of a run that is closed; while it is open nobody counted yet."""
    rows = [Complete(s["key"], s["received"], s["lost"], s["gaps"], s["unknownGaps"], s["counted"]) for s in streams]
    return completeness(rows) if rows else {}


def _process(said: Mapping[str, Any]) -> Objects:
    software = _part(said, "software")
    steps = types.texts([step["name"] for step in said.get("steps", ())])
    program = {"program": _said(software, "name"), "version": _said(software, "version")}
    made = _group("/entry/process", "NXprocess", program | {"sequence_index": _integer(1, units="")} if software else {})
    parameters = {
        "build_digest": _said(software, "buildDigest"), "configuration_digest": _said(software, "configDigest"),
        "dependencies_digest": _said(software, "lockDigest"), "steps": DatasetMeta(steps.type, {}, steps) if said.get("steps") else None,
    }  # fmt: skip
    return made | _group("/entry/process/parameters", "NXparameters", parameters)


def _instrument(said: Mapping[str, Any], nx_class: str) -> Objects:
    group = f"/entry/instrument/{said['name']}"
    calibration = _part(said, "calibration")
    made = {
        "vendor": _said(said, "manufacturer"), "model": _said(said, "model"), "serial_number": _said(said, "serialNumber"),
        "identifier_pid": _said(said, "pid", type=_kind(_text(said, "pid") or "")),
    }  # fmt: skip
    about = {
        "title": _said(said, "type"), "owner": _said(said, "owner"), "landing_page": _said(said, "landingPage"),
        "identifier_calibration": _said(calibration, "identifier"), "calibration_valid_until": _said(calibration, "validUntil"),
        "adapter": _said(said, "adapter"), "endpoint": _said(said, "endpoint"), "transport": _said(said, "transport"),
    }  # fmt: skip
    whole: Objects = {group: GroupMeta({"NX_class": types.text(nx_class)})}
    return whole | _group(f"{group}/_fabrication", "NXfabrication", made) | _group(f"{group}/_about", "NXcollection", about)


def _kind(pid: str) -> str:
    """The kind of an identifier, in the words of NXobject."""
    return next((kind for part, kind in (("doi.org/", "DOI"), ("hdl.handle.net/", "Hdl"), ("://", "URL")) if part in pid), "")


def _group(path: str, nx_class: str, fields: Fields) -> Objects:
    """A group with the fields that are there; nothing at all when none is."""
    there = {f"{path}/{name}": thing for name, thing in fields.items() if thing is not None}
    return {path: GroupMeta({"NX_class": types.text(nx_class)}), **there} if there else {}


def _part(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = said.get(key)
    return value if isinstance(value, dict) else {}


def _text(said: Mapping[str, Any], key: str) -> str | None:
    """A text; HDF5's strings end at their first NUL."""
    value = said.get(key)
    return (value.replace("\0", "") or None) if isinstance(value, str) else None


def _said(said: Mapping[str, Any], key: str, **attributes: str) -> DatasetMeta | None:
    value = _text(said, key)
    return None if value is None else _field(value, **attributes)


def _field(value: str, **attributes: str) -> DatasetMeta:
    written = types.text(value)
    return DatasetMeta(written.type, {name: types.text(text) for name, text in attributes.items() if text}, written)


def _integer(value: int, **attributes: str) -> DatasetMeta:
    written = types.integer(value)
    return DatasetMeta(written.type, {name: types.text(text) for name, text in attributes.items()}, written)


def _number(said: Mapping[str, Any], key: str, units: str) -> DatasetMeta | None:
    value = said.get(key)
    return _integer(int(value), units=units) if isinstance(value, int) else None
