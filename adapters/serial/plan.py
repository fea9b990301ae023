"""What is said to an instrument and how its answers are read, per profile. Pure.

Invariant: a `Plan` is complete: all texts are encoded, the parsers are built, and exactly one of these holds: the instrument
is asked (``queries``), it was told to send (``start``), or it sends by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from adapters.serial import sics
from adapters.serial.binary import BinaryParser
from adapters.serial.blocks import LONGEST_BLOCK, BlockParser, BlockRecordParser, BlockSplitter, block_parser
from adapters.serial.control_bytes import parse_control_bytes
from adapters.serial.frame import Frame, make_frame
from adapters.serial.frame_config import FrameConfig, LengthConfig
from adapters.serial.frame_splitter import FrameSplitter
from adapters.serial.outcome import Answer, Parser
from adapters.serial.raw import GARBAGE, RAW
from adapters.serial.splitter import DelimiterSplitter, LengthSplitter, QuietSplitter, Splitter
from adapters.serial.stamps import Stamps
from adapters.serial.stars import Login, StarsParser
from adapters.serial.template import ScpiParser, TemplateParser, from_pattern, from_template

if TYPE_CHECKING:
    from adapters.serial.config import SerialConfig

SILENT_QUESTIONS: Final = 3
SILENT_STREAM_SECONDS: Final = 10.0
IDENTIFY: Final = "*IDN?"
OPENINGS: Final[Mapping[str, Sequence[str]]] = {"mettler-sics": sics.WHO_ARE_YOU, "scpi": (IDENTIFY,)}
"""What is sent at each connect when the configuration does not say, by language."""
WHOLE_LINE: Final = "{line:text}"
"""How a line is read when nobody said how."""
HEX: Final = "hex:"
LONGEST_LINE: Final = 4096


class _Reads(Protocol):
    """The keys that say how a message is read."""

    @property
    def parse(self) -> str | list[str] | None: ...
    @property
    def pattern(self) -> str | None: ...
    @property
    def struct(self) -> str | None: ...
    @property
    def fields(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked every ``every`` seconds. ``form``: which parser reads the answer; None: it looks like any other line."""

    text: str
    command: bytes
    every: float
    timeout: float
    form: int | None


@dataclass(frozen=True, slots=True)
class Greeting:
    """What is sent at each connect."""

    text: str
    command: bytes
    answered: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Commands are bytes with their end. ``silence`` in seconds; None: silence is nothing to speak of.

    ``unasked`` are the parsers of lines that answer no query. ``free`` says that lines come unasked and do not show by themselves where
    they begin.
    """

    profile: str
    parsers: tuple[Parser, ...]
    unasked: tuple[int, ...]
    delimiter: bytes
    on_connect: tuple[Greeting, ...]
    queries: tuple[Query, ...]
    start: bytes | None
    silence: float | None
    free: bool
    answer: Callable[[str, bytes], Answer | None]
    """``answer(command, line)``: the line as the answer to a command of ``on_connect``, or None when it is none."""
    login: Login | None
    frame: Frame | None
    raw: str
    make_splitter: Callable[[bool], Splitter]
    """``make_splitter(mid_line)``: of a new connection."""

    @property
    def talks(self) -> bool:
        """Whether the instrument is expected to answer."""
        return bool(self.queries) or self.start is not None or self.login is not None

    @property
    def every(self) -> float:
        """The longest period, in seconds."""
        return max((query.every for query in self.queries), default=0.0)


def make_plan(config: SerialConfig) -> Plan:
    """Build the plan; raises ValueError with what does not fit together and what would."""
    balance, stars = config.language == "mettler-sics", config.language == "stars"
    if config.command is not None and config.every is None:
        raise ValueError('command wants to know how often: add every = "1 s"')
    end = _delimiter(config)
    frame = make_frame(config.frame, end, config.fixed_length) if config.frame is not None else None
    tops = [_sics(config)] if balance else _lines(config)
    parsers, queries = list(tops), []
    say = _Say(config, end, frame)
    if balance:
        if config.every is not None:
            queries.append(say.query(config.command or sics.ONCE, config.every, config.timeout, None))
    elif config.command is not None and config.every is not None:
        queries.append(say.query(config.command, config.every, config.timeout, None))
    for poll in config.poll:
        own = _parsers(config, poll)
        if len(own) > 1:
            raise ValueError(f"poll {poll.command!r}: an answer has one form; give parse as one text")
        queries.append(say.query(poll.command, poll.every, poll.timeout or config.timeout, len(parsers) if own else None))
        parsers += own
    _check_channels(config, parsers)
    streaming = balance and not queries
    opening = OPENINGS.get(config.language, ()) if config.on_connect is None else config.on_connect
    return Plan(
        profile=config.profile,
        parsers=tuple(parsers),
        unasked=tuple(range(len(tops))),
        delimiter=end,
        on_connect=tuple(Greeting(text, say.encode("on_connect", text), balance or text.strip().endswith("?")) for text in opening),
        queries=tuple(queries),
        start=say.encode("command", sics.REPEATED) if streaming else None,
        silence=SILENT_STREAM_SECONDS if config.silence is None and streaming else config.silence,
        free=not balance and not queries,
        answer=_answer_sics if balance else _answer_query,
        login=_login(config) if stars else None,
        frame=frame,
        raw=RAW if config.raw else GARBAGE,
        make_splitter=_splitter(config, end, frame, parsers, free=not balance and not queries),
    )


def _delimiter(config: SerialConfig) -> bytes:
    if config.gap is not None and (config.delimiter is not None or config.fixed_length is not None or config.frame is not None):
        raise ValueError("gap is for instruments without any end of a message; leave out delimiter, fixed_length and frame")
    default = "\n" if config.language in ("scpi", "stars") else "\r\n"
    end = encode(config, "delimiter", config.delimiter if config.delimiter is not None else default)
    if not end:
        raise ValueError(
            'delimiter must not be empty; for messages without an end set fixed_length, frame or gap, else for example delimiter = "\\n"'
        )
    return end


def _splitter(
    config: SerialConfig, end: bytes, frame: Frame | None, parsers: Sequence[Parser], *, free: bool
) -> Callable[[bool], Splitter]:
    blocks = any(isinstance(parser, BlockParser | BlockRecordParser) for parser in parsers)
    longest = config.max_length or (LONGEST_BLOCK if blocks and frame is not None else LONGEST_LINE)

    def make(mid_line: bool) -> Splitter:
        if frame is not None:
            return FrameSplitter(frame, longest)
        if config.gap is not None:
            return QuietSplitter(config.gap, longest)
        if config.fixed_length is not None:
            return LengthSplitter(config.fixed_length)
        return BlockSplitter(end, longest) if blocks else DelimiterSplitter(end, longest, mid_line=mid_line and free)

    return make


@dataclass(frozen=True, slots=True)
class _Say:
    """Makes commands out of their texts."""

    config: SerialConfig
    end: bytes
    frame: Frame | None

    def query(self, text: str, every: float, timeout: float, form: int | None) -> Query:
        return Query(text, self.encode("command", text), every, timeout, form)

    def encode(self, key: str, text: str) -> bytes:
        command = parse_control_bytes(text.removeprefix(HEX)) if text.startswith(HEX) else encode(self.config, key, text)
        if self.config.command_end is not None:
            return command + encode(self.config, "command_end", self.config.command_end)
        if self.frame is not None:
            return self.frame.encode(command)
        return command if self.config.gap is not None or self.config.fixed_length is not None else command + self.end


def _sics(config: SerialConfig) -> Parser:
    if config.parse is not None or config.pattern is not None or config.struct is not None:
        raise ValueError('profile = "mettler-sics" knows how a line is read; leave out parse and pattern, or use profile = "lines"')
    if config.stream and config.every is not None:
        raise ValueError("stream lets the balance send by itself and every asks it; keep one of them")
    dtype = config.dtypes.get(sics.MASS, "<f8")
    if dtype not in ("<f8", "<f4"):
        raise ValueError(f'channels.mass.dtype = {dtype!r}: an overload is recorded as NaN; use "<f8" or "<f4"')
    return sics.SicsParser(dtype, config.units.get(sics.MASS))


def _lines(config: SerialConfig) -> list[Parser]:
    if config.stream:
        raise ValueError('stream is for profile = "mettler-sics"; others are asked by command and every, or send by themselves')
    if config.every is not None and config.command is None:
        raise ValueError('every wants something to ask: add command = "READ?"')
    found = _parsers(config, config)
    asked = bool(config.poll) and all(_parsers(config, poll) for poll in config.poll)
    if found or (asked and config.command is None):
        return found
    return _parsers(config, config, WHOLE_LINE)


def _parsers(config: SerialConfig, reads: _Reads, default: str | None = None) -> list[Parser]:
    """The parsers that some keys ask for; none when they say nothing and there is no default."""
    if sum(one is not None for one in (reads.parse, reads.pattern, reads.struct)) > 1:
        raise ValueError("parse and pattern both say how a line is read; keep one of them (the same goes for struct)")
    if reads.fields and reads.struct is None:
        raise ValueError('fields are the names for struct = "..."; give them together')
    if reads.struct is not None:
        record = BinaryParser(reads.struct, reads.fields, config.units)
        if config.block is None:
            return [record]
        check = make_frame(FrameConfig(length=LengthConfig(), check=config.block.check), b"", None) if config.block.check else None
        return [BlockRecordParser(record, replace(check, length=None) if check is not None else None)]
    if reads.pattern is not None:
        return [_text(config, reads.pattern, pattern=True)]
    templates = [reads.parse] if isinstance(reads.parse, str) else reads.parse or ([default] if default is not None else [])
    return [_template(config, one) for one in templates]


def _template(config: SerialConfig, form: str) -> Parser:
    block = block_parser(form, config.dtypes, config.units)
    return block if block is not None else _text(config, form)


def _text(config: SerialConfig, form: str, *, pattern: bool = False) -> Parser:
    dtypes = {name: dtype.replace(">", "<") for name, dtype in config.dtypes.items()}
    understood = from_pattern(form, dtypes) if pattern else from_template(form)
    kind = {"scpi": ScpiParser, "stars": StarsParser}.get(config.language, TemplateParser)
    return kind(understood, config.encoding, dtypes, config.units, Stamps(config.time_format, config.timezone))


def _check_channels(config: SerialConfig, parsers: Sequence[Parser]) -> None:
    there: dict[str, object] = {}
    for channel in (channel for parser in parsers for channel in parser.channels):
        if there.setdefault(channel.name, channel) != channel:
            raise ValueError(f"two forms of a line have a {channel.name!r} of different types; give them one type, or two names")
    if {RAW, GARBAGE} & set(there):
        raise ValueError("the names raw and garbage are kept for the bytes of the line; choose another name")
    unknown = sorted(set(config.channels) - set(there))
    if unknown:
        raise ValueError(f"channels names {unknown[0]!r}, which no line has; there are {', '.join(there)}")


def _login(config: SerialConfig) -> Login:
    if not config.node or not config.keys:
        raise ValueError('profile = "stars" wants the name of this node and its keywords: add node = "edge1" and keys = "edge1.key"')
    return Login(config.node, config.keys)


def _answer_sics(command: str, line: bytes) -> Answer | None:
    return sics.answers_information(line.decode("ascii", "replace").strip())


def _answer_query(command: str, line: bytes) -> Answer | None:
    asked, said = command.strip(), line.decode("ascii", "replace").strip()
    if asked.upper() != IDENTIFY:
        return Answer({re.sub(r"[^A-Za-z0-9_]+", "_", asked).strip("_") or "answer": said})
    # IEEE 488.2, 10.14: maker, model, serial number, firmware.
    fields = [field.strip() for field in said.split(",")]
    return Answer(dict(zip(("maker", "model", "serial_number", "firmware"), fields, strict=False)))


def encode(config: SerialConfig, key: str, text: str) -> bytes:
    """A text of the configuration as it goes over the line; raises ValueError."""
    try:
        return text.encode(config.encoding)
    except UnicodeEncodeError as e:
        raise ValueError(f"{key} = {text!r} cannot be written in {config.encoding}; set encoding") from e
