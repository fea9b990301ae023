"""The TOML table of an OPC-UA instrument. Pure: no network, no file is opened.

Invariants: a secure policy comes with certificate and key, a user with a file that holds the password, and nothing
secret stands in the table itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, field_validator, model_validator

from edge_agent.adapter import AdapterConfig
from edge_agent.model import NAME

_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h)")
_NODE_ID = re.compile(r"(?:nsu=.+?;|ns=\d+;)?[isgb]=.+", re.DOTALL)

Policy = Literal["None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"]
Mode = Literal["Sign", "SignAndEncrypt"]


def parse_seconds(value: Any) -> Any:
    """Seconds of ``"100 ms"``, ``"2 s"`` or ``"1 min"``; raises ValueError for any other text or a bare number."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{value!r} is no duration; write for example "100 ms" or "2 s"')
    return float(match[1]) * _UNITS[match[2]]


def seconds_text(value: float) -> str:
    """The duration as it stands in a configuration."""
    return f"{value * 1000:g} ms" if value < 1 else f"{value:g} s"


Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    PlainSerializer(seconds_text),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|min|h)$", "examples": ["100 ms"]}),
]
"""A duration, written with its unit."""


def is_node_id(text: str) -> bool:
    """Whether a text is a node id (``nsu=URI;s=...``, ``ns=2;i=7``) and not a browse path."""
    return _NODE_ID.fullmatch(text) is not None


class NodeConfig(BaseModel):
    """One variable with a name of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: str
    """Node id, as "nsu=urn:maker:furnace;s=Temperature", or browse path, as "0:Objects/2:Furnace/2:Temperature"."""
    name: str | None = None
    """Name of the stream; made of the identifier when left out."""
    unit: str | None = None
    """Unit, where the server states none or a wrong one."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no stream name: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit")
        return value


class OpcUaConfig(AdapterConfig):
    """An OPC-UA server and what to record of it."""

    endpoint: str
    """Address of the server, as "opc.tcp://192.168.1.30:4840"."""
    nodes: list[str | NodeConfig] = Field(default_factory=list)
    """Variables, each a node id or browse path, or a table {id=, name=, unit=}."""
    browse: str | None = None
    """A folder or object (node id or browse path): all variables below it."""
    browse_limit: int = Field(default=500, ge=1, le=20_000)
    """At most so many variables of `browse`."""
    publish: Seconds = Field(default=0.1, ge=0.01, le=60)
    """How often the server sends what has changed."""
    sampling: Seconds = Field(default=0.0, ge=0, le=3600)
    """How often the server looks at a variable; "0 ms": as often as it can. A warning says when it does not comply."""
    queue: int = Field(default=100, ge=1, le=100_000)
    """Values that the server keeps per variable between two publications."""
    timeout: Seconds = Field(default=4.0, ge=0.2, le=60)
    """How long a request may take; an unresponsive server is given up after about twice that."""
    security: Policy = "None"
    """Security policy."""
    mode: Mode = "SignAndEncrypt"
    """Security mode; without meaning for policy None."""
    certificate: Path | None = None
    """Our certificate (.pem or .der), with our application URI as alternative name."""
    private_key: Path | None = None
    """Its key (.pem or .der), readable by the agent only."""
    server_certificate: Path | None = None
    """The server's certificate; without it, whoever answers at the endpoint is believed."""
    user: str | None = None
    """User name, where the server wants one."""
    password_file: Path | None = None
    """File that holds the user's password and nothing else."""

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
        if not (self.nodes or self.browse):
            raise ValueError('nothing to record: give nodes = ["nsu=urn:maker:furnace;s=Temperature"] or browse = "0:Objects/2:Furnace"')
        if self.security != "None" and (self.certificate is None or self.private_key is None):
            raise ValueError(f"security = {self.security!r} needs certificate = and private_key =")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user = and password_file = belong together")
        return self

    def node_tables(self) -> list[NodeConfig]:
        """All `nodes` as tables."""
        return [NodeConfig(id=node) if isinstance(node, str) else node for node in self.nodes]

    def options(self) -> dict[str, Any]:
        """What `watch` of the same server needs besides endpoint and node."""
        keys = {"timeout", "security", "mode", "certificate", "private_key", "server_certificate", "user", "password_file"}
        return self.model_dump(include=keys, exclude_none=True)
