"""What a run record is made of: frozen values, each with a place for "not known, because".

Every field is always there: what is not known is an `Absent` with the reason, never left out, so that a reader (or a
score) can tell "unknown" from "forgotten". `edge_agent.provenance.record` puts them together,
`edge_agent.provenance.jsonld` gives them their signed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_agent.model import Label


@dataclass(frozen=True, slots=True)
class Absent:
    """A value that is not there, and why."""

    reason: str


NOT_CONFIGURED = Absent("not configured")
NOT_SAID = Absent("the instrument does not say")
NOT_COUNTED = Absent("each segment lists its own; they are counted when the run is closed, in its crate")
NO_LICENCE = Absent("the project has not chosen a licence")
OPERATOR = "operator"
"""Role of a person of whom nothing else was said."""
Text = str | Absent


@dataclass(frozen=True, slots=True)
class Person:
    """Who ran it. ``orcid`` without the URL; ``role`` as NeXus has it: ``operator``, ``local_contact``, ``principal_investigator``."""

    name: Text = NOT_CONFIGURED
    orcid: Text = NOT_CONFIGURED
    role: str = OPERATOR


@dataclass(frozen=True, slots=True)
class Organisation:
    """Where. ``ror`` is the identifier's URL."""

    name: Text = NOT_CONFIGURED
    ror: Text = NOT_CONFIGURED


@dataclass(frozen=True, slots=True)
class Project:
    """For what: the project space's name, the proposal, the grant (e-Rad number), who funds it, and the rule that chose it.

    ``rule`` is ``session``, ``path``, ``value``, ``schedule``, ``configuration`` or ``nobody``; ``rule_source`` what told it so.
    """

    name: str
    proposal: Text = NOT_CONFIGURED
    grant: Text = NOT_CONFIGURED
    funder: Text = NOT_CONFIGURED
    rule: Text = NOT_CONFIGURED
    rule_source: Text = NOT_CONFIGURED


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


Number = float | Absent
Pair = tuple[float, float] | Absent
Direction = tuple[float, float, float] | Absent


@dataclass(frozen=True, slots=True)
class Detector:
    """Geometry and beam of an area detector, as NXmx wants them.

    Lengths in mm, ``wavelength`` in angstrom, ``beam_center`` in pixels. Pairs are along the fast and the slow direction of a frame;
    directions are unit vectors in NeXus' frame (McStas: z along the beam, y up). ``source`` is the name of the storage ring or laser.
    """

    source: Text = NOT_CONFIGURED
    wavelength: Number = NOT_CONFIGURED
    distance: Number = NOT_CONFIGURED
    beam_center: Pair = NOT_CONFIGURED
    pixel_size: Pair = NOT_CONFIGURED
    fast_direction: Direction = NOT_CONFIGURED
    slow_direction: Direction = NOT_CONFIGURED
    sensor_material: Text = NOT_CONFIGURED
    sensor_thickness: Number = NOT_CONFIGURED


@dataclass(frozen=True, slots=True)
class Instrument:
    """With what (PIDINST 1.0 names), how it is connected, what it says of itself, what it delivers (``frames``, ``rows``, ``files``).

    ``detector`` is None where nobody called it an area detector.
    """

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
    detector: Detector | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    delivers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Software:
    """By which program; digests are SHA-256 in hex."""

    name: str
    version: str
    build_digest: Text = Absent("not asked")
    config_digest: Text = Absent("not asked")
    lock_digest: Text = Absent("not asked")


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
    synced: bool | Absent = Absent("the clock was not asked")


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """One stream of a closed run: what it is and how complete. Numbers are frames, rows or files; ``unknown_gaps`` have no number."""

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
    """Who may have it: the label, who set it, and the licence; why it is not open, and until when it is closed whatever it becomes then."""

    label: Label
    authority: Text = NOT_CONFIGURED
    licence: Text = NO_LICENCE
    reasons: tuple[str, ...] | Absent = Absent("nobody gave a reason")
    embargo_until: Text = Absent("there is no embargo")
    access_after_embargo: Text = Absent("there is no embargo")


@dataclass(frozen=True, slots=True)
class Integrity:
    """Where the signatures are. ``sidecar`` is the file beside the run; level is as HSC/1 says."""

    format: str = "HSC/1"
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
    streams: tuple[StreamFacts, ...] | Absent
    policy: Policy
    integrity: Integrity
