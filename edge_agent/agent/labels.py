"""The label of a run, from all that the configuration says of its site, its instruments and its project: the strictest counts.

What says nothing of access does not count; where nothing says anything the data is closed. An embargo closes what begins before it ends,
and nothing here opens it later: that is done where the data landed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import reduce

from edge_agent.config.models import Config, Labelled
from edge_agent.model import Access, Label
from edge_agent.provenance.policy import STRICTNESS, Destination, store, stricter

NOTHING = Labelled()


@dataclass(frozen=True, slots=True)
class Why:
    """Reasons for not being open, the last day of the embargo, and the access that was meant for afterwards."""

    reasons: tuple[str, ...]
    embargo: date | None
    afterwards: Access


class Labels:
    """Answers for one configuration."""

    def __init__(self, config: Config) -> None:
        """Nothing is read again."""
        self._config = config
        self._own = frozenset(name for name, target in config.targets.items() if target.project_space)

    def label(self, group: str, project: str, t_ns: int, chosen: Access | None = None) -> Label:
        """The label of a group's run for a project that begins then (UTC ns); what a person has ``chosen`` only makes it stricter."""
        said = self._said(group, project)
        access = self._access(said) if self._embargo(said, t_ns) is None else Access.CLOSED
        access = max(access, chosen or access, key=STRICTNESS.__getitem__)
        about = self._config.projects.get(project, NOTHING)
        # An instrument that names no targets means what its site or the project says, at last the project's own space.
        lists = [table.allowed or self._config.allowed or about.allowed for table in self._members(group)]
        # All with the one access that counts: a list of targets is none the less meant because another table is stricter.
        labels = [Label(access, names) for names in lists] + [Label(access, about.allowed)] * bool(about.allowed)
        label = reduce(lambda one, other: stricter(one, other, self._own), labels)
        bound = [table.jurisdiction for table in said if table.jurisdiction is not None]
        if label.access is Access.OPEN:
            return Label(Access.OPEN)
        return replace(label, jurisdictions=frozenset.intersection(*bound)) if bound else label

    def why(self, group: str, project: str, t_ns: int) -> Why:
        """What the run record says of the label."""
        said = self._said(group, project)
        reasons = tuple(dict.fromkeys(reason for table in said for reason in table.reasons))
        return Why(reasons, self._embargo(said, t_ns), self._access(said))

    def _said(self, group: str, project: str) -> list[Labelled]:
        return [self._config, *self._members(group), self._config.projects.get(project, NOTHING)]

    def _members(self, group: str) -> list[Labelled]:
        return [table for name, table in self._config.instruments.items() if self._config.group_of(name) == group]

    def _access(self, said: list[Labelled]) -> Access:
        return max((table.access for table in said if table.access is not None), key=STRICTNESS.__getitem__, default=Access.CLOSED)

    def _embargo(self, said: list[Labelled], t_ns: int) -> date | None:
        day = datetime.fromtimestamp(t_ns / 1e9, UTC).astimezone(self._config.zone).date()
        return max((table.embargo for table in said if table.embargo is not None and day <= table.embargo), default=None)


def destinations(config: Config) -> tuple[Destination, ...]:
    """The targets, as the policy sees them."""
    return tuple(
        store(name, project_space=target.project_space, jurisdiction=target.jurisdiction) for name, target in config.targets.items()
    )
