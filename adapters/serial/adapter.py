"""The serial adapter: one instrument on one port, and what ``edge-agent test`` needs.

Invariants: the source gives no time and no counter, so ``t_source`` is `NO_TIME`, ``seq`` is None, and ``t_arrival`` is when
the first byte of the line was read; the port is given back when `SerialAdapter.run` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ValidationError

from adapters.serial.config import SerialConfig
from adapters.serial.conversation import Conversation, OnLine
from adapters.serial.outcome import Outcome, Reading
from adapters.serial.ports import open_port
from adapters.serial.raw import RAW, RawRows
from adapters.serial.reader import Reader
from adapters.serial.rows import Rows
from adapters.serial.watcher import Watcher
from adapters.serial.why import Why
from edge_agent.adapter import AdapterConfig, Sink
from edge_agent.errors import ConfigError, InstrumentUnreachable
from edge_agent.model import Kind, Stream
from edge_agent.words import t

PREVIEW_LINES = 3
PREVIEW_SECONDS = 5.0


class SerialAdapter:
    """One instrument on one serial port."""

    Config: ClassVar[type[AdapterConfig]] = SerialConfig

    def __init__(self, instrument: str, config: SerialConfig) -> None:
        self.instrument = instrument
        self._config = config
        self._plan = config.plan()

    async def run(self, sink: Sink) -> None:
        """Read, ask and reconnect until cancelled."""
        await self.converse(sink)

    async def preview(self) -> list[Stream]:
        """The streams that a few lines show. Raises InstrumentUnreachable when none comes in time."""
        watcher = Watcher()
        patience = PREVIEW_SECONDS + self._config.timeout + PREVIEW_LINES * self._plan.every
        async with _running(self.converse(watcher)) as talk, _running(watcher.enough(PREVIEW_LINES)) as enough:
            await asyncio.wait([talk, enough], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not watcher.streams:
            raise InstrumentUnreachable(
                t("{port} gives no value.", port=self._config.port),
                why=_here(watcher.why) or t("the port is open, but nothing was sent within {seconds} s", seconds=f"{patience:g}"),
                try_=t("look at what it sends: {command}", command=f"edge-agent test serial {self._config.port}"),
            )
        return watcher.streams

    async def converse(self, sink: Sink, on_line: OnLine | None = None) -> None:
        """As `run`; ``on_line`` sees every line and what became of it."""
        config, plan = self._config, self._plan
        stream = Stream(
            self.instrument,
            plan.parsers[0].channels[0].name,
            Kind.ROWS,
            source_uri=config.port if "://" in config.port else f"serial:{config.port}",
            source_type=f"serial {plan.profile}",
            attributes=_attributes(config),
        )
        reader = Reader(self.instrument, lambda: open_port(config), plan.make_splitter, raw=plan.raw == RAW)
        try:
            rows = Rows(sink, stream, [parser.channels for parser in plan.parsers])
            raw = RawRows(sink, stream, plan.raw)
            await Conversation(config.port, config.timeout, plan, reader, rows, raw, sink, on_line).run()
        finally:
            await reader.stop()


@dataclass(frozen=True, slots=True)
class Tried:
    """One line and what became of it; ``names`` are those of the values of a `Reading`."""

    raw: bytes
    outcome: Outcome
    names: tuple[str, ...]


async def try_parse(port: str, parse: str | None = None, **settings: object) -> AsyncIterator[Tried]:
    """Read a port and show how each line would be read, for ``edge-agent test serial PORT --parse``.

    Args:
        port: as in the configuration.
        parse: the template; None takes the whole line as text, or what ``profile`` says.
        settings: any other keys of `SerialConfig`.

    Yields:
        The bytes of a line (without its end) or a frame, and `Reading`, `Answer` or `Unparsed`.

    Raises:
        ConfigError: the settings do not fit together.
        InstrumentUnreachable: the port cannot be opened, or nothing came; a port that is lost later is waited for.
    """
    try:
        config = SerialConfig.model_validate({"port": port, "parse": parse, **settings})
    except ValidationError as e:
        why = "; ".join(error["msg"].removeprefix("Value error, ") for error in e.errors())
        raise ConfigError(t("{port} cannot be read like this.", port=port), why=why, try_=t("correct the options")) from e
    lines: asyncio.Queue[Tried | str | None] = asyncio.Queue()
    parsers = config.plan().parsers

    def show(raw: bytes, outcome: Outcome) -> None:
        channels = parsers[outcome.form].channels if isinstance(outcome, Reading) else ()
        lines.put_nowait(Tried(raw, outcome, tuple(channel.name for channel in channels)))

    work = SerialAdapter("test", config).converse(Watcher(lines.put_nowait), show)
    seen = False
    async with _running(work) as talk:
        talk.add_done_callback(lambda task: lines.put_nowait(None))
        while (line := await lines.get()) is not None:
            if not isinstance(line, str):
                seen = True
                yield line
            elif not seen:
                raise InstrumentUnreachable(
                    t("{port} gives no lines.", port=port), why=_here(line), try_=t("look at the cable, the power and the port's name")
                )


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run ``work`` beside the body and end it after it; if it failed, that is raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _here(why: str) -> str:
    return why.here if isinstance(why, Why) else why


def _attributes(config: SerialConfig) -> dict[str, str | int | float]:
    said: dict[str, str | int | float] = {"status": "ASCII of the status word, first character most significant"}
    if config.timezone is not None:
        said["clock"] = config.timezone
    if not config.port.startswith("socket://"):
        said["line"] = f"{config.baudrate} {config.bytesize}{config.parity[0].upper()}{config.stopbits:g}"
    return said
