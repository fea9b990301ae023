"""The run record as it is known today: what was signed, and over it the amendments that came with the receipts, oldest first.

Whether they hold is for `edge-agent verify` to say; here they are only read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from edge_agent.export.run_folder import RunFolder
from edge_agent.seal.amendment import Amendment, parse_amendment
from edge_agent.seal.cbor import SealError
from edge_agent.seal.cose import parse_all
from edge_agent.seal.receipt import parse_receipts

PLACES = {"user": "operator"}
"""Beginnings of the fields of amendments that the record calls otherwise."""


def amendments(run: RunFolder) -> tuple[Amendment, ...]:
    """The amendments in the run's receipts; none where they cannot be read."""
    path = run.folder / f"{run.name}.receipts"
    try:
        return tuple(parse_amendment(parse_all(data).payload) for data in parse_receipts(path.read_bytes()).amendments)
    except (OSError, SealError):
        return ()


def amended(run: RunFolder) -> Mapping[str, Any]:
    """The record with its amendments; a field that it does not have is left out."""
    record: dict[str, Any] = copy.deepcopy(dict(run.record))
    for change in (change for amendment in amendments(run) for change in amendment.changes):
        *parents, name = _path(change.field)
        place: Any = record
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if isinstance(place, dict) and "@" not in name:
            place[name] = change.new
    return record


def _path(field: str) -> list[str]:
    """``sample.local_name`` as the keys of the record."""
    first, *rest = (_camel(part) for part in field.split("."))
    return [PLACES.get(first, first), *rest]


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
