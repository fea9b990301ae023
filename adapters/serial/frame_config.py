"""The TOML tables of a frame: how a message begins, ends, counts and proves itself. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.serial.check import checker
from adapters.serial.control_bytes import ControlBytes


class LengthConfig(BaseModel):
    """The field that says how long a frame is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    type: Literal["u1", "<u2", ">u2", "<u4", ">u4"] = "u1"
    """One, two or four bytes, low byte first ("<") or high byte first (">")."""
    at: int = Field(default=0, ge=0, le=64)
    """How many bytes stand between the start and this field."""
    counts: Literal["payload", "rest", "frame"] = "payload"
    """What it counts: what follows it without check and stop, all that follows it, or the whole frame."""
    plus: int = Field(default=0, ge=-1024, le=1024)
    """What has to be added to it, for instruments that count differently."""


class CheckConfig(BaseModel):
    """The check of a frame."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: str
    """A CRC of the catalogue, as "crc16-modbus", or sum8, sum16, lrc, ones8, xor8, fletcher16."""
    order: Literal["little", "big"] = "big"
    """Low byte first or high byte first."""
    written: Literal["bytes", "hex", "dec"] = "bytes"
    """As bytes, or in text: as hex digits, or as decimal digits with leading zeros."""
    covers: Literal["frame", "after-start", "payload"] = "after-start"
    """Over what it is made: from the start, from behind the start, or only from behind the length field."""
    after_stop: bool = False
    """It follows the stop bytes, and they are covered."""
    mark: ControlBytes | None = None
    """Bytes between what is covered and the check, as "2A" for NMEA."""

    @field_validator("kind")
    @classmethod
    def _is_kind(cls, value: str) -> str:
        checker(value)
        return value


class EscapeConfig(BaseModel):
    """How bytes that mean something are written when they are data."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    byte: ControlBytes
    """The escape byte; without xor and codes the byte behind it stands for itself (DLE DLE)."""
    xor: ControlBytes | None = None
    """The byte behind it is to be XORed with this, as "20" for HDLC."""
    codes: dict[str, str] = Field(default_factory=dict)
    """What stands behind it and what that means, as {"DC" = "C0", "DD" = "DB"} for SLIP."""

    @model_validator(mode="after")
    def _fits(self) -> EscapeConfig:
        from adapters.serial.control_bytes import parse_control_bytes

        given = [self.byte, *([self.xor] if self.xor else []), *map(parse_control_bytes, (*self.codes, *self.codes.values()))]
        if any(len(one) != 1 for one in given):
            raise ValueError('escape is about single bytes; write for example { byte = "7D", xor = "20" }')
        if self.xor and self.codes:
            raise ValueError("xor and codes both say what an escaped byte means; keep one of them")
        return self


class BlockConfig(BaseModel):
    """What the content of a binary block ends with."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    check: CheckConfig | None = None
    """The CRC or sum at the end of the content."""


class FrameConfig(BaseModel):
    """How a message is framed. What is left out does not occur."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    start: ControlBytes | None = None
    """How it begins, as "STX" or "AA 55"."""
    stop: ControlBytes | None = None
    """How it ends, as "ETX" or "CR LF". Without stop, length and fixed_length it ends with the delimiter."""
    length: LengthConfig | None = None
    """The field that says how long it is."""
    check: CheckConfig | None = None
    """The CRC or sum that proves it."""
    escape: EscapeConfig | None = None
    """How start, stop and escape bytes are written inside."""
