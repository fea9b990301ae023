"""``edge-agent test serial PORT``: a port without a configuration, line by line, and how each line would be read.

The serial adapter's package provides ``try_parse(port, parse, **settings)``, an asynchronous iterator of ``(line, outcome)``; an
outcome is a ``Reading`` (values, units), an ``Answer`` (facts) or ``Unparsed`` (why).
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


@dataclass(frozen=True, slots=True)
class Read:
    """One line and what became of it: values by name, or facts, or ``why`` it is no item."""

    raw: str
    values: Mapping[str, str | int | float]
    units: Mapping[str, str]
    facts: Mapping[str, str | int | float]
    why: str | None

    @property
    def text(self) -> str:
        """What became of it, for people."""
        if self.why is not None:
            return t("not read: {why}", why=self.why)
        if self.values:
            return ", ".join(f"{name} = {value} {self.units.get(name, '')}".rstrip() for name, value in self.values.items())
        return ", ".join(f"{name}: {value}" for name, value in self.facts.items()) or t("an answer without a value")


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
    names: list[str] = []
    seen: list[Read] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), contextlib.aclosing(package.try_parse(port, parse, **settings)) as lines:
            async for raw, outcome in lines:
                names = names or _names(package, {"port": port, "parse": parse, **settings})
                seen.append(_read(raw, outcome, names))
                if not as_json:
                    output.say(f"  {seen[-1].raw:<32}  {seen[-1].text}")
    good = sum(read.why is None for read in seen)
    if as_json:
        output.emit(
            {"ok": True, "port": port, "seconds": seconds, "count": len(seen), "read": good, "lines": [_object(read) for read in seen]}
        )
    elif seen:
        output.say(t("{count} lines arrived, {good} of them can be read; nothing was stored.", count=len(seen), good=good))
    else:
        output.say(t("Nothing arrived in {seconds} s; nothing was stored.", seconds=f"{seconds:g}"))


def _names(package: Any, table: Mapping[str, Any]) -> list[str]:
    return [channel.name for channel in package.SerialConfig.model_validate(table).plan().parser.channels]


def _read(raw: bytes, outcome: Any, names: Sequence[str]) -> Read:
    line = raw.decode("ascii", "backslashreplace")
    if hasattr(outcome, "why"):
        return Read(line, {}, {}, {}, outcome.why)
    if not hasattr(outcome, "values"):
        return Read(line, {}, {}, dict(outcome.facts), None)
    values = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in zip(names, outcome.values, strict=True)
    }
    units = {name: unit for name, unit in zip(names, outcome.units, strict=True) if unit is not None}
    return Read(line, values, units, {}, None)


def _object(read: Read) -> dict[str, Any]:
    return {"raw": read.raw, "values": dict(read.values), "units": dict(read.units), "facts": dict(read.facts), "why": read.why}
