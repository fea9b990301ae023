"""The TOML table of an EPICS instrument. Pure: no network, no EPICS library.

Invariants: a PV is named once with its scheme (``ca`` or ``pva``), its stream has a name of its own, and every address
is ``host`` or ``host:port``, optionally for one protocol only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_agent.adapter import AdapterConfig
from edge_agent.model import NAME

Scheme = Literal["ca", "pva"]

CAMERA_IMAGE = "Pva1:Image"
"""Where areaDetector's NDPluginPva puts its image, below the camera's prefix."""

IMAGE = "image"
"""Name of the stream of frames."""

_PV = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<name>[^\s/]\S*)")
_ADDRESS = re.compile(r"(?:(?P<scheme>ca|pva)://)?(?P<host>[A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\])(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class Pv:
    """One process variable: its protocol, its name at the IOC, and the name of its stream."""

    scheme: Scheme
    name: str
    stream: str

    @property
    def uri(self) -> str:
        """``ca://X:TEMP``: the name of the source on every screen."""
        return f"{self.scheme}://{self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an IOC or name server is looked for; ``scheme`` None means by both protocols."""

    scheme: Scheme | None
    host: str
    port: int | None

    def __str__(self) -> str:
        """``host`` or ``host:port``, as the EPICS variables have it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


def split_uri(text: str, default: Scheme) -> tuple[Scheme, str]:
    """Split ``ca://X:TEMP``, ``pva://X:Y`` or ``X:Z``; raises ValueError with what would do."""
    match = _PV.fullmatch(text)
    scheme = match["scheme"] or default if match else ""
    if match is None or scheme not in ("ca", "pva"):
        raise ValueError(f"{text!r} is no PV; write for example ca://BL05:TEMP, pva://BL05:TEMP or BL05:TEMP")
    return ("pva" if scheme == "pva" else "ca"), match["name"]


def parse_address(text: str) -> Address:
    """Parse ``host``, ``host:port``, ``ca://host:port`` or ``pva://host:port``; raises ValueError."""
    match = _ADDRESS.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise ValueError(f"{text!r} is no address; write for example 192.168.1.20, ioc1:5064 or pva://ioc1:5075")
    scheme: Scheme | None = "ca" if match["scheme"] == "ca" else "pva" if match["scheme"] == "pva" else None
    return Address(scheme, match["host"], port)


def stream_name(pv: str) -> str:
    """A stream name made of a PV name: what a path cannot hold becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", pv).lstrip("_.-")[:63] or "pv"


class PvConfig(BaseModel):
    """One PV with a name of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    pv: str
    """The PV: ca://X:TEMP, pva://X:TEMP, or X:TEMP for the default protocol."""
    name: str | None = None
    """Name of the stream; made of the PV's name when left out."""
    unit: str | None = None
    """Unit, where the IOC states none or a wrong one."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no stream name: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit")
        return value


class EpicsConfig(AdapterConfig):
    """An IOC, or several: PVs as rows, a camera as frames."""

    pvs: list[str | PvConfig] = Field(default_factory=list)
    """PVs to record, each as text or as a table {pv=, name=, unit=}."""
    camera: str | None = None
    """Prefix of an areaDetector camera with its colon, as "pva://BL05:EIG1:"; its image and what it says of itself."""
    image: str | None = None
    """An NTNDArray PV by its full name, as "pva://BL05:EIG1:Pva1:Image"; instead of `camera`."""
    default: Scheme = "ca"
    """Protocol of PVs without a scheme."""
    codec: str | None = None
    """Codec of the frames, as "bitshuffle-lz4"; the agent's default when left out."""
    queue: int = Field(default=100, ge=1, le=10_000)
    """Updates that wait in the PV Access client while we are busy; about 1 s of frames."""
    addresses: list[str] = Field(default_factory=list)
    """Where to look, as ["ioc1", "pva://ioc1:5075"]; switches broadcast off. Empty: the EPICS_* variables apply."""

    @field_validator("addresses")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_address(text)
        return value

    @field_validator("camera", "image")
    @classmethod
    def _is_pva(cls, value: str | None) -> str | None:
        if value is not None and split_uri(value, "pva")[0] != "pva":
            raise ValueError(f"{value!r}: images travel over PV Access; write pva:// instead of ca://")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> EpicsConfig:
        if self.camera is not None and self.image is not None:
            raise ValueError("camera and image both name the image; keep one of them")
        if not (self.pvs or self.camera or self.image):
            raise ValueError('nothing to record: give pvs = ["ca://X:TEMP"], camera = "pva://X:" or image = "pva://X:Image"')
        streams = [pv.stream for pv, _ in self.rows()]
        if self.image_pv() is not None:
            streams.append(IMAGE)
        twice = sorted({name for name in streams if streams.count(name) > 1})
        if twice:
            raise ValueError(f"two PVs would be the stream {twice[0]!r}; give one of them a name: {{pv = ..., name = ...}}")
        return self

    def rows(self) -> list[tuple[Pv, str | None]]:
        """The PVs that become rows, each with the unit that the configuration states."""
        tables = [PvConfig(pv=entry) if isinstance(entry, str) else entry for entry in self.pvs]
        found = []
        for table in tables:
            scheme, name = split_uri(table.pv, self.default)
            found.append((Pv(scheme, name, table.name or stream_name(name)), table.unit))
        return found

    def image_pv(self) -> Pv | None:
        """The PV that delivers frames, if any."""
        if self.camera is not None:
            return Pv("pva", split_uri(self.camera, "pva")[1] + CAMERA_IMAGE, IMAGE)
        if self.image is not None:
            return Pv("pva", split_uri(self.image, "pva")[1], IMAGE)
        return None

    def parsed_addresses(self) -> list[Address]:
        """The addresses, parsed."""
        return [parse_address(text) for text in self.addresses]

    def options(self) -> dict[str, Any]:
        """What `watch` of the same IOC needs besides the PV."""
        return {"addresses": self.addresses, "default": self.default}
