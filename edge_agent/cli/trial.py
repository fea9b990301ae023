"""What ``edge-agent test`` does: preview an instrument, run its adapter for some seconds, show what arrived."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_agent.adapter import Adapter
from edge_agent.cli import output
from edge_agent.cli.watch import Seen, Watch, item_word
from edge_agent.config.adapters import adapter_class
from edge_agent.config.loading import load
from edge_agent.config.problems import nearest
from edge_agent.errors import UsageError
from edge_agent.model import Stream
from edge_agent.words import t

REFRESH_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Trial:
    """An adapter that is about to be tried. ``kind`` is its name in configurations."""

    instrument: str
    kind: str
    adapter: Adapter


def from_configuration(path: Path, instrument: str) -> Trial:
    """The adapter of an instrument of a configuration.

    Raises:
        InvalidConfig: the configuration has mistakes.
        UsageError: it has no such instrument.
    """
    config = load(path)
    if instrument not in config.instruments:
        close = nearest(instrument, config.instruments)
        raise UsageError(
            t('{file} has no instrument "{name}".', file=path, name=instrument),
            why=t("it has {names}", names=", ".join(config.instruments) or "-"),
            try_=f"edge-agent test {close} --config {path}" if close else "",
        )
    table = config.instruments[instrument]
    return Trial(instrument, table.adapter, adapter_class(table.adapter)(instrument, table.settings))


async def show(trial: Trial, seconds: float, *, as_json: bool) -> None:
    """Preview, run for ``seconds``, print.

    Raises:
        InstrumentUnreachable: the instrument does not answer.
    """
    if not as_json:
        output.note(t("Asking {instrument} ({kind}) what it has ...", instrument=trial.instrument, kind=trial.kind))
    streams = await trial.adapter.preview()
    if not as_json:
        output.say(_announcement(trial, streams))
    watch = Watch()
    await _run(trial.adapter, watch, seconds, live=not as_json and sys.stdout.isatty())
    if as_json:
        output.emit(_object(trial, streams, watch, seconds))
        return
    if not sys.stdout.isatty():
        output.say(_table(watch))
    for source, why in watch.sources.items():
        if why:
            output.say(t("{source} does not answer: {why}", source=source, why=why))
    output.say(_summary(watch, seconds))


async def _run(adapter: Adapter, watch: Watch, seconds: float, *, live: bool) -> None:
    running = asyncio.ensure_future(adapter.run(watch))
    try:
        with _screen(watch) if live else contextlib.nullcontext():
            await asyncio.wait([running], timeout=seconds)
    finally:
        if not running.cancel():
            running.result()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def _screen(watch: Watch) -> contextlib.AbstractContextManager[Any]:
    from rich.live import Live
    from rich.text import Text

    return Live(get_renderable=lambda: Text(_table(watch)), refresh_per_second=1 / REFRESH_SECONDS)


def _announcement(trial: Trial, streams: list[Stream]) -> str:
    names = ", ".join(stream.name for stream in streams[:5]) + (", …" if len(streams) > 5 else "")
    if len(streams) == 1:
        return t("{instrument} would capture one stream: {names}.", instrument=trial.instrument, names=names)
    if streams:
        return t("{instrument} would capture {count} streams: {names}.", instrument=trial.instrument, count=len(streams), names=names)
    return t("{instrument} has nothing to capture at the moment.", instrument=trial.instrument)


def _table(watch: Watch) -> str:
    head = (t("stream"), t("arrived"), t("per second"), t("per hour"), t("last value"), t("unit"), t("time"), t("read by"), t("missing"))
    rows = [
        (
            seen.stream.name,
            f"{seen.count} {t(item_word(seen.stream.kind))}",
            f"{seen.rate:.3g}" if seen.count > 1 else "",
            _bytes(seen.size / seen.seconds * 3600) if seen.count > 1 else "",
            _short(seen.last),
            seen.stream.unit,
            _clock(seen.t_ns),
            t(seen.t_origin) if seen.t_origin else "",
            _missing(seen),
        )
        for seen in watch.seen()
    ]
    return output.columns(head, rows, right=(1, 2, 3)) if rows else t("Nothing has arrived yet.")


def _summary(watch: Watch, seconds: float) -> str:
    count = sum(seen.count for seen in watch.seen())
    if not count:
        return t("Nothing arrived in {seconds} s; nothing was stored.", seconds=f"{seconds:g}")
    return t("{count} items arrived in {seconds} s; nothing was stored.", count=count, seconds=f"{seconds:g}")


def _object(trial: Trial, streams: list[Stream], watch: Watch, seconds: float) -> dict[str, Any]:
    seen = {one.stream.name: one for one in watch.seen()}
    announced = {stream.name: stream for stream in streams} | {name: one.stream for name, one in seen.items()}
    return {
        "ok": True,
        "instrument": trial.instrument,
        "adapter": trial.kind,
        "seconds": seconds,
        "streams": [_stream(stream, seen.get(name)) for name, stream in sorted(announced.items())],
        "sources": watch.sources,
        "facts": watch.facts,
    }


def _stream(stream: Stream, seen: Seen | None) -> dict[str, Any]:
    described = {"name": stream.name, "kind": stream.kind.value, "dtype": stream.dtype, "shape": list(stream.shape), "unit": stream.unit}
    if seen is None:
        return described | {"count": 0, "rate": 0.0, "bytes": 0, "last": None, "t_ns": None, "t_origin": None, "gaps": 0, "lost": 0}
    return described | {
        "count": seen.count,
        "rate": seen.rate,
        "bytes": seen.size,
        "last": seen.last,
        "t_ns": seen.t_ns,
        "t_origin": seen.t_origin or None,
        "gaps": seen.gaps,
        "lost": seen.lost,
    }


def _missing(seen: Seen) -> str:
    if not seen.gaps:
        return ""
    return t("{lost} in {gaps} gaps", lost=seen.lost or "?", gaps=seen.gaps)


def _clock(t_ns: int | None) -> str:
    if t_ns is None:
        return ""
    return datetime.fromtimestamp(t_ns // 10**6 / 1000, UTC).strftime("%H:%M:%S.%f")[:-3] + "Z"


def _short(text: str, width: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _bytes(amount: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"
