"""What is said to an instrument and how its answers are read, per profile. Pure.

Invariant: a `Plan` is complete: all texts are encoded, the parser is built, and exactly one of these holds: the instrument
is asked (``ask``), it was told to send (``start``), or it sends by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from adapters.serial import sics
from adapters.serial.outcome import Answer, Parser
from adapters.serial.template import ScpiParser, TemplateParser, from_pattern, from_template

if TYPE_CHECKING:
    from adapters.serial.config import SerialConfig

Profile = Literal["mettler-sics", "scpi", "lines"]

SILENT_QUESTIONS: Final = 3
SILENT_STREAM_SECONDS: Final = 10.0
IDENTIFY: Final = "*IDN?"
OPENINGS: Final[Mapping[Profile, Sequence[str]]] = {"mettler-sics": sics.WHO_ARE_YOU, "scpi": (IDENTIFY,), "lines": ()}
"""What is sent at each connect when the configuration does not say."""
WHOLE_LINE: Final = "{line:text}"
"""How a line is read when nobody said how."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands are bytes with their end. ``silence`` in seconds; None: silence is nothing to speak of.

    ``free`` says that lines come unasked and do not show by themselves where they begin.
    """

    profile: Profile
    parser: Parser
    delimiter: bytes
    on_connect: tuple[bytes, ...]
    ask: bytes | None
    every: float
    start: bytes | None
    silence: float | None
    free: bool
    answer: Callable[[bytes, bytes], Answer | None]
    """``answer(command, line)``: the line as the answer to a command of ``on_connect``, or None when it is none."""

    @property
    def talks(self) -> bool:
        """Whether the instrument is expected to answer."""
        return self.ask is not None or self.start is not None


def make_plan(config: SerialConfig) -> Plan:
    """Build the plan; raises ValueError with what does not fit together and what would."""
    if config.command is not None and config.every is None:
        raise ValueError('command wants to know how often: add every = "1 s"')
    default_end = "\n" if config.profile == "scpi" else "\r\n"
    end = _encode(config, "delimiter", config.delimiter if config.delimiter is not None else default_end)
    if not end:
        raise ValueError('delimiter must not be empty; for records without an end set fixed_length, else for example delimiter = "\\n"')
    balance = config.profile == "mettler-sics"
    parser = _sics(config) if balance else _lines(config)
    _check_channels(config, parser)
    streaming = balance and config.every is None
    command = config.command or (sics.ONCE if balance else None)
    opening = OPENINGS[config.profile] if config.on_connect is None else config.on_connect
    return Plan(
        profile=config.profile,
        parser=parser,
        delimiter=end,
        on_connect=tuple(_encode(config, "on_connect", text) + end for text in opening),
        ask=None if streaming or command is None else _encode(config, "command", command) + end,
        every=config.every or 0.0,
        start=_encode(config, "command", sics.REPEATED) + end if streaming else None,
        silence=SILENT_STREAM_SECONDS if config.silence is None and streaming else config.silence,
        free=not balance and command is None,
        answer=_answer_sics if balance else _answer_query,
    )


def expects_answer(plan: Plan, command: bytes) -> bool:
    """Whether an instrument answers this command: all do in MT-SICS, else those that end with ``?``."""
    return plan.profile == "mettler-sics" or command.strip().endswith(b"?")


def _sics(config: SerialConfig) -> Parser:
    if config.parse is not None or config.pattern is not None:
        raise ValueError('profile = "mettler-sics" knows how a line is read; leave out parse and pattern, or use profile = "lines"')
    if config.stream and config.every is not None:
        raise ValueError("stream lets the balance send by itself and every asks it; keep one of them")
    dtype = config.dtypes.get(sics.MASS, "<f8")
    if dtype not in ("<f8", "<f4"):
        raise ValueError(f'channels.mass.dtype = {dtype!r}: an overload is recorded as NaN; use "<f8" or "<f4"')
    return sics.SicsParser(dtype, config.units.get(sics.MASS))


def _lines(config: SerialConfig) -> Parser:
    if config.stream:
        raise ValueError('stream is for profile = "mettler-sics"; others are asked by command and every, or send by themselves')
    if config.every is not None and config.command is None:
        raise ValueError('every wants something to ask: add command = "READ?"')
    if config.parse is not None and config.pattern is not None:
        raise ValueError("parse and pattern both say how a line is read; keep one of them")
    if config.pattern is not None:
        form = from_pattern(config.pattern, config.dtypes)
    else:
        form = from_template(config.parse if config.parse is not None else WHOLE_LINE)
    return (ScpiParser if config.profile == "scpi" else TemplateParser)(form, config.encoding, config.dtypes, config.units)


def _check_channels(config: SerialConfig, parser: Parser) -> None:
    there = [channel.name for channel in parser.channels]
    unknown = sorted(set(config.channels) - set(there))
    if unknown:
        raise ValueError(f"channels names {unknown[0]!r}, which no line has; there are {', '.join(there)}")


def _answer_sics(command: bytes, line: bytes) -> Answer | None:
    return sics.answers_information(line.decode("ascii", "replace").strip())


def _answer_query(command: bytes, line: bytes) -> Answer | None:
    asked, said = command.decode("ascii", "replace").strip(), line.decode("ascii", "replace").strip()
    if asked.upper() != IDENTIFY:
        return Answer({re.sub(r"[^A-Za-z0-9_]+", "_", asked).strip("_") or "answer": said})
    # IEEE 488.2, 10.14: maker, model, serial number, firmware.
    fields = [field.strip() for field in said.split(",")]
    return Answer(dict(zip(("maker", "model", "serial_number", "firmware"), fields, strict=False)))


def _encode(config: SerialConfig, key: str, text: str) -> bytes:
    try:
        return text.encode(config.encoding)
    except UnicodeEncodeError as e:
        raise ValueError(f"{key} = {text!r} cannot be written in {config.encoding}; set encoding") from e
