"""The TOML table of an OPC-UA instrument. Pure: no network, no file is opened.

Invariants: certificates come with their keys, a user with a file that holds the password, and nothing
secret stands in the table itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.names import StreamName
from adapters.quantities import Seconds, SecondsOrZero
from edge_agent.adapter import AdapterConfig

_PIXELS = re.compile(r"(\d{1,6})\s*x\s*(\d{1,6})\s+(u?int8|u?int16|u?int32|float32|float64)")
_NODE_ID = re.compile(r"(?:nsu=.+?;|ns=\d+;)?[isgb]=.+", re.DOTALL)

Policy = Literal["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
Mode = Literal["Sign", "SignAndEncrypt"]


def is_node_id(text: str) -> bool:
    """Whether a text is a node id (``nsu=URI;s=...``, ``ns=2;i=7``) and not a browse path."""
    return _NODE_ID.fullmatch(text) is not None


class NodeConfig(BaseModel):
    """One variable with a name of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str
    """Node id, as "nsu=urn:maker:furnace;s=Temperature", or browse path, as "0:Objects/2:Furnace/2:Temperature"."""
    name: StreamName | None = None
    """Name of the stream; made of the identifier when left out."""
    unit: str | None = None
    """Unit, where the server states none or a wrong one."""
    counts_by: int | None = Field(default=None, ge=1)
    """For a variable that counts: by how much it rises at each change, so that what is missing gets numbers."""
    frames: bool | None = None
    """Whether each value is an image: a matrix, or a ByteString with a PNG, JPEG, BMP, GIF or TIFF. Left out: the data type decides."""
    pixels: str | None = None
    """For images of bare pixels in a ByteString: height, width and type, as "480 x 640 uint16"."""

    @field_validator("pixels")
    @classmethod
    def _are_pixels(cls, value: str | None) -> str | None:
        if value is not None:
            pixel_form(value)
        return value


def pixel_form(text: str) -> tuple[tuple[int, int], str]:
    """Shape and little-endian dtype of "480 x 640 uint16"; raises ValueError."""
    match = _PIXELS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} does not describe an image; write for example "480 x 640 uint16"')
    return (int(match[1]), int(match[2])), np.dtype(match[3]).newbyteorder("<").str


class OpcUaConfig(AdapterConfig):
    """An OPC-UA server and what to record of it."""

    endpoint: str
    """Address of the server, as "opc.tcp://192.168.1.30:4840"."""
    nodes: list[str | NodeConfig] = Field(default_factory=list)
    """Variables, each a node id or browse path, or a table {id=, name=, unit=}."""
    browse: str | None = None
    """A folder or object (node id or browse path): all variables below it."""
    pattern: list[str] = Field(default_factory=list)
    """Of the variables below `browse` (or of all) those whose path of browse names fits, as "Furnace*/**/Temperature"."""
    lads: str | None = None
    """A laboratory device (OPC 30500-1) by its name or serial number: its functions, states and results."""
    browse_limit: int = Field(default=500, ge=1, le=20_000)
    """At most so many variables of `browse`, `pattern` or `lads`."""
    events: list[str] = Field(default_factory=list)
    """Objects whose events and alarms are recorded as the stream "events"; "i=2253" is the server, which has all."""
    min_severity: int = Field(default=1, ge=1, le=1000)
    """Events less severe than this are left out."""
    publish: Seconds = Field(default=0.1, ge=0.01, le=60)
    """How often the server sends what has changed."""
    sampling: SecondsOrZero = Field(default=0.0, ge=0, le=3600)
    """How often the server looks at a variable; "0 ms": as often as it can. A warning says when it does not comply."""
    queue: int = Field(default=100, ge=1, le=100_000)
    """Values that the server keeps per variable between two publications."""
    silence: Seconds = Field(default=30.0, ge=0.2, le=3600)
    """A variable of which nothing came for so long is read, to see whether its subscription still works."""
    backfill: bool = True
    """After an outage, fetch what was missed from the server's history, where it keeps one; such rows are marked."""
    timeout: Seconds = Field(default=4.0, ge=0.2, le=60)
    """How long a request may take; an unresponsive server is given up after about twice that."""
    security: Policy = "None"
    """Security policy."""
    mode: Mode = "SignAndEncrypt"
    """Security mode; without meaning for policy None."""
    identity: Path = Path("/var/lib/edge-agent/opcua")
    """Folder of our own certificate, made at the first connection and renewed in time, and of the servers' that are trusted."""
    certificate: Path | None = None
    """Our certificate (.pem or .der) where somebody else makes it, with our application URI as alternative name."""
    private_key: Path | None = None
    """Its key (.pem or .der), readable by the agent only."""
    server_certificate: Path | None = None
    """The server's certificate; without it the one that `edge-agent trust` has pinned."""
    user: str | None = None
    """User name, where the server wants one."""
    password_file: Path | None = None
    """File that holds the user's password and nothing else."""
    user_certificate: Path | None = None
    """Certificate (.pem or .der) that says who we are, where the server wants one instead of a password."""
    user_key: Path | None = None
    """Its key (.pem or .der), readable by the agent only."""

    @field_validator("endpoint")
    @classmethod
    def _is_endpoint(cls, value: str) -> str:
        parts = urlparse(value)
        try:
            complete = parts.scheme == "opc.tcp" and bool(parts.hostname) and parts.port is not None
        except ValueError:
            complete = False
        if not complete:
            raise ValueError(f"{value!r} is no endpoint; write for example opc.tcp://192.168.1.30:4840")
        if parts.username or parts.password:
            raise ValueError("the endpoint must not hold a password; use user = and password_file =")
        return value

    @field_validator("nodes")
    @classmethod
    def _are_distinct(cls, value: list[str | NodeConfig]) -> list[str | NodeConfig]:
        names = [node.name for node in value if isinstance(node, NodeConfig) and node.name]
        ids = [node if isinstance(node, str) else node.id for node in value]
        for what, found in (("stream", names), ("node", ids)):
            twice = sorted({one for one in found if found.count(one) > 1})
            if twice:
                raise ValueError(f"the {what} {twice[0]!r} is there twice")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> OpcUaConfig:
        if not (self.nodes or self.browse or self.pattern or self.lads or self.events):
            raise ValueError(
                'nothing to record: give nodes = ["nsu=urn:maker:furnace;s=Temperature"], browse =, pattern =, lads = or events ='
            )
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate = and private_key = belong together")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user = and password_file = belong together")
        if (self.user_certificate is None) != (self.user_key is None):
            raise ValueError("user_certificate = and user_key = belong together")
        if self.user is not None and self.user_certificate is not None:
            raise ValueError("give user = or user_certificate =, not both")
        if self.user_certificate is not None and self.security == "None":
            raise ValueError('user_certificate = needs security =, for example "Basic256Sha256"')
        return self

    def node_tables(self) -> list[NodeConfig]:
        """All `nodes` as tables."""
        return [NodeConfig(id=node) if isinstance(node, str) else node for node in self.nodes]

    def options(self) -> dict[str, Any]:
        """What `watch` of the same server needs besides endpoint and node."""
        keys = {
            "timeout", "security", "mode", "identity", "certificate", "private_key", "server_certificate", "user", "password_file",
            "user_certificate", "user_key",
        }  # fmt: skip
        return self.model_dump(include=keys, exclude_none=True)
