"""The tables of a configuration file, and the `Config` that the agent runs with.

Every field is declared once: its type, default and one-line description here are what the checks, the JSON Schema and the editors'
help are made of. Attribute names are those of the file, but for the tables of tables: ``[instrument.NAME]`` is
``config.instruments["NAME"]``.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, SerializeAsAny, StrictBool, ValidationInfo, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from edge_agent.adapter import AdapterConfig
from edge_agent.config import adapters
from edge_agent.config.conditions import IdleText, RunWhileText
from edge_agent.config.live import LiveTable
from edge_agent.config.problems import nearest
from edge_agent.config.targets import AnyTarget, Table, TsaUrl
from edge_agent.config.timezone import system_timezone, zone
from edge_agent.config.values import Date, Duration, LocalPath, Size, local_path
from edge_agent.errors import ConfigError
from edge_agent.model import NAME, Access
from edge_agent.words import t

CodecName = Literal["bitshuffle-lz4", "shuffle-zstd", "none"]


def _name(value: str) -> str:
    if NAME.fullmatch(value):
        return value
    raise PydanticCustomError(
        "cfg_value", "{message}", {"message": t("is no name: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit")}
    )


Name = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})]
"""A name that is safe in paths, topics and on Windows."""


def default_spool() -> Path:
    """Where the spool is when the configuration does not say: the system's place for a service's data."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "edge-agent")
    return Path("/var/lib/edge-agent")


Reason = Literal["export_control", "personal_data", "company_secret", "novelty", "third_party_ip", "research_security"]


class Labelled(Table):
    """Who may have the data and why: of all tables that say something of a run, the strictest counts."""

    access: Access | None = None
    """Who may have the data: "open", "shared", "closed". Default: what the other tables say, else "closed"."""
    allowed: frozenset[Name] = frozenset()
    """Targets that may hold data that is not open. Default: only the project's own space."""
    reasons: tuple[Reason, ...] = ()
    """Why it is not open: "export_control", "personal_data", "company_secret", "novelty", "third_party_ip", "research_security"."""
    embargo: Date | None = None
    """Last day on which it is closed whatever "access" says, as "2027-03-31". Default: none."""
    jurisdiction: frozenset[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] | None = None
    """Countries that data that is not open may not leave, as ["JP"] (ISO 3166-1). Default: any."""

    @model_validator(mode="after")
    def _reasons_close(self) -> Labelled:
        if self.reasons and self.access is Access.OPEN and self.embargo is None:
            raise PydanticCustomError("cfg_value", "{message}", {"message": t("gives reasons to keep data back, and calls it open")})
        return self


class Organisation(Table):
    """A facility or an organisation, for the run record."""

    name: str
    """Its name."""
    ror: str | None = Field(default=None, pattern=r"^https://ror\.org/0[a-z0-9]{6}[0-9]{2}$")
    """Its ROR identifier, as "https://ror.org/04mb6s476". Default: none."""


def _public_key(value: str) -> str:
    from edge_agent.wire.envelope import NoKey, recipient  # only where there is a key

    try:
        recipient(value)
    except NoKey as error:
        if error.secret:
            message = t("is a secret key, which never belongs here: it is spoilt, make another one and write its public key, age1...")
        else:
            message = t('is no public key such as "age1..."; edge-agent project-key new makes one')
        raise PydanticCustomError("cfg_value", "{message}", {"message": message}) from error
    return value


PublicKey = Annotated[str, AfterValidator(_public_key), WithJsonSchema({"type": "string", "pattern": "^age1[a-z0-9]+$"})]
"""A public key of age (X25519)."""


class Project(Labelled):
    """What the record of a run says of its project."""

    proposal: str = ""
    """Number of the proposal, as the facility writes it: "2026B1234"."""
    grant: str = ""
    """Number of the grant, as "JP26K00001" (KAKENHI) or an e-Rad number."""
    funder: str = ""
    """Who gives the grant."""
    licence: str = ""
    """Licence of the data: an SPDX identifier such as "CC-BY-4.0", or an address. Default: none is granted."""
    closed: StrictBool = False
    """It takes no new data: sessions are refused, what comes all the same is kept in quarantine. Default false."""
    encrypt_to: tuple[PublicKey, ...] = ()
    """Public keys, each of which opens what is encrypted for the project; the first names its folder. Default: none, nothing is."""
    last_day: Date | None = None
    """Last day on which runs for it may begin, as "2027-03-31", in the facility's time zone. Default: none."""


class Calibration(Table):
    """Until when an instrument's calibration holds."""

    id: str
    """Number of the certificate."""
    valid_until: Date | None = None
    """Last day on which it holds, as "2027-03-31". Default: not said."""


Finite = Annotated[float, Field(allow_inf_nan=False)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Measured = Length | Annotated[str, Field(pattern=r"^\S+$")]
"""A number, or the name of a fact that the instrument tells, whose value is the number."""
Cosine = Annotated[float, Field(ge=-1, le=1)]
Direction = tuple[Cosine, Cosine, Cosine]


class Nxmx(Table):
    """An area detector, as the NeXus application definition NXmx wants it: what is not said is a NaN with a reason in the file."""

    source: str = ""
    """Name of the storage ring or laser, as "SPring-8"."""
    wavelength: Measured | None = None
    """Wavelength of the beam in angstrom, or the setting of the camera that has it, as "cam1_Wavelength_RBV"."""
    distance: Measured | None = None
    """From the sample to the detector along the beam in mm, or the setting that has it. The detector stands across the beam."""
    beam_center: tuple[Measured | Finite, Measured | Finite] | None = None
    """Where the beam meets the detector, in pixels along the fast and the slow direction, or the settings that have them."""
    pixel_size: tuple[Length, Length] | None = None
    """Size of a pixel along the fast and the slow direction, in mm, as [0.075, 0.075]."""
    fast_direction: Direction | None = None
    """Unit vector along which the last index of a frame rises, z along the beam and y up (McStas), as [-1, 0, 0]."""
    slow_direction: Direction | None = None
    """Unit vector along which the first index of a frame rises, as [0, -1, 0]."""
    sensor_material: str = ""
    """What the sensor is made of, as "Si"."""
    sensor_thickness: Length | None = None
    """Thickness of the sensor in mm, as 0.45."""

    @field_validator("fast_direction", "slow_direction")
    @classmethod
    def _is_unit(cls, value: Direction | None) -> Direction | None:
        if value is not None and abs(math.hypot(*value) - 1) > 1e-3:
            message = t("is no unit vector: the squares of its three numbers must sum up to 1")
            raise PydanticCustomError("cfg_value", "{message}", {"message": message})
        return value


class Spool(Table):
    """Where data waits until its targets proved that they hold it."""

    dir: LocalPath = Field(default_factory=default_spool)
    """Folder of the spool, on a local disk. Default "/var/lib/edge-agent"."""
    keep_free: Size = 20 * 10**9
    """Bytes of the disk that stay free for others. Default "20 GB"."""
    max_size: Size | None = Field(default=None, gt=0)
    """Most bytes that the spool may hold. Default: what the disk has."""
    soft: Size | None = None
    """Room left at which a warning is given and finished data is freed. Default: 15 % of the spool, at most 16 GiB."""
    hard: Size | None = None
    """Room left at which frames are refused. Default: 5 % of the spool, at most 4 GiB."""
    keep_unclaimed: Duration = 7 * 86400.0
    """How long runs of no project stay here after they landed, to be claimed, while there is room. Default "7 d"."""

    @model_validator(mode="after")
    def _hard_is_less(self) -> Spool:
        if self.soft is not None and self.hard is not None and self.hard > self.soft:
            raise PydanticCustomError("cfg_value", "{message}", {"message": t("hard is room left, it must not be more than soft")})
        return self


class Keys(Table):
    """Where this agent's keys and certificates are."""

    dir: LocalPath | None = None
    """Folder of keys and certificates. Default: "keys" in the folder of the spool."""
    seal: Literal["file", "system"] = "file"
    """How the identity key lies there: "file" for its owner only, "system" sealed for this machine (systemd-creds as root; DPAPI)."""


class Log(Table):
    """What the agent says on its standard error (the system's journal)."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written. Default "info"."""
    format: Literal["text", "json"] = "text"
    """One line of text or one JSON object an event. Default "text"."""


class Timestamp(Table):
    """A time-stamping service (RFC 3161) that dates every run."""

    tsa: TsaUrl
    """Address of the service, as "https://tsa.example.ac.jp"."""
    root: LocalPath | None = None
    """PEM file of the service's root: each time-stamp is checked before it is kept. Default: only its digest and nonce are."""
    facility: StrictBool = False
    """The facility runs or approved it: digests of shared and closed data may go there too. Default false."""


class Instrument(Labelled):
    """One instrument. Keys that are not listed here belong to its adapter."""

    adapter: str
    """The protocol: "serial", "opcua", "epics", "files", or one that an installed package provides."""
    group: Name | None = None
    """Instruments of one group share their runs. Default: the instrument's own name."""
    codec: CodecName | None = None
    """How values are packed: "bitshuffle-lz4", "shuffle-zstd", "none". Default: bitshuffle-lz4 for frames, shuffle-zstd for rows."""
    priority: Literal["normal", "low"] = "normal"
    """"low": when the machine is too slow, nine of ten frames of this instrument give way, and are declared. Default "normal"."""
    idle: IdleText | None = None
    """Between runs: "keep", "ignore" or "ring = 30 s". Default: keep rows and files, ignore frames."""
    run_while: RunWhileText | None = None
    """Open a run while this is true, as "ca://BL05:SHUTTER == 1". Default: runs are opened by sessions."""
    look_back: Duration = 2.0
    """How far back a run that opens still takes what already arrived. Default "2 s"."""
    targets: tuple[Name, ...] | None = None
    """Targets that the data goes to. Default: all."""
    project: Name | None = None
    """Project of runs without a session. Default: the top one."""
    project_pv: str | None = Field(default=None, pattern=r"^(ca|pva|opc\.tcp)://\S+$")
    """Value that says the project of the group's runs without a session, as "ca://BL05:PROPOSAL"; also their proposal number."""
    title: str = ""
    """What it is, in words, for the run record."""
    maker: str = ""
    """Manufacturer, for the run record."""
    model: str = ""
    """Model, for the run record."""
    serial_number: str = ""
    """Serial number, for the run record."""
    pid: str = ""
    """Persistent identifier of the instrument (PIDINST), as "https://doi.org/10.21938/abc"."""
    landing_page: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Web page that describes the instrument, for the run record."""
    owner: str = ""
    """Who owns the instrument: an organisation or a person, for the run record."""
    calibration: Calibration | None = None
    """Its calibration, for the run record: {id = "...", valid_until = "2027-03-31"}. Default: what the instrument says."""
    nxmx: Nxmx | None = None
    """Frames of this detector are written as NXmx: {wavelength = 0.98, ...}. Default: as plain NXdetector."""
    settings: SerializeAsAny[AdapterConfig] = Field(default_factory=AdapterConfig)
    """The adapter's own keys, validated by the adapter's `Config`. In the file they stand beside the others."""

    @model_validator(mode="wrap")
    @classmethod
    def _split(cls, value: Any, handler: Any) -> Any:
        """Put the adapter's keys under ``settings``; a key that both have is given to both."""
        if not isinstance(value, dict):
            return handler(value)
        own = {key: entry for key, entry in value.items() if key in COMMON}
        return handler(own | {"settings": value})

    @field_validator("adapter")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        try:
            adapters.adapter_class(value)
        except ConfigError as e:
            unknown = e.code == "CFG_UNKNOWN_ADAPTER"
            message = t("there is no such adapter") if unknown else f"{e.what} {e.why}"
            context = {"message": message, "nearest": nearest(value, adapters.names()) if unknown else None}
            raise PydanticCustomError(e.code.lower(), "{message}", context) from e
        return value

    @field_validator("settings", mode="wrap")
    @classmethod
    def _by_adapter(cls, value: Any, handler: Any, info: ValidationInfo) -> AdapterConfig:
        name = info.data.get("adapter")
        if isinstance(value, AdapterConfig):
            return value
        if name is None:  # told already; what its keys are cannot be known
            return AdapterConfig()
        model = adapters.adapter_class(name).Config
        mine = {key: entry for key, entry in value.items() if key not in COMMON or key in model.model_fields}
        return _anchored(model.model_validate(mine, context=info.context), info)


def _anchored(settings: AdapterConfig, info: ValidationInfo) -> AdapterConfig:
    """Relative paths of an adapter start from the configuration's folder too: a service runs in another one than the person who checks."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    paths = {name: local_path(str(value), info) for name, value in values.items() if isinstance(value, Path)}
    return settings.model_copy(update=paths) if paths else settings


COMMON = frozenset(Instrument.model_fields) - {"settings"}
"""Keys that every instrument has, whatever its adapter."""


class Config(Labelled):
    """A whole configuration."""

    site: Name
    """Name of this place, as "BL05": where the agent stands."""
    timezone: str = Field(default_factory=system_timezone)
    """IANA time zone of the facility, for dates in paths, as "Asia/Tokyo". Default: the system's, else UTC."""
    facility: Organisation | None = None
    """The facility, for the run record: {name = "...", ror = "..."}."""
    organisation: Organisation | None = None
    """The organisation, for the run record: {name = "...", ror = "..."}."""
    spool: Spool = Field(default_factory=Spool)
    """Where data waits: {dir = "...", keep_free = "20 GB"}."""
    keys: Keys = Field(default_factory=Keys)
    """Where keys and certificates are: {dir = "..."}."""
    project: Name = "unclaimed"
    """Project of runs without a session. Default "unclaimed"."""
    projects: dict[Name, Project] = Field(default_factory=dict)
    """``[projects.NAME]``: what the run record says of a project, and whether it takes new data."""
    schedule: LocalPath | None = None
    """CSV file with start, end and project of runs without a session. Default: none."""
    own_streams: int = Field(default=256, ge=0)
    """A run with more streams of single values keeps them in tables that they share, which takes less time to create. Default 256."""
    timestamp: Timestamp | None = None
    """Who dates the runs: {tsa = "https://..."}. Default: nobody but the witness."""
    log: Log = Field(default_factory=Log)
    """What the agent says: {level = "info", format = "text"}."""
    instruments: dict[Name, Instrument] = Field(default_factory=dict, alias="instrument")
    """``[instrument.NAME]``: the name is the instrument, the folder and the row on every screen."""
    targets: dict[Name, AnyTarget] = Field(default_factory=dict, alias="target")
    """``[target.NAME]``: where the data goes."""
    live: dict[Name, LiveTable] = Field(default_factory=dict)
    """``[live.NAME]``: who sees values the moment they come, and hears what has landed. Default: nobody."""

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        return zone(value).key

    @property
    def zone(self) -> ZoneInfo:
        """The facility's time zone."""
        return zone(self.timezone)

    @property
    def keys_dir(self) -> Path:
        """Folder of keys and certificates."""
        return self.keys.dir or self.spool.dir / "keys"

    def targets_of(self, instrument: str) -> tuple[str, ...]:
        """Names of the targets that an instrument's data goes to."""
        chosen = self.instruments[instrument].targets
        return tuple(self.targets) if chosen is None else chosen

    def group_of(self, instrument: str) -> str:
        """The run group of an instrument: its own name unless it says otherwise."""
        return self.instruments[instrument].group or instrument

    def project_of(self, instrument: str) -> str:
        """The project of an instrument's runs that have no session."""
        return self.instruments[instrument].project or self.project
