"""Targets from the configuration. Only the kinds that it names are imported."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from edge_agent.agent.identity import Credentials
from edge_agent.config import targets as tables
from edge_agent.config.models import Config
from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.deliver.pace import Hours, Pace
from edge_agent.deliver.target import Memo, Target, Witnesses
from edge_agent.errors import ConfigError
from edge_agent.model import Access, OutboxItem
from edge_agent.provenance.policy import ObjectKind, PolicyGate, must_encrypt
from edge_agent.record.session import Session
from edge_agent.runs.desk import GroupPlan
from edge_agent.runs.keeper import Routes
from edge_agent.wire.broker import Broker


def build_targets(
    config: Config, credentials: Credentials, session: Callable[[], Session], memo: Memo, published: Callable[[str], Collection[str]]
) -> dict[str, Target]:
    """One target a table, by name. ``session`` gives the session of now; in ``memo`` targets keep what they need after a restart.

    ``published`` tells of a project's public key which runs say that it was published. A landing target of an agent that was never
    enrolled refuses everything: capture does not wait for anybody's token.

    Raises:
        ConfigError: what a target needs is not installed.
    """
    built = {name: _build(name, table, config, credentials, session, memo) for name, table in config.targets.items()}
    return {name: _encrypting(target, config.targets[name], config, published) for name, target in built.items()}


def _encrypting(target: Target, table: tables.Target, config: Config, published: Callable[[str], Collection[str]]) -> Target:
    """In front of a shared store, where it or a project asks for it: what encrypts."""
    if not isinstance(table, tables.SharedStore) or table.encrypt == "never":
        return target
    if table.encrypt is None and not any(project.encrypt_to for project in config.projects.values()):
        return target
    from edge_agent.deliver.encrypted import EncryptingTarget, no_key, published_key

    least, asked = Access(table.encrypt or Access.CLOSED), table.encrypt is not None

    def keys(item: OutboxItem) -> tuple[str, ...]:
        if not must_encrypt(item.label, least):
            return ()
        project = config.projects.get(item.project)
        known = () if project is None else project.encrypt_to
        if asked and not known:
            raise no_key(target.name, item)
        for key in known:
            if (opened := published(key)) and f"{item.run_no:06d}" not in opened:
                raise published_key(target.name, item, key)
        return known

    return EncryptingTarget(target, keys, config.spool.dir / "encrypted" / target.name)


def sending_hours(config: Config) -> dict[str, Hours]:
    """The hours of the targets that have some, by name."""
    return {name: Hours(*table.hours, config.zone) for name, table in config.targets.items() if table.hours is not None}


def witnesses(
    targets: Mapping[str, Target], plans: Mapping[str, GroupPlan], routes: Callable[[str], Routes], gate: PolicyGate
) -> dict[str, Witnesses]:
    """The targets that the agent log is shown to, by name.

    A head tells how much this agent has recorded, in all groups together, and when; so it goes only where data goes: to a target
    that a group is routed to and that the group's label allows.

    Args:
        targets: all, by name.
        plans: the label of each group.
        routes: the targets of a group.
        gate: the policy.
    """
    seen = {
        name
        for group, plan in plans.items()
        for name in routes(group).targets
        if gate.decide(plan.label, ObjectKind.HEAD, name).allowed
    }
    return {name: target for name, target in targets.items() if name in seen and isinstance(target, Witnesses)}


def _build(
    name: str, table: tables.Target, config: Config, credentials: Credentials, session: Callable[[], Session], memo: Memo
) -> Target:
    pace = Pace(table.rate)
    if isinstance(table, tables.FolderTarget):
        from edge_agent.deliver.folder import FolderTarget

        return FolderTarget(name, Path(table.folder), pace=pace)
    if isinstance(table, tables.S3Target):
        return _s3(name, table, memo, pace)
    if isinstance(table, tables.GrdmTarget):
        return _grdm(name, table, pace)
    folder = config.keys_dir
    if credentials.enrolment is None:
        from edge_agent.deliver.unenrolled import Unenrolled

        return Unenrolled(name, folder)
    if isinstance(table, tables.LandingTarget):
        from edge_agent.deliver.landing import LandingTarget

        root = Path(table.ca) if table.ca is not None else folder / "root.pem"
        return LandingTarget(name, table.landing, LandingKeys(root, folder / "tls.pem", folder / "receipts.pem"), pace=pace)
    keys = LandingKeys(folder / "root.pem", folder / "tls.pem", folder / "receipts.pem")
    from edge_agent.deliver.mqtt import MqttTarget, Speaker

    context = ssl.create_default_context(cafile=table.ca) if table.ca is not None else None
    broker = replace(Broker.parse(table.mqtt, context), username=table.user, password=_password(table))

    def speaker() -> Speaker:
        now = session()
        return Speaker(now.key, now.chain)

    return MqttTarget(
        name, broker, credentials.agent_id, speaker, lambda: keys.trust(name), prefix=table.topic, message=table.piece, pace=pace
    )


def _s3(name: str, table: tables.S3Target, memo: Memo, pace: Pace) -> Target:
    try:
        from edge_agent.deliver.s3 import Lock, S3Target
        from edge_agent.deliver.s3_store import Place
    except ImportError as error:
        raise ConfigError(
            f"target.{name}: what speaks to S3 stores is not installed", why=str(error),
            try_='pip install "edge-agent-daq[s3]"', code="S3_NOT_INSTALLED",
        ) from error  # fmt: skip
    place = Place(table.s3, table.bucket, table.region, table.prefix, table.path_style, None if table.ca is None else str(table.ca))
    lock = None if table.lock is None else Lock(table.lock.mode.upper(), table.lock.days)

    def keys() -> tuple[str, str]:
        return table.access_key.reveal(), table.secret_key.reveal()

    return S3Target(name, place, keys, memo, part=table.part, lock=lock, pace=pace)


def _grdm(name: str, table: tables.GrdmTarget, pace: Pace) -> Target:
    from edge_agent.deliver.grdm import GrdmTarget
    from edge_agent.deliver.grdm_talk import Talk

    talk = Talk(name, table.api, table.grdm, table.token.reveal, None if table.ca is None else str(table.ca))
    return GrdmTarget(name, talk, table.nodes, table.node, table.storage, table.largest, pace=pace)


def _password(table: tables.MqttTarget) -> str | None:
    return None if table.password is None else table.password.reveal()
