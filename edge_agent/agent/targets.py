"""Targets from the configuration. Only the kinds that it names are imported."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

from edge_agent.agent.identity import Identity
from edge_agent.config import targets as tables
from edge_agent.config.models import Config
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.deliver.target import Target
from edge_agent.errors import ConfigError
from edge_agent.model import ItemKind, Label
from edge_agent.provenance.policy import ITEM_OBJECTS, Decision, Destination, DestinationKind, may_send
from edge_agent.record.session import Session
from edge_agent.wire.broker import Broker


def build_targets(config: Config, identity: Identity, session: Session) -> dict[str, Target]:
    """One target a table, by name.

    Raises:
        ConfigError: a landing target, and this agent was never enrolled.
    """
    return {name: _build(name, table, config, identity, session) for name, table in config.targets.items()}


class Gate:
    """`may_send` for outbox items. Every configured target holds project spaces; a label that names targets means those and no others."""

    def __init__(self, config: Config) -> None:
        """Take the targets of the configuration."""
        self._targets = frozenset(config.targets)

    def __call__(self, label: Label, kind: ItemKind, target: str) -> Decision:
        """Whether an item of this kind and label may go to ``target``."""
        if target not in self._targets:
            return may_send(label, None, ITEM_OBJECTS[kind])
        mine = not label.allowed or target in label.allowed
        return may_send(label, Destination(target, DestinationKind.STORE, project_space=mine), ITEM_OBJECTS[kind])


def _build(name: str, table: tables.Target, config: Config, identity: Identity, session: Session) -> Target:
    if isinstance(table, tables.FolderTarget):
        from edge_agent.deliver.folder import FolderTarget

        return FolderTarget(name, Path(table.folder))
    folder = config.keys_dir
    if identity.enrolment is None:
        raise ConfigError(
            f"target.{name}: this agent is not enrolled at a landing service", why=f"no enrolment in {folder}",
            try_="get a token there (python -m landing token DIR --project P) and run: edge-agent enroll TOKEN", code="NOT_ENROLLED",
        )  # fmt: skip
    if isinstance(table, tables.LandingTarget):
        from edge_agent.deliver.landing import LandingTarget

        root = Path(table.ca) if table.ca is not None else folder / "root.pem"
        return LandingTarget(name, table.landing, LandingKeys(root, folder / "tls.pem", folder / "receipts.pem"))
    keys = LandingKeys(folder / "root.pem", folder / "tls.pem", folder / "receipts.pem")
    from edge_agent.deliver.mqtt import MqttTarget, Speaker

    context = ssl.create_default_context(cafile=table.ca) if table.ca is not None else None
    broker = replace(Broker.parse(table.mqtt, context), username=table.user, password=_password(table))
    speaker = Speaker(session.key, session.chain)
    return MqttTarget(name, broker, session.agent_id, lambda: speaker, lambda: keys.trust(name), prefix=table.topic, message=table.piece)


def _password(table: tables.MqttTarget) -> str | None:
    return None if table.password is None else table.password.reveal()
