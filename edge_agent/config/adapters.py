"""Adapters by the name that a configuration uses, found by entry points; only those that are named get imported."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import cast

from edge_agent.adapter import ENTRY_POINTS, Adapter, AdapterConfig
from edge_agent.config.problems import nearest
from edge_agent.errors import ConfigError
from edge_agent.words import t


def names() -> list[str]:
    """Names of all adapters that are installed, sorted."""
    return sorted(_installed())


def adapter_class(name: str) -> type[Adapter]:
    """The adapter's class.

    Raises:
        ConfigError: no adapter has this name (``CFG_UNKNOWN_ADAPTER``), or it cannot be imported or has no `AdapterConfig`
        (``CFG_ADAPTER_BROKEN``).
    """
    try:
        found = _entry(name).load()
    except (ImportError, AttributeError) as e:
        raise _broken(name, f"{type(e).__name__}: {e}") from e
    if not issubclass(getattr(found, "Config", object), AdapterConfig):
        raise _broken(name, t("it has no Config of class AdapterConfig"))
    return cast(type[Adapter], found)


def adapter_module(name: str) -> ModuleType:
    """The package that provides the adapter.

    Raises:
        ConfigError: as `adapter_class`.
    """
    adapter_class(name)
    return import_module(_entry(name).module)


@cache
def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _entry(name: str) -> EntryPoint:
    installed = _installed()
    if name in installed:
        return installed[name]
    close = nearest(name, installed)
    raise ConfigError(
        t('There is no adapter "{name}".', name=name),
        why=t("installed are {names}", names=", ".join(sorted(installed)) or "-"),
        try_=t('adapter = "{name}"', name=close) if close else t("install the package that provides it"),
        code="CFG_UNKNOWN_ADAPTER",
    )


def _broken(name: str, why: str) -> ConfigError:
    return ConfigError(
        t('The adapter "{name}" cannot be loaded.', name=name), why=why, try_=t("install the package again"), code="CFG_ADAPTER_BROKEN"
    )
