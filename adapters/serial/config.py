"""The TOML table of an instrument on a serial line. Pure: no port is opened.

Invariants: a configuration that validates gives a `plan`: the parser can be built, every command and the delimiter can be encoded, and the
channels that are named exist.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from adapters.quantities import Seconds
from adapters.serial import profiles, stamps
from adapters.serial.frame_config import BlockConfig, FrameConfig
from adapters.serial.plan import Plan, make_plan
from edge_agent.adapter import AdapterConfig

USB = "usb:"
_DTYPE = re.compile(r"[<>|]?[fiuS][0-9]{1,4}")
Language = Literal["lines", "mettler-sics", "scpi", "stars"]


class ChannelConfig(BaseModel):
    """What the line does not say of one of its values."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    unit: str | None = None
    """Its unit; goes before what the line says."""
    dtype: str | None = None
    """Its numpy type, as "<f4", "<i4" or "|S80"; of a block also ">f4" or ">u2", as the instrument sends it."""

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
        return dtype.str if value.startswith(">") else dtype.newbyteorder("<").str


class PollConfig(BaseModel):
    """One of several things that are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    command: str
    """What is asked, as "KRDG? A", or "hex: 05 41" for bytes."""
    every: Seconds
    """How often."""
    timeout: Seconds | None = None
    """How long its answer may take. Default: that of the instrument."""
    parse: str | None = None
    """How its answer is read. Without parse, pattern and struct: as any line of the instrument."""
    pattern: str | None = None
    """Instead of parse: a regular expression with named groups."""
    struct: str | None = None
    """Instead of parse: a format of binary fields."""
    fields: list[str] = Field(default_factory=list)
    """The names of the fields of struct."""


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
    profile: str = Field(default="lines", json_schema_extra={"enum": list(profiles.names())})
    """The language ("lines", "scpi", "mettler-sics", "stars"), or an instrument that is known; the other keys go before what it says."""
    language: Language = "lines"
    """The language, where profile names an instrument."""
    delimiter: str | None = None
    """End of a line, sent and received. Default: CR LF, LF for SCPI."""
    command_end: str | None = None
    """End of what is sent, where it is another than that of what is received; commands then go without a frame."""
    max_length: int | None = Field(default=None, ge=1, le=2**24)
    """Longest line or frame in bytes; a longer one is none. Default: 4096."""
    fixed_length: int | None = Field(default=None, ge=1, le=2**16)
    """Bytes of a record, for instruments without an end of line."""
    gap: Seconds | None = None
    """Silence that ends a message, for servers and instruments without any end of a message, as "20 ms"."""
    frame: FrameConfig | None = None
    """Start, stop, length, escapes and check of a message, as { start = "STX", stop = "ETX", check = { kind = "xor8" } }."""
    encoding: str = "ascii"
    """Encoding of the text."""
    parse: str | list[str] | None = None
    """How a line is read, as "{mass:float} {unit:word}"; kinds are float, int, word, text, ts, block. Several: the first that fits."""
    pattern: str | None = None
    """Instead of `parse`: a regular expression with named groups."""
    struct: str | None = None
    """Instead of `parse`: a format of binary fields as in Python's struct module, as "<IHf256H"; "*H" at the end: as many as come."""
    fields: list[str] = Field(default_factory=list)
    """The names of the fields of struct; "_" skips one."""
    block: BlockConfig | None = None
    """The record of struct is the content of a block (IEEE 488.2), as { check = { kind = "crc32", order = "little" } }."""
    time_format: str | None = None
    """How a field of the kind ts is written, as "%d.%m.%Y %H:%M:%S". Default: ISO 8601 or seconds since 1970."""
    timezone: str | None = None
    """Time zone of the instrument's clock, where it does not say, as "Asia/Tokyo". Default: that of this machine."""
    command: str | None = None
    """What is asked every `every`, as "READ?". Default: "SI" for Mettler balances."""
    every: Seconds | None = None
    """How often `command` is asked, as "1 s"."""
    poll: list[PollConfig] = Field(default_factory=list)
    """Several things to ask, each with a period and a form of its own."""
    timeout: Seconds = 2.0
    """How long an answer may take."""
    raw: bool = False
    """Keep all bytes beside the values, so that the run can be played back. Bytes that are no item are always kept."""
    node: str | None = None
    """STARS: the name of this node."""
    keys: Path | None = None
    """STARS: the file with the keywords of this node."""
    stream: bool = False
    """Mettler balances: let the balance send by itself (SIR) instead of asking; what happens when `every` is left out."""
    silence: Seconds | None = None
    """After how much silence the instrument is said not to answer. Default: three questions, 10 s for SIR, else never."""
    on_connect: list[str] | None = None
    """Commands sent at each connect. Default: who are you, in the language of `profile`."""
    channels: dict[str, ChannelConfig] = Field(default_factory=dict)
    """Unit or type of single values, as {mass = {unit = "g"}}."""

    @model_validator(mode="before")
    @classmethod
    def _take_profile(cls, given: Any) -> Any:
        return profiles.fill_in(given) if isinstance(given, dict) else given

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

    @field_validator("keys")
    @classmethod
    def _is_below_the_configuration(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        folder = (info.context or {}).get("folder") if isinstance(info.context, dict | None) else None
        return value if value is None or folder is None else Path(folder) / value.expanduser()

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str | None) -> str | None:
        if value is not None:
            stamps.zone(value)
        return value

    @field_validator("time_format")
    @classmethod
    def _is_time_format(cls, value: str | None) -> str | None:
        if value is not None:
            stamps.example(value)
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
