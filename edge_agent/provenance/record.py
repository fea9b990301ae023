"""The run record: who made what, with which instrument, sample and software, and how complete it is.

Every field has a place, always: what is not known is an `Absent` with the reason, never left out, so that a reader (or a score) can tell
"unknown" from "forgotten". The values are frozen; `edge_agent.provenance.jsonld` gives them their signed form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge_agent.model import Label, Outcome, RunContext

ORCID = re.compile(r"(?:https?://orcid\.org/)?(\d{4}-\d{4}-\d{4}-\d{3}[\dX])/?")
IGSN = re.compile(r"(?:igsn:|https?://(?:hdl\.handle\.net|doi\.org|igsn\.org)/)?(10\.?\d{2,9}/\S{2,100})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Absent:
    """A value that is not there, and why."""

    reason: str


NOT_CONFIGURED = Absent("not configured")
NOT_SAID = Absent("the instrument does not say")
Text = str | Absent


@dataclass(frozen=True, slots=True)
class Person:
    """Who ran it. ``orcid`` without the URL."""

    name: Text = NOT_CONFIGURED
    orcid: Text = NOT_CONFIGURED
    role: str = "operator"


@dataclass(frozen=True, slots=True)
class Organisation:
    """Where. ``ror`` is the identifier's URL."""

    name: Text = NOT_CONFIGURED
    ror: Text = NOT_CONFIGURED


@dataclass(frozen=True, slots=True)
class Project:
    """For what: the project space's name, the proposal, the grant (e-Rad number) and who funds it."""

    name: str
    proposal: Text = NOT_CONFIGURED
    grant: Text = NOT_CONFIGURED
    funder: Text = NOT_CONFIGURED


@dataclass(frozen=True, slots=True)
class Sample:
    """On what: the local name and the IGSN."""

    name: Text = Absent("no sample was named")
    igsn: Text = Absent("no sample was named")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Id of the instrument's calibration and the date until which it holds (ISO 8601)."""

    identifier: Text = NOT_CONFIGURED
    valid_until: Text = NOT_CONFIGURED


@dataclass(frozen=True, slots=True)
class Instrument:
    """With what (PIDINST 1.0 names), how it is connected, and what it says of itself."""

    name: str
    adapter: str
    endpoint: str
    transport: str
    pid: Text = NOT_CONFIGURED
    landing_page: Text = NOT_CONFIGURED
    type: Text = NOT_CONFIGURED
    owner: Text = NOT_CONFIGURED
    manufacturer: Text = NOT_SAID
    model: Text = NOT_SAID
    serial_number: Text = NOT_SAID
    calibration: Calibration = Calibration()
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Software:
    """By which program; digests are SHA-256 in hex."""

    name: str
    version: str
    build_digest: Text = Absent("not built from a release")
    config_digest: Text = NOT_CONFIGURED
    lock_digest: Text = Absent("no lock file is installed with the program")


@dataclass(frozen=True, slots=True)
class Step:
    """One step from raw bytes to signed chunk, in order."""

    name: str
    program: str
    version: str


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """What was known of this machine's clock (ns)."""

    source: str = "system"
    offset_ns: int | Absent = Absent("the clock's offset was not measured")
    uncertainty_ns: int | Absent = Absent("the clock's offset was not measured")
    synced: bool = False


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """One stream: what it is and how complete. Numbers are frames, rows or files; ``unknown_gaps`` have no number."""

    key: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    unit: Text
    source_uri: str
    source_type: str
    codec: Text
    received: int = 0
    lost: int = 0
    gaps: int = 0
    unknown_gaps: int = 0
    counted: bool = False

    @property
    def expected(self) -> int | Absent:
        """How many there were at the source, where that can be known."""
        if not self.counted:
            return Absent("the source does not count its items")
        if self.unknown_gaps:
            return Absent("a gap has no known size")
        return self.received + self.lost


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may have it: the label, who set it, and the licence."""

    label: Label
    authority: Text = NOT_CONFIGURED
    licence: Text = Absent("the project has not chosen a licence")


@dataclass(frozen=True, slots=True)
class Integrity:
    """Where the signatures are. ``sidecar`` is the file beside the run; level is as HSC/1 says."""

    format: str = "HSC/1-draft"
    sidecar: Text = Absent("the run was open when this was written")
    root: Text = Absent("each segment carries its own")
    level: Text = Absent("a verifier decides, not the agent")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The whole record. Times are UTC ns."""

    run_id: bytes
    run_no: int
    title: Text
    trigger: str
    outcome: Text
    started_ns: int
    ended_ns: int | Absent
    project: Project
    operator: Person | Absent
    organisation: Organisation
    sample: Sample
    instruments: tuple[Instrument, ...]
    software: Software
    steps: tuple[Step, ...]
    clock: ClockFacts
    streams: tuple[StreamFacts, ...]
    policy: Policy
    integrity: Integrity


def build_record(
    run: RunContext,
    software: Software,
    instruments: tuple[Instrument, ...],
    streams: tuple[StreamFacts, ...],
    *,
    project: Project | None = None,
    organisation: Organisation | None = None,
    steps: tuple[Step, ...] = (),
    clock: ClockFacts | None = None,
    ended_ns: int | None = None,
    outcome: Outcome | None = None,
    authority: Text = NOT_CONFIGURED,
    licence: Text = Absent("the project has not chosen a licence"),
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
        operator=person(run.user),
        organisation=organisation or Organisation(),
        sample=sample(run.sample),
        instruments=instruments,
        software=software,
        steps=steps,
        clock=clock or ClockFacts(),
        streams=tuple(replace(stream, source_uri=without_password(stream.source_uri)) for stream in streams),
        policy=Policy(run.label, authority, licence),
        integrity=integrity or Integrity(),
    )


def person(user: str) -> Person | Absent:
    """The operator from what the session was given: an ORCID (checked), a name, or nothing."""
    user = user.strip()
    if not user:
        return Absent("unattended: no session named a person")
    match = ORCID.fullmatch(user)
    if match is None:
        return Person(name=user, orcid=Absent("only a name was given"))
    if not is_orcid(match[1]):
        return Person(name=user, orcid=Absent("the check digit of the ORCID given is wrong"))
    return Person(name=Absent("only the ORCID was given"), orcid=match[1])


def is_orcid(orcid: str) -> bool:
    """Whether the check digit holds (ISO 7064 MOD 11-2)."""
    digits = orcid.replace("-", "")
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    return "0123456789X"[(12 - total % 11) % 11] == digits[-1]


def sample(given: str) -> Sample:
    """The sample from what the session was given: an IGSN or a local name."""
    given = given.strip()
    if not given:
        return Sample()
    match = IGSN.fullmatch(given)
    if match is None:
        return Sample(given, Absent("only a local name was given"))
    return Sample(Absent("only the IGSN was given"), match[1])


DESCRIBED = {
    "manufacturer": ("manufacturer", "maker", "vendor"),
    "model": ("model", "model_name", "product"),
    "serial_number": ("serial_number", "serial", "serialnumber"),
}


def instrument(
    name: str,
    adapter: str,
    endpoint: str,
    transport: str,
    *,
    described: Mapping[str, str | int | float] | None = None,
    configured: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
) -> Instrument:
    """One instrument: what it says of itself (`Sink.describe`), overridden by what is configured.

    Args:
        name: of its table in the configuration.
        adapter: kind of adapter.
        endpoint: URI, port or folder; a password in it is left out.
        transport: ``unauthenticated``, ``signed``, ``mtls``.
        described: facts of the instrument; well-known names fill maker, model and serial number, all are kept as facts.
        configured: any of ``pid landing_page type owner manufacturer model serial_number``.
        calibration: from the configuration or a registry.

    Raises:
        ValueError: ``configured`` has another key.
    """
    facts = dict(described or {})
    folded = {key.lower().replace("-", "_").replace(" ", "_"): str(value) for key, value in facts.items()}
    known: dict[str, str] = {}
    for key, names in DESCRIBED.items():
        said = next((folded[n] for n in names if folded.get(n, "").strip()), None)
        if said is not None:
            known[key] = said
    extra = {key: value for key, value in (configured or {}).items() if value}
    allowed = {"pid", "landing_page", "type", "owner", *DESCRIBED}
    if not extra.keys() <= allowed:
        raise ValueError(f"not a field of an instrument: {sorted(extra.keys() - allowed)}; known are {sorted(allowed)}")
    return Instrument(
        name, adapter, without_password(endpoint), transport, calibration=calibration or Calibration(), facts=facts, **(known | extra)
    )


def without_password(endpoint: str) -> str:
    """An endpoint or source URI without user name and password."""
    scheme, mark, rest = endpoint.partition("://")
    if not mark:
        return endpoint
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
