"""Putting the run record together from the session, the configuration and what the instruments say of themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from edge_agent.model import Outcome, RunContext
from edge_agent.provenance.facts import (
    NO_LICENCE,
    NOT_CONFIGURED,
    NOT_COUNTED,
    NOT_SAID,
    OPERATOR,
    Absent,
    Calibration,
    ClockFacts,
    Detector,
    Instrument,
    Integrity,
    Organisation,
    Person,
    Policy,
    Project,
    RunRecord,
    Sample,
    Software,
    Step,
    StreamFacts,
    Text,
)

__all__ = [
    "NOT_CONFIGURED",
    "NOT_COUNTED",
    "NOT_SAID",
    "NO_LICENCE",
    "Absent",
    "Calibration",
    "ClockFacts",
    "Detector",
    "Instrument",
    "Integrity",
    "Organisation",
    "Person",
    "Policy",
    "Project",
    "RunRecord",
    "Sample",
    "Software",
    "Step",
    "StreamFacts",
    "Text",
    "build_record",
    "instrument",
    "is_orcid",
    "person",
    "sample",
    "without_password",
]

ORCID = re.compile(r"(?:https?://orcid\.org/)?(\d{4}-\d{4}-\d{4}-\d{3}[\dX])/?")
BOTH = re.compile(r"(?P<name>[^<>]*[^<>\s])\s*<\s*(?P<identifier>[^<>]*[^<>\s])\s*>")
"""A name and an identifier, as in the address of a letter."""
IGSN = re.compile(r"(?:igsn:|https?://(?:hdl\.handle\.net|doi\.org|igsn\.org)/)?(10\.?\d{2,9}/\S{2,100})", re.IGNORECASE)

DESCRIBED = {
    "manufacturer": ("manufacturer", "maker", "vendor"),
    "model": ("model", "model_name", "product"),
    "serial_number": ("serial_number", "serial", "serialnumber"),
}
CALIBRATED = {
    "identifier": ("calibration", "calibration_id", "calibration_certificate"),
    "valid_until": ("calibration_valid_until", "calibration_due"),
}
"""Names under which instruments say these things of themselves, in lower case."""


def build_record(
    run: RunContext,
    software: Software,
    instruments: tuple[Instrument, ...],
    streams: tuple[StreamFacts, ...] | Absent,
    *,
    project: Project | None = None,
    organisation: Organisation | None = None,
    steps: tuple[Step, ...] = (),
    clock: ClockFacts | None = None,
    ended_ns: int | None = None,
    outcome: Outcome | None = None,
    authority: Text = NOT_CONFIGURED,
    licence: Text = NO_LICENCE,
    integrity: Integrity | None = None,
) -> RunRecord:
    """Put the record together from the run's context and what configuration and instruments say.

    ``ended_ns`` and ``outcome`` None mean that the run is still open.
    """
    is_open = Absent("the run was open when this was written")
    return RunRecord(
        run_id=run.run_id,
        run_no=run.run_no,
        title=run.title or Absent("nobody gave one"),
        trigger=run.trigger,
        outcome=is_open if outcome is None else outcome.value,
        started_ns=run.started_ns,
        ended_ns=is_open if ended_ns is None else ended_ns,
        project=project or Project(run.project),
        operator=person(run.user, run.role),
        organisation=organisation or Organisation(),
        sample=sample(run.sample),
        instruments=instruments,
        software=software,
        steps=steps,
        clock=clock or ClockFacts(),
        streams=streams
        if isinstance(streams, Absent)
        else tuple(replace(stream, source_uri=without_password(stream.source_uri)) for stream in streams),
        policy=Policy(run.label, authority, licence),
        integrity=integrity or Integrity(),
    )


def person(user: str, role: str = "") -> Person | Absent:
    """The operator from what the session was given: an ORCID (checked), a name, both as ``NAME <ORCID>``, or nothing."""
    user, role = user.strip(), role.strip() or OPERATOR
    if not user:
        return Absent("unattended: no session named a person")
    both = BOTH.fullmatch(user)
    match = ORCID.fullmatch(both["identifier"] if both is not None else user)
    if match is None:
        return Person(user, Absent("only a name was given"), role)
    if not is_orcid(match[1]):
        return Person(user, Absent("the check digit of the ORCID given is wrong"), role)
    return Person(Absent("only the ORCID was given") if both is None else both["name"], match[1], role)


def is_orcid(orcid: str) -> bool:
    """Whether the check digit holds (ISO 7064 MOD 11-2)."""
    digits = orcid.replace("-", "")
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    return "0123456789X"[(12 - total % 11) % 11] == digits[-1]


def sample(given: str) -> Sample:
    """The sample from what the session was given: an IGSN, a local name, or both as ``NAME <IGSN>``."""
    given = given.strip()
    if not given:
        return Sample()
    both = BOTH.fullmatch(given)
    match = IGSN.fullmatch(both["identifier"] if both is not None else given)
    if match is None:
        return Sample(given, Absent("only a local name was given"))
    return Sample(Absent("only the IGSN was given") if both is None else both["name"], match[1])


def instrument(
    name: str,
    adapter: str,
    endpoint: str,
    transport: str,
    *,
    described: Mapping[str, str | int | float] | None = None,
    configured: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
    detector: Detector | None = None,
    delivers: tuple[str, ...] = (),
) -> Instrument:
    """One instrument: what it says of itself (`Sink.describe`), overridden by what is configured.

    Args:
        name: of its table in the configuration.
        adapter: kind of adapter.
        endpoint: URI, port or folder; a password in it is left out.
        transport: ``unauthenticated``, ``signed``, ``mtls``.
        described: facts of the instrument; well-known names fill maker, model, serial number and calibration, all are kept as facts.
        configured: any of ``pid landing_page type owner manufacturer model serial_number``.
        calibration: from the configuration or a registry.
        detector: its geometry, where it is an area detector that was said to be one.
        delivers: kinds of its streams.

    Raises:
        ValueError: ``configured`` has another key.
    """
    facts = dict(described or {})
    known = _said(facts, DESCRIBED)
    extra = {key: value for key, value in (configured or {}).items() if value}
    allowed = {"pid", "landing_page", "type", "owner", *DESCRIBED}
    if not extra.keys() <= allowed:
        raise ValueError(f"not a field of an instrument: {sorted(extra.keys() - allowed)}; known are {sorted(allowed)}")
    return Instrument(
        name, adapter, without_password(endpoint), transport, calibration=calibration or Calibration(**_said(facts, CALIBRATED)),
        detector=detector, facts=facts, delivers=delivers, **(known | extra),
    )  # fmt: skip


def _said(facts: Mapping[str, str | int | float], names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """What an instrument says of itself, under the record's names."""
    folded = {key.lower().replace("-", "_").replace(" ", "_"): str(value).strip() for key, value in facts.items()}
    found = {key: next((folded[other] for other in others if folded.get(other)), "") for key, others in names.items()}
    return {key: value for key, value in found.items() if value}


def without_password(endpoint: str) -> str:
    """An endpoint or source URI without user name and password."""
    scheme, mark, rest = endpoint.partition("://")
    if not mark:
        return endpoint
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
