"""Which streams of a run can be played back, and which belong together.

Several streams may come from one source: a PV and its alarm, the columns of a table, an image and its attributes. Whoever plays the source
takes all of them; see the parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from firmware_sim.replay.landed import Landed

NETWORK = ("opc.tcp", "ca", "pva")
"""Schemes of streams that are played by their values; those of serial lines are played by their bytes, those of folders as files."""

_NUMBERED_PART = re.compile(r"(^|;)[ig]=[^/]*/")


def scheme(stream: Landed) -> str:
    """``opc.tcp``, ``ca``, ``pva``, or whatever else comes before the colon."""
    return stream.uri.partition(":")[0]


def why_not(stream: Landed) -> str:
    """Why a stream is left out; empty where it is played."""
    kind, node = scheme(stream), stream.uri.partition("#")[2]
    if kind not in NETWORK:
        return ""
    if stream.changed:
        return "its type or shape changed within the run"
    if kind == "opc.tcp" and node == "events":
        return "events are not played back"
    if kind == "opc.tcp" and _NUMBERED_PART.search(node):
        return "it is a part of a structure whose node has no name"
    if kind == "ca" and "." in pv_of(stream) and not pv_of(stream).endswith(".VAL"):
        return "it is a field of a record of which the run does not have the type"
    return ""


def pv_of(stream: Landed) -> str:
    """The name of a PV, as it was recorded."""
    return stream.uri.partition("://")[2]


def by_source(streams: Sequence[Landed]) -> dict[str, list[Landed]]:
    """The streams of each PV: first the one that it is about, then its alarm, its attributes or its further columns."""
    found: dict[str, list[Landed]] = {}
    for stream in streams:
        found.setdefault(pv_of(stream), []).append(stream)
    for some in found.values():
        some.sort(key=lambda one: (one.kind != "frames", is_alarm(one), one.key))
    return found


def is_alarm(stream: Landed) -> bool:
    """Whether a stream holds the alarms of a PV."""
    return stream.name.endswith(".alarm") and stream.columns["value"].dtype.kind == "S" and "NTTable" not in stream.source_type
