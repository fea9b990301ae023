"""``edge-agent test serial PORT``: a port without a configuration, line by line, and how each line would be read.

The serial adapter's package provides ``try_parse(port, parse, **settings)``, an asynchronous iterator of lines with ``raw``,
``outcome`` and ``names``; an outcome is a ``Reading`` (values, units), an ``Answer`` (facts) or ``Unparsed`` (why). Its
``suggest(lines)`` proposes a template for ``--parse``.
"""

from __future__ import annotations

import asyncio
import contextlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.cli import output
from edge_agent.config.adapters import adapter_module
from edge_agent.errors import UsageError
from edge_agent.words import t

RAW_WIDTH = 40
MOST_HEX = 32
MOST_UNREAD = 200
WHOLE = ("line",)
"""What a line is when nobody said how it is read."""
PRINTABLE = frozenset((*range(0x20, 0x7F), 0x09, 0x0A, 0x0D))


@dataclass(frozen=True, slots=True)
class Read:
    """One line and what became of it: values by name, or facts, or ``why`` it is no item."""

    raw: str
    hex: str
    values: Mapping[str, str | int | float | list[Any]]
    units: Mapping[str, str]
    facts: Mapping[str, str | int | float]
    why: str | None

    @property
    def text(self) -> str:
        """What became of it, for people."""
        if self.why is not None:
            return t("not read: {why}", why=self.why)
        if self.values:
            return ", ".join(f"{name} = {_short(value)} {self.units.get(name, '')}".rstrip() for name, value in self.values.items())
        return ", ".join(f"{name}: {value}" for name, value in self.facts.items()) or t("an answer without a value")


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    head = ", ".join(f"{one:.6g}" for one in value[:4])
    return f"[{head}, …] ({len(value)})" if len(value) > 4 else f"[{head}]"


def parsed_settings(options: Sequence[str]) -> dict[str, Any]:
    """``["baudrate=19200", "every=1 s"]`` -> keys of the adapter's table; a value that is no TOML is text.

    Raises:
        UsageError: an option without ``=``.
    """
    settings: dict[str, Any] = {}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign or not key.strip():
            raise UsageError(t('"{option}" is not KEY=VALUE.', option=option), try_='--set "every=1 s"')
        try:
            settings[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = value.strip()
    return settings


async def show(adapter: str, port: str, parse: str | None, settings: Mapping[str, Any], seconds: float, *, as_json: bool) -> None:
    """Print each line as it comes, for ``seconds``.

    Raises:
        UsageError: the adapter needs a configuration.
        ConfigError: the settings do not fit together.
        InstrumentUnreachable: the port cannot be opened, or gives nothing.
    """
    package = adapter_module(adapter)
    if not hasattr(package, "try_parse"):
        raise UsageError(
            t('An instrument of "{adapter}" is tried by its name in a configuration.', adapter=adapter),
            try_="edge-agent test NAME --config FILE",
        )
    if not as_json:
        output.say(t("Listening to {port} for {seconds} s; nothing is stored.", port=port, seconds=f"{seconds:g}"))
        output.say(_side_by_side(t("what came"), t("how it is read")))
    seen: list[Read] = []
    unread: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), contextlib.aclosing(package.try_parse(port, parse, **settings)) as lines:
            async for line in lines:
                seen.append(_read(line.raw, line.outcome, line.names))
                if (seen[-1].why is not None or line.names == WHOLE) and len(unread) < MOST_UNREAD:
                    unread.append(line.raw)
                if not as_json:
                    output.say(_side_by_side(seen[-1].raw, seen[-1].text))
    good = sum(read.why is None for read in seen)
    proposed = package.suggest(unread) if len(unread) * 2 > min(len(seen), MOST_UNREAD) else None
    if as_json:
        counts = {"ok": True, "port": port, "seconds": seconds, "count": len(seen), "read": good, "suggested": proposed}
        output.emit(counts | {"lines": [_object(read) for read in seen]})
    elif seen:
        output.say(t("{count} lines arrived, {good} of them can be read; nothing was stored.", count=len(seen), good=good))
        if proposed is not None:
            output.say(t("This would read it: --parse '{template}'", template=proposed))
    else:
        output.say(t("Nothing arrived in {seconds} s; nothing was stored.", seconds=f"{seconds:g}"))


def _side_by_side(raw: str, text: str) -> str:
    from rich.cells import cell_len

    return f"  {raw}{' ' * max(RAW_WIDTH - cell_len(raw), 0)}  {text}"


def _shown(raw: bytes) -> str:
    """Text as it is, anything else in hex digits."""
    if all(byte in PRINTABLE for byte in raw):
        return raw.decode("ascii").rstrip("\r\n")
    return raw[:MOST_HEX].hex(" ").upper() + (" …" if len(raw) > MOST_HEX else "")


def _plain(value: Any) -> str | int | float | list[Any]:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if hasattr(value, "tolist") else value  # type: ignore[no-any-return]


def _read(raw: bytes, outcome: Any, names: Sequence[str]) -> Read:
    line = _shown(raw)
    if hasattr(outcome, "why"):
        return Read(line, raw.hex(), {}, {}, {}, getattr(outcome.why, "here", outcome.why))
    if not hasattr(outcome, "values"):
        return Read(line, raw.hex(), {}, {}, dict(outcome.facts), None)
    values = {name: _plain(value) for name, value in zip(names, outcome.values, strict=True)}
    units = {name: unit for name, unit in zip(names, outcome.units, strict=True) if unit is not None}
    return Read(line, raw.hex(), values, units, {}, None)


def _object(read: Read) -> dict[str, Any]:
    return {
        "raw": read.raw,
        "hex": read.hex,
        "values": dict(read.values),
        "units": dict(read.units),
        "facts": dict(read.facts),
        "why": read.why,
    }
