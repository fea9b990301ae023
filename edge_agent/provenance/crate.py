"""``ro-crate-metadata.json``: the run record as RO-Crate 1.1 with the Process Run Crate 0.5 profile.

Version 1.1 because repositories refuse newer contexts. Same input, same bytes: nothing here asks a clock. Absent
values are left out of the graph where the profile has no place for a reason; the reasons stand in the signed record,
and for licence and operator in the crate too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edge_agent.model import Access
from edge_agent.provenance.facts import Absent, Instrument, Person, RunRecord, StreamFacts
from edge_agent.provenance.jsonld import iso_time, uuid_text

CRATE = "https://w3id.org/ro/crate/1.1"
PROCESS = "https://w3id.org/ro/wfrun/process/0.5"
NAME = "ro-crate-metadata.json"
STATUS = {
    "open": "ActiveActionStatus",
    "complete": "CompletedActionStatus",
    "calibration": "CompletedActionStatus",
    "aborted": "FailedActionStatus",
    "failed": "FailedActionStatus",
}
SPDX = re.compile(r"[A-Za-z]+[A-Za-z.+]*-[0-9A-Za-z.+-]+")
"""An identifier of the SPDX licence list, such as ``CC-BY-4.0``."""
Entity = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CrateFile:
    """A file of the run: path in the run folder (``/``), bytes, SHA-256, media type, one line for people."""

    path: str
    size: int
    sha256: bytes
    encoding: str = "application/x-hdf5"
    description: str = ""


def build_crate(record: RunRecord, files: Sequence[CrateFile]) -> bytes:
    """The metadata file, UTF-8 JSON with sorted keys and a final newline.

    Args:
        record: of a closed run; an open one is dated by its start.
        files: everything in the run folder but the crate itself.
    """
    ended = record.started_ns if isinstance(record.ended_ns, Absent) else record.ended_ns
    name = f"Run {record.run_no:06d} of {record.project.name}" if isinstance(record.title, Absent) else record.title
    action = _action(record, name, files)
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": _description(record),
        "datePublished": iso_time(ended),
        "conformsTo": {"@id": PROCESS},
        "hasPart": [{"@id": _file_id(file.path)} for file in files],
        "mentions": {"@id": action["@id"]},
        "identifier": f"urn:uuid:{uuid_text(record.run_id.hex())}",
        "conditionsOfAccess": _access(record),
        "license": _licence(record),
        "additionalProperty": [{"@id": f"#completeness-{quote(stream.key, safe='')}"} for stream in _streams(record)],
    }
    graph = [
        {"@id": NAME, "@type": "CreativeWork", "about": {"@id": "./"}, "conformsTo": {"@id": CRATE}},
        root,
        {"@id": PROCESS, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        action,
        *_people(record),
        *_things(record),
        *(_completeness(stream) for stream in _streams(record)),
        *(_file(file) for file in files),
    ]
    if isinstance(root["license"], dict):
        graph.append({"@id": root["license"]["@id"], "@type": "CreativeWork", "name": "licence chosen by the project"})
    funding = _funding(record)
    if funding:
        root["funder"] = [{"@id": entity["@id"]} for entity in funding]
    graph += funding
    context = [f"{CRATE}/context", {"sha256": "http://schema.org/sha256"}]
    return json.dumps({"@context": context, "@graph": graph}, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _action(record: RunRecord, name: str, files: Sequence[CrateFile]) -> Entity:
    outcome = record.outcome if isinstance(record.outcome, str) else "open"
    action: Entity = {
        "@id": f"#run-{record.run_no:06d}",
        "@type": "CreateAction",
        "name": f"Measurement: {name}",
        "startTime": iso_time(record.started_ns),
        "actionStatus": {"@id": f"http://schema.org/{STATUS[outcome]}"},
        "description": f"Started by {record.trigger}; outcome: {outcome}.",
        "instrument": {"@id": "#agent"},
        "object": [{"@id": _instrument_id(i)} for i in record.instruments] + ([{"@id": "#sample"}] if _has_sample(record) else []),
        "result": [{"@id": _file_id(file.path)} for file in files],
        "agent": {"@id": _agent_id(record)},
    }
    if not isinstance(record.ended_ns, Absent):
        action["endTime"] = iso_time(record.ended_ns)
    if STATUS[outcome] == "FailedActionStatus":
        action["error"] = f"The run ended as {outcome}; what was recorded until then is here."
    return action


def _people(record: RunRecord) -> list[Entity]:
    organisation = _given(
        {"@id": _organisation_id(record), "@type": "Organization", "name": record.organisation.name, "url": record.organisation.ror}
    )
    organisation.setdefault("name", "the organisation that runs the instrument (not named in its configuration)")
    if isinstance(record.operator, Absent):
        organisation["description"] = f"Acted without a person: {record.operator.reason}."
        return [organisation]
    operator = _given(
        {"@id": _person_id(record.operator), "@type": "Person", "name": record.operator.name, "roleName": record.operator.role}
    )
    operator.setdefault("name", "ORCID " + str(record.operator.orcid))
    operator["affiliation"] = {"@id": organisation["@id"]}
    return [operator, organisation]


def _funding(record: RunRecord) -> list[Entity]:
    """The project with its grant, and who gives it (RO-Crate 1.1, "Funding and grants"); nothing where neither is known."""
    project = record.project
    if isinstance(project.funder, Absent) and isinstance(project.grant, Absent) and isinstance(project.proposal, Absent):
        return []
    numbers = [number for number in (project.grant, project.proposal) if not isinstance(number, Absent)]
    made: list[Entity] = [{"@id": "#project", "@type": "Organization", "name": project.name, "identifier": numbers}]
    if not isinstance(project.funder, Absent):
        made[0]["funder"] = {"@id": "#funder"}
        made.append({"@id": "#funder", "@type": "Organization", "name": project.funder})
    return made


def _things(record: RunRecord) -> list[Entity]:
    software = record.software
    things = [
        _given(
            {
                "@id": "#agent",
                "@type": "SoftwareApplication",
                "name": software.name,
                "version": software.version,
                "softwareVersion": software.version,
                "sha256": software.build_digest,
            }
        )
    ]
    for instrument in record.instruments:
        properties = _properties(instrument)
        things.append(_instrument(instrument) | ({"additionalProperty": [{"@id": p["@id"]} for p in properties]} if properties else {}))
        things += properties
    if _has_sample(record):
        sample = _given({"@id": "#sample", "@type": "Thing", "name": record.sample.name, "identifier": record.sample.igsn})
        sample.setdefault("name", f"IGSN {record.sample.igsn}")
        things.append(sample)
    return things


def _instrument(instrument: Instrument) -> Entity:
    return _given(
        {
            "@id": _instrument_id(instrument),
            "@type": "IndividualProduct",
            "name": instrument.name,
            "identifier": instrument.pid,
            "url": instrument.landing_page,
            "category": instrument.type,
            "manufacturer": instrument.manufacturer,
            "model": instrument.model,
            "serialNumber": instrument.serial_number,
            "description": f"Captured by the {instrument.adapter} adapter from {instrument.endpoint} ({instrument.transport}).",
        }
    )


def _properties(instrument: Instrument) -> list[Entity]:
    """What schema.org has no word for: the owner, and the calibration with its last day."""
    known = {
        "owner": instrument.owner, "calibration": instrument.calibration.identifier,
        "calibration valid until": instrument.calibration.valid_until,
    }  # fmt: skip
    return [
        {"@id": f"{_instrument_id(instrument)}-{quote(name, safe='')}", "@type": "PropertyValue", "name": name, "value": value}
        for name, value in known.items()
        if not isinstance(value, Absent)
    ]


def _streams(record: RunRecord) -> tuple[StreamFacts, ...]:
    return () if isinstance(record.streams, Absent) else record.streams


def _completeness(stream: StreamFacts) -> Entity:
    expected = stream.expected.reason if isinstance(stream.expected, Absent) else str(stream.expected)
    lost = f"{stream.lost} known to be lost" + (f" and {stream.unknown_gaps} gaps of unknown size" if stream.unknown_gaps else "")
    return {
        "@id": f"#completeness-{quote(stream.key, safe='')}",
        "@type": "PropertyValue",
        "name": f"completeness of {stream.key}",
        "value": f"{stream.received} {stream.kind} received, {lost}, in {stream.gaps} gaps; expected: {expected}",
    }


def _file(file: CrateFile) -> Entity:
    entity: Entity = {
        "@id": _file_id(file.path),
        "@type": "File",
        "name": file.path,
        "contentSize": str(file.size),
        "encodingFormat": file.encoding,
        "sha256": file.sha256.hex(),
    }
    if file.description:
        entity["description"] = file.description
    return entity


def _description(record: RunRecord) -> str:
    names = ", ".join(i.name for i in record.instruments) or "no instrument"
    run = f"Run {record.run_no:06d} of project {record.project.name}"
    return f"{run}, recorded from {names} as signed HDF5 chunks ({record.integrity.format})."


def _access(record: RunRecord) -> str:
    label = record.policy.label
    text = "open" if label.access is Access.OPEN else f"{label.access}: the project's own space"
    if label.allowed and label.access is not Access.OPEN:
        text += f" and {', '.join(sorted(label.allowed))}"
    return text + "."


def _licence(record: RunRecord) -> str | dict[str, str]:
    """RO-Crate demands a licence; the profile allows a text, which says that there is none and why."""
    licence = record.policy.licence
    if isinstance(licence, Absent):
        return f"No licence is granted: {licence.reason}."
    if SPDX.fullmatch(licence):
        return {"@id": f"https://spdx.org/licenses/{licence}"}
    return {"@id": licence} if licence.startswith(("https://", "http://")) else licence


def _has_sample(record: RunRecord) -> bool:
    return not (isinstance(record.sample.name, Absent) and isinstance(record.sample.igsn, Absent))


def _agent_id(record: RunRecord) -> str:
    return _organisation_id(record) if isinstance(record.operator, Absent) else _person_id(record.operator)


def _person_id(person: Person) -> str:
    return f"#person-{quote(str(person.name), safe='')}" if isinstance(person.orcid, Absent) else f"https://orcid.org/{person.orcid}"


def _organisation_id(record: RunRecord) -> str:
    return "#organisation" if isinstance(record.organisation.ror, Absent) else record.organisation.ror


def _instrument_id(instrument: Instrument) -> str:
    return f"#instrument-{quote(instrument.name, safe='')}"


def _file_id(path: str) -> str:
    return quote(path)


def _given(entity: Entity) -> Entity:
    """Without what is absent."""
    return {key: value for key, value in entity.items() if not isinstance(value, Absent)}
