"""The TOML table of an instrument on a serial line. Pure: no port is opened.

Invariants: a configuration that validates gives a `plan`: the parser can be built, every command and the delimiter can be encoded, and the
channels that are named exist.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.quantities import Seconds
from adapters.serial.plan import Plan, make_plan
from edge_agent.adapter import AdapterConfig

USB = "usb:"
_DTYPE = re.compile(r"[<|]?[fiuS][0-9]{1,4}")


class ChannelConfig(BaseModel):
    """What the line does not say of one of its values."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    unit: str | None = None
    """Its unit; goes before what the line says."""
    dtype: str | None = None
    """Its numpy type, as "<f4", "<i4" or "|S80"."""

    @field_validator("dtype")
    @classmethod
    def _is_dtype(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            if not _DTYPE.fullmatch(value):
                raise TypeError
            dtype = np.dtype(value)
        except TypeError as e:
            raise ValueError(f'{value!r} is no type of a value; write for example "<f8", "<i4" or "|S80"') from e
        if not dtype.itemsize:
            raise ValueError(f'{value!r} holds nothing; write for example "|S80"')
        return dtype.newbyteorder("<").str


class SerialConfig(AdapterConfig):
    """An instrument that sends or answers lines over a serial port, or over TCP through a device server."""

    port: str
    """The port: "/dev/serial/by-id/usb-...", "COM3", "socket://host:port", "rfc2217://host:port" or "usb:SERIALNUMBER"."""
    baudrate: int = Field(default=9600, ge=50, le=12_000_000)
    """Bits per second."""
    bytesize: Literal[5, 6, 7, 8] = 8
    """Data bits."""
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    """Parity bit."""
    stopbits: float = 1
    """Stop bits: 1, 1.5 or 2."""
    xonxoff: bool = False
    """Flow control by XON and XOFF."""
    rtscts: bool = False
    """Flow control by RTS and CTS."""
    profile: Literal["mettler-sics", "scpi", "lines"] = "lines"
    """The language: Mettler balances, SCPI, or any lines."""
    delimiter: str | None = None
    """End of a line, sent and received. Default: CR LF, LF for SCPI."""
    max_length: int = Field(default=4096, ge=1, le=2**20)
    """Longest line in bytes; a longer one is no line."""
    fixed_length: int | None = Field(default=None, ge=1, le=2**16)
    """Bytes of a record, for instruments without an end of line."""
    encoding: str = "ascii"
    """Encoding of the text."""
    parse: str | None = None
    """How a line is read, as "{status:word} {mass:float} {unit:word}"; kinds are float, int, word, text."""
    pattern: str | None = None
    """Instead of `parse`: a regular expression with named groups."""
    command: str | None = None
    """What is asked every `every`, as "READ?". Default: "SI" for Mettler balances."""
    every: Seconds | None = None
    """How often `command` is asked, as "1 s"."""
    timeout: Seconds = 2.0
    """How long an answer may take."""
    stream: bool = False
    """Mettler balances: let the balance send by itself (SIR) instead of asking; what happens when `every` is left out."""
    silence: Seconds | None = None
    """After how much silence the instrument is said not to answer. Default: three questions, 10 s for SIR, else never."""
    on_connect: list[str] | None = None
    """Commands sent at each connect. Default: who are you, in the language of `profile`."""
    channels: dict[str, ChannelConfig] = Field(default_factory=dict)
    """Unit or type of single values, as {mass = {unit = "g"}}."""

    @field_validator("port")
    @classmethod
    def _is_port(cls, value: str) -> str:
        if value.startswith(USB):
            if not value.removeprefix(USB).strip():
                raise ValueError('"usb:" wants the serial number of the adapter behind it, as "usb:A9XYZ"')
        elif "://" in value:
            _check_address(value)
        elif not value.strip() or "\0" in value:
            raise ValueError('must be a port, as "/dev/ttyUSB0", "COM3" or "socket://192.168.1.20:4001"')
        return value

    @field_validator("stopbits")
    @classmethod
    def _is_stopbits(cls, value: float) -> float:
        if value not in (1, 1.5, 2):
            raise ValueError("must be 1, 1.5 or 2")
        return value

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, value: str) -> str:
        try:
            "A1".encode(codecs.lookup(value).name)
        except LookupError as e:
            raise ValueError(f'{value!r} is no text encoding; write for example "ascii", "latin-1" or "utf-8"') from e
        return value

    @model_validator(mode="after")
    def _has_plan(self) -> SerialConfig:
        self.plan()
        return self

    def plan(self) -> Plan:
        """What is asked and how answers are read; raises ValueError where the keys do not fit together."""
        return make_plan(self)

    @property
    def dtypes(self) -> dict[str, str]:
        """The types that the configuration states, by channel."""
        return {name: channel.dtype for name, channel in self.channels.items() if channel.dtype is not None}

    @property
    def units(self) -> dict[str, str]:
        """The units that the configuration states, by channel."""
        return {name: channel.unit for name, channel in self.channels.items() if channel.unit is not None}


def _check_address(url: str) -> None:
    wanted = f'{url!r} is no address of a device server; write "socket://192.168.1.20:4001" or "rfc2217://192.168.1.20:4001"'
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("socket", "rfc2217") and parts.hostname and parts.port
    except ValueError as e:
        raise ValueError(wanted) from e
    if not complete or parts.path not in ("", "/"):
        raise ValueError(wanted)
