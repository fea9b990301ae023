"""One framed message: made of a payload, and taken apart again. Pure.

On the line: start | payload, with the length field inside | mark, check | stop, or the check behind the stop. A payload is what is
left without start, length field, mark, check and stop. Escapes are undone between start and stop, before anything is checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from adapters.serial.check import checker
from adapters.serial.control_bytes import parse_control_bytes, show_bytes
from adapters.serial.frame_config import CheckConfig, EscapeConfig, FrameConfig, LengthConfig
from adapters.serial.why import Why


class BadFrame(Exception):
    """The bytes are no frame."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Frame:
    """A framing that was understood. Exactly one of ``stop`` alone, ``length`` and ``size`` says where a frame ends."""

    start: bytes
    stop: bytes
    size: int | None
    length: LengthField | None
    check: Check | None
    escape: Escape | None

    @property
    def counted(self) -> bool:
        """Whether the end of a frame follows from its beginning."""
        return self.size is not None or self.length is not None

    @property
    def after_stop(self) -> int:
        """Bytes behind the stop."""
        return self.check.width if self.check is not None and self.check.after_stop else 0

    @property
    def resyncs(self) -> bool:
        """Whether a frame can be told from noise at any byte."""
        return bool(self.start) or self.check is not None

    def encode(self, payload: bytes) -> bytes:
        """The frame that carries the payload."""
        body = self.length.put(self, payload) if self.length is not None else payload
        check = self.check
        inner = body if check is None or check.after_stop else body + check.mark + check.make(self, body)
        if self.escape is not None:
            inner = self.escape.encode(inner)
        tail = check.make(self, body) if check is not None and check.after_stop else b""
        return self.start + inner + self.stop + tail

    def decode(self, whole: bytes) -> bytes:
        """The payload of a frame from its first to its last byte. Raises BadFrame."""
        end = len(whole) - self.after_stop
        inner = whole[len(self.start) : end - len(self.stop)]
        if not whole.startswith(self.start) or whole[end - len(self.stop) : end] != self.stop or end < len(self.start) + len(self.stop):
            raise BadFrame(Why("does not end with {stop}", stop=show_bytes(self.stop)))
        if self.escape is not None:
            inner = self.escape.decode(inner)
        if self.check is not None:
            inner = self.check.verified(self, inner, whole[end:])
        return self.length.cut(inner) if self.length is not None else inner


@dataclass(frozen=True, slots=True)
class LengthField:
    """The field that says how long a frame is."""

    config: LengthConfig
    dtype: np.dtype[np.unsignedinteger]

    @property
    def end(self) -> int:
        """Where it ends, in bytes behind the start."""
        return self.config.at + self.dtype.itemsize

    def total(self, frame: Frame, head: bytes) -> int | None:
        """Bytes of the whole frame that begins with ``head``; None while the field has not come. Raises BadFrame."""
        begin = len(frame.start) + self.config.at
        if len(head) < begin + self.dtype.itemsize:
            return None
        total = int(np.frombuffer(head, self.dtype, 1, begin)[0]) + self._missing(frame)
        least = len(frame.start) + self.end + _tail(frame)
        if total < least:
            raise BadFrame(Why("says that it is {total} bytes long, which is less than {least}", total=total, least=least))
        return total

    def put(self, frame: Frame, payload: bytes) -> bytes:
        """The payload with the field in its place; raises ValueError when the field is too small for it."""
        at = self.config.at
        total = len(frame.start) + len(payload) + self.dtype.itemsize + _tail(frame)
        value = total - self._missing(frame)
        if len(payload) < at or not 0 <= value <= np.iinfo(self.dtype).max:
            raise ValueError(f"a message of {len(payload)} bytes does not fit the length field")
        return payload[:at] + np.array([value], self.dtype).tobytes() + payload[at:]

    def cut(self, body: bytes) -> bytes:
        """The body without the field."""
        return body[: self.config.at] + body[self.end :]

    def _missing(self, frame: Frame) -> int:
        before = len(frame.start) + self.end
        return self.config.plus + {"payload": before + _tail(frame), "rest": before, "frame": 0}[self.config.counts]


def _tail(frame: Frame) -> int:
    return len(frame.stop) + (frame.check.width + len(frame.check.mark) if frame.check is not None else 0)


@dataclass(frozen=True, slots=True)
class Check:
    """The check of a frame; ``width`` in bytes as written."""

    config: CheckConfig
    width: int
    after_stop: bool
    mark: bytes

    def make(self, frame: Frame, body: bytes) -> bytes:
        """The check over a body, as it is written."""
        size, calculate = checker(self.config.kind)
        covered = body
        if self.config.covers == "payload" and frame.length is not None:
            covered = body[frame.length.end :]
        elif self.config.covers == "frame":
            covered = frame.start + body
        value = calculate(covered + frame.stop if self.after_stop else covered).to_bytes(size, self.config.order)
        if self.config.written == "dec":
            return str(int.from_bytes(value, self.config.order)).zfill(self.width).encode()
        return value.hex().upper().encode() if self.config.written == "hex" else value

    def verified(self, frame: Frame, inner: bytes, behind: bytes) -> bytes:
        """The body that the check proves. Raises BadFrame."""
        body, given = (inner, behind) if self.after_stop else (inner[: -self.width], inner[-self.width :])
        if not body.endswith(self.mark) or len(given) < self.width:
            raise BadFrame(Why("has no check"))
        body = body[: len(body) - len(self.mark)]
        wanted = self.make(frame, body)
        if (given.upper() if self.config.written == "hex" else given) != wanted:
            said, right = (show_bytes(one) if self.config.written == "bytes" else one.decode("ascii", "replace") for one in (given, wanted))
            raise BadFrame(Why("{kind} is {said} and should be {right}", kind=self.config.kind, said=said, right=right))
        return body


@dataclass(frozen=True, slots=True)
class Escape:
    """Byte stuffing: ``to`` maps bytes to what is written, ``pair`` finds what is to be undone, ``back`` undoes it."""

    byte: int
    to: dict[int, bytes]
    back: dict[int, int]
    literal: bool

    def encode(self, data: bytes) -> bytes:
        """Escape what means something."""
        return b"".join(self.to.get(byte) or bytes((byte,)) for byte in data)

    def decode(self, data: bytes) -> bytes:
        """Undo the escapes. Raises BadFrame."""
        mark = bytes((self.byte,))
        if mark not in data:
            return data
        return re.sub(re.escape(mark) + b"(.?)", self._undo, data, flags=re.DOTALL)

    def _undo(self, found: re.Match[bytes]) -> bytes:
        code = found[1]
        if not code or not (self.literal or code[0] in self.back):
            raise BadFrame(Why("holds {found}, which is no escape", found=show_bytes(found[0])))
        return code if self.literal else bytes((self.back[code[0]],))


def make_frame(config: FrameConfig, delimiter: bytes, size: int | None) -> Frame:
    """Understand a configuration; raises ValueError with what does not fit together."""
    if config.length is not None and size is not None:
        raise ValueError("frame.length and fixed_length both say how long a frame is; keep one of them")
    counted = config.length is not None or size is not None
    if counted and config.escape is not None:
        raise ValueError("frame.escape is for frames that end with stop; a frame whose length is known needs none")
    start, stop = config.start or b"", config.stop or (b"" if counted else delimiter)
    check = _check(config.check, stop) if config.check is not None else None
    length = LengthField(config.length, np.dtype(config.length.type)) if config.length is not None else None
    frame = Frame(start, stop, size, length, check, _escape(config.escape, start, stop) if config.escape is not None else None)
    if size is not None and size <= len(start) + _tail(frame):
        raise ValueError(f"fixed_length = {size} leaves no room for data between start, check and stop")
    return frame


def _check(config: CheckConfig, stop: bytes) -> Check:
    if config.after_stop and not stop:
        raise ValueError("frame.check.after_stop wants stop bytes before it; add frame.stop")
    if config.after_stop and config.mark is not None:
        raise ValueError("frame.check.mark stands before a check inside the frame; leave out after_stop or mark")
    size = checker(config.kind)[0]
    width = {"bytes": size, "hex": 2 * size, "dec": len(str(256**size - 1))}[config.written]
    return Check(config, width, config.after_stop, config.mark or b"")


def _escape(config: EscapeConfig, start: bytes, stop: bytes) -> Escape:
    byte = config.byte[0]
    if config.codes:
        back = {parse_control_bytes(code)[0]: parse_control_bytes(means)[0] for code, means in config.codes.items()}
    elif config.xor:
        back = {code: code ^ config.xor[0] for code in range(256)}
    else:
        back = {}
    if config.codes:
        to = {means: bytes((byte, code)) for code, means in back.items()}
    else:
        # A stop such as DLE ETX is protected by its DLE; one such as 7E has to be written differently.
        special = {byte, *(one[0] for one in (start, stop) if one)}
        to = {one: bytes((byte, one ^ config.xor[0] if config.xor else one)) for one in special}
    return Escape(byte, to, back, literal=not (config.codes or config.xor))
