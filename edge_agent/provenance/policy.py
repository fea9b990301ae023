"""Labels and `may_send`: asked before anything leaves the machine, live values, names and previews included.

Deny by default: a destination that is not configured, a kind or a label that is not known gets nothing. Closed and
shared data go to the targets that the label names, and where it names none to the project's own space; never out of
the countries that the label names. Open data go to any configured destination. The facility's own monitoring may see
metrics, logs and names of shared data; a time-stamping service sees digests only, those of shared and closed data only
if the facility runs or approved it. Loosening a label is not done here: of two labels the stricter wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.model import Access, ItemKind, Label


class DestinationKind(StrEnum):
    """What a destination is for."""

    STORE = "store"  # files: a landing service, a folder, a bucket
    LIVE = "live"  # live values to other machines
    MONITORING = "monitoring"  # metrics and logs
    TIMESTAMP = "timestamp"  # a time-stamping service: sees one digest and the time
    SCREEN = "screen"  # this machine's own screen and loopback API: nothing leaves


class ObjectKind(StrEnum):
    """What would be sent."""

    DATA = "data"
    METADATA = "metadata"  # run record, crate, manifest, signatures
    PREVIEW = "preview"
    NAME = "name"  # names of streams, files, projects, samples
    LIVE = "live"
    METRICS = "metrics"
    LOG = "log"
    HEAD = "head"  # signed size, root and time of the agent log, for a witness
    DIGEST = "digest"  # SHA-256 of what is signed, for a time-stamp: tells that a run ended, and nothing of it


@dataclass(frozen=True, slots=True)
class Destination:
    """A configured destination. ``project_space`` marks the project's own space; ``facility`` that the facility runs it.

    ``jurisdiction`` is the country in which it stands; empty: nobody said.
    """

    name: str
    kind: DestinationKind
    project_space: bool = False
    facility: bool = False
    jurisdiction: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer and why, in words for the operator."""

    allowed: bool
    reason: str


NOBODY = "-"
"""No target has this name: what stands in a label whose parts agree on no target."""
STRICTNESS = {Access.OPEN: 0, Access.SHARED: 1, Access.CLOSED: 2}
DESTINATIONS, OBJECTS = frozenset(DestinationKind), frozenset(ObjectKind)
OBSERVABLE = frozenset({ObjectKind.METRICS, ObjectKind.LOG, ObjectKind.NAME})

ITEM_OBJECTS = {
    ItemKind.SEGMENT: ObjectKind.DATA,
    ItemKind.FILE: ObjectKind.DATA,
    ItemKind.MASTER: ObjectKind.DATA,
    ItemKind.SIDECAR: ObjectKind.METADATA,
    ItemKind.PREVIEW: ObjectKind.PREVIEW,
    ItemKind.MANIFEST: ObjectKind.METADATA,
    ItemKind.RECEIPTS: ObjectKind.METADATA,
    ItemKind.CRATE: ObjectKind.METADATA,
}
"""What each kind of outbox item is to the policy."""


def may_send(label: Label, destination: Destination | None, object_kind: ObjectKind) -> Decision:
    """Whether an object with this label may go there.

    Args:
        label: of the run that the object belongs to.
        destination: None when nothing of that name is configured.
        object_kind: what would be sent.
    """
    if destination is None:
        return Decision(False, "the destination is not configured")
    if destination.kind not in DESTINATIONS or object_kind not in OBJECTS or label.access not in STRICTNESS:
        return Decision(False, "the policy does not know this label, destination or kind of object")
    if destination.kind is DestinationKind.SCREEN:
        return Decision(True, "it does not leave this machine")
    if destination.kind is DestinationKind.TIMESTAMP and object_kind is not ObjectKind.DIGEST:
        return Decision(False, f"{destination.name} is for digests only")
    if label.access is Access.OPEN:
        return Decision(True, "the data are open")
    if destination.kind is DestinationKind.TIMESTAMP:
        # Not by name: a label names targets.
        said = "lets" if destination.facility else "does not let"
        return Decision(destination.facility, f"the facility {said} digests of {label.access} data go to the time-stamping service")
    if label.jurisdictions is not None and destination.jurisdiction not in label.jurisdictions:
        there = destination.jurisdiction or "a country that the configuration does not say"
        kept = ", ".join(sorted(label.jurisdictions)) or "no country"
        return Decision(False, f"{object_kind} of {label.access} data: it stays in {kept}, and {destination.name} is in {there}")
    if destination.name in label.allowed:
        return Decision(True, f"the label names {destination.name}")
    if destination.project_space and destination.kind is DestinationKind.STORE and not label.allowed:
        return Decision(True, f"{destination.name} is the project's own space")
    if (
        label.access is Access.SHARED
        and destination.facility
        and destination.kind is DestinationKind.MONITORING
        and object_kind in OBSERVABLE
    ):
        return Decision(True, f"{destination.name} is the facility's own monitoring")
    named = ", ".join(sorted(label.allowed)) or "no target"
    return Decision(
        False, f"{object_kind} of {label.access} data: the label names {named}, and {destination.name} is not the project's own space"
    )


def must_encrypt(label: Label, least: Access) -> bool:
    """Whether what has this label is encrypted where data of access ``least`` and all stricter ones are.

    Encryption allows nothing: `may_send` decides first, as if there were none.
    """
    return STRICTNESS.get(label.access, len(STRICTNESS)) >= STRICTNESS[least]


def stricter(one: Label, other: Label, own: frozenset[str]) -> Label:
    """The label that allows only what both allow.

    Args:
        one: a label.
        other: another; the order does not matter.
        own: names of the targets that are the project's own space: what a label means that names none.
    """
    access = max(one.access, other.access, key=STRICTNESS.__getitem__)
    named = [label.allowed for label in (one, other) if label.access is not Access.OPEN]
    allowed = frozenset[str]()
    if any(named):
        allowed = frozenset.intersection(*(names or own for names in named)) or frozenset({NOBODY})
    bound = [label.jurisdictions for label in (one, other) if label.access is not Access.OPEN and label.jurisdictions is not None]
    return Label(access, allowed, frozenset.intersection(*bound) if bound else None)


class PolicyGate:
    """`may_send` to the configured targets. A target that is given by its name alone holds project spaces."""

    def __init__(self, targets: Iterable[Destination | str]) -> None:
        known = (target if isinstance(target, Destination) else store(target) for target in targets)
        self._targets = {target.name: target for target in known}

    def __call__(self, label: Label, kind: ItemKind, target: str) -> Decision:
        """Whether an outbox item of this kind and label may go to ``target``."""
        return self.decide(label, ITEM_OBJECTS[kind], target)

    def decide(self, label: Label, kind: ObjectKind, target: str) -> Decision:
        """Whether an object of this kind and label may go to ``target``."""
        return may_send(label, self._targets.get(target), kind)


def store(name: str, *, project_space: bool = True, jurisdiction: str = "") -> Destination:
    """A target for files."""
    return Destination(name, DestinationKind.STORE, project_space=project_space, jurisdiction=jurisdiction)
