"""The TOML table of an EPICS instrument, with the PV lists that it names. No network, no EPICS library.

Invariants: a PV is named once with its scheme (``ca``, ``pva`` or ``auto``), its stream has a name of its own, and every address
is ``host`` or ``host:port``, optionally for one protocol only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from adapters.epics.lists import read_list
from adapters.names import StreamName
from edge_agent.adapter import AdapterConfig

Protocol = Literal["ca", "pva"]
Scheme = Literal["ca", "pva", "auto"]
"""How a PV is reached; ``auto``: over PV Access if that answers, else over Channel Access."""

CAMERA_IMAGE = "Pva1:Image"
"""Where areaDetector's NDPluginPva puts its image, below the camera's prefix."""

IMAGE = "image"
"""Name of the stream of frames."""

_SCHEMES: Mapping[str, Scheme] = {"ca": "ca", "pva": "pva", "auto": "auto"}
_PV = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<name>[^\s/]\S*)")
_ADDRESS = re.compile(r"(?:(?P<scheme>ca|pva)://)?(?P<host>[A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Pv:
    """One process variable: its protocol, its name at the IOC, the name of its stream, and what the configuration says of it."""

    scheme: Scheme
    name: str
    stream: str
    unit: str | None = None
    queue: int = 100
    pipeline: bool = False

    @property
    def uri(self) -> str:
        """``ca://X:TEMP``: the name of the source on every screen."""
        return f"{self.scheme}://{self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an IOC or name server is looked for; ``scheme`` None means by both protocols."""

    scheme: Protocol | None
    host: str
    port: int | None

    def __str__(self) -> str:
        """``host`` or ``host:port``, as the EPICS variables have it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


def split_uri(text: str, default: Scheme) -> tuple[Scheme, str]:
    """Split ``ca://X:TEMP``, ``pva://X:Y``, ``auto://X:Y`` or ``X:Z``; raises ValueError with what would do."""
    match = _PV.fullmatch(text)
    scheme = _SCHEMES.get(match["scheme"] or default) if match else None
    if match is None or scheme is None:
        raise ValueError(f"{text!r} is no PV; write for example ca://BL05:TEMP, pva://BL05:TEMP, auto://BL05:TEMP or BL05:TEMP")
    return scheme, match["name"]


def parse_address(text: str) -> Address:
    """Parse ``host``, ``host:port``, ``ca://host:port`` or ``pva://host:port``; raises ValueError."""
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise ValueError(f"{text!r} is no address; write for example 192.168.1.20, ioc1:5064 or pva://ioc1:5075")
    scheme: Protocol | None = "ca" if match["scheme"] == "ca" else "pva" if match["scheme"] == "pva" else None
    return Address(scheme, match["host"], port)


def stream_name(pv: str) -> str:
    """A stream name made of a PV name: what a path cannot hold becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", pv).lstrip("_.-")[:63] or "pv"


def _holds_more_than_one(value: int) -> int:
    if value < 2:
        raise ValueError(f"{value} is too short: a queue that one update fills looks full after each; write 2 or more")
    return value


Queue = Annotated[int, Field(le=10_000, json_schema_extra={"minimum": 2}), AfterValidator(_holds_more_than_one)]
"""Updates that may wait in the PV Access client. What came into a full queue may have been merged, which is declared as a gap."""


class PvConfig(BaseModel):
    """One PV with a name of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    pv: str
    """The PV: ca://X:TEMP, pva://X:TEMP, or X:TEMP for the default protocol."""
    name: StreamName | None = None
    """Name of the stream; made of the PV's name when left out."""
    unit: str | None = None
    """Unit, where the IOC states none or a wrong one."""
    queue: Queue | None = None
    """Updates that may wait in the PV Access client, for this PV, 2 or more. Default: `queue` of the instrument."""
    pipeline: bool = False
    """Ask the server to hold back what does not fit the queue (PV Access). Try it first: it takes some servers down."""


class ListConfig(BaseModel):
    """A PV list with values for its macros."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    file: str
    """The list: an autosave request file (.req), or a table (.csv) with the columns pv, name, unit."""
    macros: dict[str, str] = Field(default_factory=dict)
    """Values of the macros of a request file, as { P = "BL05:" }."""


class EpicsConfig(AdapterConfig):
    """An IOC, or several: PVs as rows, a camera as frames."""

    pvs: list[str | PvConfig] = Field(default_factory=list)
    """PVs to record, each as text or as a table {pv=, name=, unit=}."""
    lists: list[str | ListConfig] = Field(default_factory=list)
    """Files with more PVs, each as a path or as {file=, macros=}: autosave .req, or .csv with the columns pv, name, unit."""
    camera: str | None = None
    """Prefix of an areaDetector camera, as "pva://BL05:EIG1:": its image, the attributes of its frames, and its settings."""
    settings: list[str] = Field(default_factory=list)
    """More PVs of the camera to keep as its settings, below its prefix, as ["cam1:ThresholdEnergy_RBV"]."""
    attributes: bool | list[str] = True
    """Attributes of the frames to record as rows: all, none, or those named."""
    image: str | None = None
    """An NTNDArray PV by its full name, as "pva://BL05:EIG1:Pva1:Image"; instead of `camera`."""
    default: Scheme = "ca"
    """Protocol of PVs without a scheme."""
    codec: str | None = None
    """Codec of the frames, as "bitshuffle-lz4"; the agent's default when left out."""
    queue: Queue = 100
    """Updates that may wait in the PV Access client while we are busy, 2 or more; about 1 s of frames."""
    pipeline: bool = False
    """Pipelining for the image (PV Access). Try it first: it takes some servers down."""
    addresses: list[str] = Field(default_factory=list)
    """Where to look, as ["ioc1", "pva://ioc1:5075"]; switches broadcast off. Empty: the EPICS_* variables apply."""
    _listed: tuple[PvConfig, ...] = PrivateAttr(default=())

    @field_validator("addresses")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_address(text)
        return value

    @field_validator("camera", "image")
    @classmethod
    def _is_pva(cls, value: str | None) -> str | None:
        if value is not None and split_uri(value, "pva")[0] == "ca":
            raise ValueError(f"{value!r}: images travel over PV Access; write pva:// instead of ca://")
        return value

    @model_validator(mode="after")
    def _is_complete(self, info: ValidationInfo) -> EpicsConfig:
        folder = Path(info.context.get("folder", ".")) if isinstance(info.context, dict) else Path()
        listed: list[PvConfig] = []
        for entry in self.lists:
            table = ListConfig(file=entry) if isinstance(entry, str) else entry
            found = read_list(folder / Path(table.file).expanduser(), table.macros)
            listed += [PvConfig(pv=one.pv, name=one.name, unit=one.unit) for one in found]
        self._listed = tuple(listed)
        if self.camera is not None and self.image is not None:
            raise ValueError("camera and image both name the image; keep one of them")
        if self.settings and self.camera is None:
            raise ValueError('settings are those of the camera; give its prefix, as camera = "pva://X:"')
        if not (self.pvs or self.lists or self.camera or self.image):
            raise ValueError('nothing to record: give pvs = ["ca://X:TEMP"], camera = "pva://X:" or image = "pva://X:Image"')
        streams = [pv.stream for pv in self.rows()]
        if self.image_pv() is not None:
            streams.append(IMAGE)
        twice = sorted({name for name in streams if streams.count(name) > 1})
        if twice:
            raise ValueError(f"two PVs would be the stream {twice[0]!r}; give one of them a name: {{pv = ..., name = ...}}")
        return self

    def rows(self) -> list[Pv]:
        """The PVs that become rows; one that a list has, too, is as `pvs` says."""
        own = [self._pv(PvConfig(pv=entry) if isinstance(entry, str) else entry) for entry in self.pvs]
        named = {pv.name for pv in own}
        return own + [pv for pv in map(self._pv, self._listed) if pv.name not in named]

    def _pv(self, table: PvConfig) -> Pv:
        scheme, name = split_uri(table.pv, self.default)
        return Pv(scheme, name, table.name or stream_name(name), table.unit, table.queue or self.queue, table.pipeline)

    def image_pv(self) -> Pv | None:
        """The PV that delivers frames, if any."""
        if self.camera is not None:
            return Pv("pva", split_uri(self.camera, "pva")[1] + CAMERA_IMAGE, IMAGE, None, self.queue, self.pipeline)
        if self.image is not None:
            return Pv("pva", split_uri(self.image, "pva")[1], IMAGE, None, self.queue, self.pipeline)
        return None

    def parsed_addresses(self) -> list[Address]:
        """The addresses, parsed."""
        return [parse_address(text) for text in self.addresses]

    def options(self) -> dict[str, Any]:
        """What `watch` of the same IOC needs besides the PV."""
        return {"addresses": self.addresses, "default": self.default}
