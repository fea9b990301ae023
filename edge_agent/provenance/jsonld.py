"""The run record as JSON-LD, and its canonical bytes (RFC 8785): the form that is stored and signed in ``/entry/provenance``.

RFC 8785 takes neither NaN nor integers beyond 2^53, so such numbers become texts and times ISO 8601 with nanoseconds. An absent value is
``{"value": null, "reason": ...}``, and so is an empty text: nothing is missing without a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785

from edge_agent.model import Label
from edge_agent.provenance.facts import Absent, RunRecord, StreamFacts

LARGEST = 2**53 - 1
EMPTY = {
    "endpoint": "the adapter has no address", "source_uri": "the adapter has no address", "source_type": "the source does not say",
    "codec": "nothing was packed", "dtype": "files have none",
}  # fmt: skip
"""Why a text is empty, by the name of its field."""
EARLIEST, LATEST = 0, 253_402_300_800 * 10**9  # 1970 to 9999
CONTEXT = {
    "@vocab": "urn:hsc:term:",
    "schema": "http://schema.org/",
    "prov": "http://www.w3.org/ns/prov#",
    "title": "schema:name",
    "startedAt": "prov:startedAtTime",
    "endedAt": "prov:endedAtTime",
    "operator": "prov:wasAssociatedWith",
    "instruments": "prov:used",
    "software": "prov:wasAttributedTo",
    "manufacturer": "schema:manufacturer",
    "model": "schema:model",
    "serialNumber": "schema:serialNumber",
    "licence": "schema:license",
}


def to_jsonld(record: RunRecord) -> dict[str, Any]:
    """The record as a JSON-LD object with a context of its own: no network is needed to read it."""
    body = _object(record)
    run_id = record.run_id.hex()
    body["startedAt"] = body.pop("startedNs")
    body["endedAt"] = body.pop("endedNs")
    return {"@context": CONTEXT, "@id": f"urn:uuid:{uuid_text(run_id)}", "@type": "prov:Activity", **body}


def canonical(record: RunRecord) -> bytes:
    """RFC 8785 bytes of `to_jsonld`, UTF-8."""
    return rfc8785.dumps(to_jsonld(record))


def iso_time(ns: int) -> str:
    """UTC ns as ISO 8601 with nanoseconds: ``2026-11-24T01:02:03.000000004Z``."""
    seconds, rest = divmod(ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def uuid_text(digits: str) -> str:
    """32 hex digits in the form of RFC 9562."""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _object(value: Any) -> dict[str, Any]:
    there = {f.name: getattr(value, f.name) for f in fields(value)}
    # None is what the thing does not have by its nature, as a balance has no pixels: nothing is missing.
    made = {_camel(name): _value(name, held) for name, held in there.items() if held is not None}
    if isinstance(value, StreamFacts):
        made["expected"] = _value("expected", value.expected)
    return made


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Absent):
        return {"value": None, "reason": value.reason}
    if isinstance(value, Label):
        bound = {} if value.jurisdictions is None else {"jurisdictions": sorted(value.jurisdictions)}
        return {"access": value.access.value, "allowed": sorted(value.allowed), **bound}
    if name in ("started_ns", "ended_ns"):
        return iso_time(value) if EARLIEST <= value < LATEST else {"value": None, "reason": "the time is not known"}
    if is_dataclass(value):
        return _object(value)
    if isinstance(value, Mapping):
        return {_text(key): _value("", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(name, item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= LARGEST else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return _text(value) or {"value": None, "reason": EMPTY.get(name, "nothing was said")}


def _text(value: object) -> str:
    """A text that UTF-8 can carry: lone surrogates of an instrument's broken text become question marks."""
    return str(value).encode("utf-8", "replace").decode()


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
