"""The serial adapter: one instrument on one port, and what ``edge-agent test`` needs.

Invariants: the source gives no time and no counter, so ``t_source`` is `NO_TIME`, ``seq`` is None, and ``t_arrival`` is when
the first byte of the line was read; the port is given back when `SerialAdapter.run` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, ClassVar

from pydantic import ValidationError

from adapters.serial.config import SerialConfig
from adapters.serial.conversation import Conversation, OnLine
from adapters.serial.outcome import Outcome
from adapters.serial.ports import open_port
from adapters.serial.reader import Reader
from adapters.serial.rows import Rows
from adapters.serial.splitter import DelimiterSplitter, LengthSplitter, Splitter
from adapters.serial.watcher import Watcher
from edge_agent.adapter import AdapterConfig, Sink
from edge_agent.errors import ConfigError, InstrumentUnreachable
from edge_agent.model import Kind, Stream

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
                f"{self._config.port} gives no value.",
                why=watcher.why or f"the port is open, but nothing was sent within {patience:g} s",
                try_=f"look at what it sends: edge-agent test serial {self._config.port}",
            )
        return watcher.streams

    async def converse(self, sink: Sink, on_line: OnLine | None = None) -> None:
        """As `run`; ``on_line`` sees every line and what became of it."""
        config, plan = self._config, self._plan
        stream = Stream(
            self.instrument,
            plan.parser.channels[0].name,
            Kind.ROWS,
            source_uri=config.port if "://" in config.port else f"serial:{config.port}",
            source_type=f"serial {plan.profile}",
            attributes=_attributes(config),
        )
        reader = Reader(self.instrument, lambda: open_port(config), self._splitter)
        try:
            rows = Rows(sink, stream, plan.parser.channels)
            await Conversation(config.port, config.timeout, plan, reader, rows, sink, on_line).run()
        finally:
            await reader.stop()

    def _splitter(self, mid_line: bool) -> Splitter:
        if self._config.fixed_length is not None:
            return LengthSplitter(self._config.fixed_length)
        return DelimiterSplitter(self._plan.delimiter, self._config.max_length, mid_line=mid_line and self._plan.free)


async def try_parse(port: str, parse: str | None = None, **settings: object) -> AsyncIterator[tuple[bytes, Outcome]]:
    """Read a port and show how each line would be read, for ``edge-agent test serial PORT --parse``.

    Args:
        port: as in the configuration.
        parse: the template; None takes the whole line as text, or what ``profile`` says.
        settings: any other keys of `SerialConfig`.

    Yields:
        The bytes of a line (without its end), and `Reading`, `Answer` or `Unparsed`.

    Raises:
        ConfigError: the settings do not fit together.
        InstrumentUnreachable: the port cannot be opened, or nothing came; a port that is lost later is waited for.
    """
    try:
        config = SerialConfig.model_validate({"port": port, "parse": parse, **settings})
    except ValidationError as e:
        why = "; ".join(error["msg"].removeprefix("Value error, ") for error in e.errors())
        raise ConfigError(f"{port} cannot be read like this.", why=why, try_="correct the options") from e
    lines: asyncio.Queue[tuple[bytes, Outcome] | str | None] = asyncio.Queue()
    work = SerialAdapter("test", config).converse(Watcher(lines.put_nowait), lambda raw, outcome: lines.put_nowait((raw, outcome)))
    seen = False
    async with _running(work) as talk:
        talk.add_done_callback(lambda task: lines.put_nowait(None))
        while (line := await lines.get()) is not None:
            if not isinstance(line, str):
                seen = True
                yield line
            elif not seen:
                raise InstrumentUnreachable(f"{port} gives no lines.", why=line, try_="look at the cable, the power and the port's name")


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


def _attributes(config: SerialConfig) -> dict[str, str | int | float]:
    said: dict[str, str | int | float] = {"status": "ASCII of the status word, first character most significant"}
    if not config.port.startswith("socket://"):
        said["line"] = f"{config.baudrate} {config.bytesize}{config.parity[0].upper()}{config.stopbits:g}"
    return said
