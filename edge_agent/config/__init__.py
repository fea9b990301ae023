"""The configuration: one TOML file, checked completely before anything starts.

`load` gives a `Config` or one `InvalidConfig` with every mistake; `examine` gives both and never raises. `edge_agent.config.values` and
`edge_agent.config.secret` hold the types that an adapter's `Config` can use for durations, sizes and secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_agent.config.json_schema import schema
    from edge_agent.config.loading import Examination, examine, load
    from edge_agent.config.models import Config, Instrument
    from edge_agent.config.problems import InvalidConfig, Problem
    from edge_agent.config.secret import Secret
    from edge_agent.config.targets import FolderTarget, LandingTarget, MqttTarget

__all__ = [
    "Config",
    "Examination",
    "FolderTarget",
    "Instrument",
    "InvalidConfig",
    "LandingTarget",
    "MqttTarget",
    "Problem",
    "Secret",
    "examine",
    "load",
    "schema",
]

_HOMES = {
    "Config": "models",
    "Examination": "loading",
    "FolderTarget": "targets",
    "Instrument": "models",
    "InvalidConfig": "problems",
    "LandingTarget": "targets",
    "MqttTarget": "targets",
    "Problem": "problems",
    "Secret": "secret",
    "examine": "loading",
    "load": "loading",
    "schema": "json_schema",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that an adapter can take one type from here without importing the room that imports adapters."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
