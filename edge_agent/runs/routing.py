"""Which project a run belongs to, and by which rule: a person's session, what a file's own path names, then the rule sources in order.

A session and a path name the project themselves (a file never goes to another project than its path names: that would show it to
strangers). Everything else is asked of the sources, the first that answers decides: a value of the control system, the schedule, the
configuration. When none does, the run is `UNCLAIMED`, and a person can claim it later. A project that takes no new data is still named,
with why it refuses: the data is kept, in quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

UNCLAIMED = "unclaimed"
SESSION, PATH, VALUE, SCHEDULE, CONFIGURATION, NOBODY = "session", "path", "value", "schedule", "configuration", "nobody"
"""Names of the rules, as they stand in the run record."""


@dataclass(frozen=True, slots=True)
class Route:
    """The decision: the project, the rule that took it, what told that rule (an address, a line of a file), why the project refuses."""

    project: str
    rule: str
    source: str = ""
    refused: str = ""


class RuleSource(Protocol):
    """What can say the project of a run that neither a session nor a path names. Never blocks: it is asked while data waits."""

    rule: str

    def project(self, group: str, t_ns: int) -> tuple[str, str] | None:
        """The project of a group's run that begins at ``t_ns`` (UTC ns), and what says so; None: this source does not know."""
        ...


@dataclass(slots=True)
class Values:
    """The last values that the facility's control system gave, by group: project and address."""

    rule: str = VALUE
    said: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def say(self, group: str, project: str, address: str) -> bool:
        """Take a value; whether it is a change."""
        changed = self.said.get(group, ("", ""))[0] != project
        self.said = {**self.said, group: (project, address)}
        return changed

    def project(self, group: str, t_ns: int) -> tuple[str, str] | None:
        """See `RuleSource`."""
        return self.said.get(group)


@dataclass(slots=True)
class Configured:
    """What the configuration gives each group; `UNCLAIMED` there says nothing."""

    projects: Mapping[str, str]
    rule: str = CONFIGURATION

    def project(self, group: str, t_ns: int) -> tuple[str, str] | None:
        """See `RuleSource`."""
        name = self.projects.get(group, UNCLAIMED)
        return None if name == UNCLAIMED else (name, "")


def open_to_all(project: str, t_ns: int) -> str:
    """Every project takes new data."""
    return ""


@dataclass(slots=True)
class Routing:
    """See the module. ``refusal`` says why a project takes no data of a run that begins then (UTC ns); empty: it does."""

    sources: Sequence[RuleSource] = ()
    refusal: Callable[[str, int], str] = open_to_all
    values: Values = field(default_factory=Values)

    def decide(self, group: str, t_ns: int, named: str = "", by: str = SESSION) -> Route:
        """The route of a run that begins at ``t_ns``; ``named`` is the project that a session or a path names, ``by`` says which."""
        return self._checked(Route(named, by), t_ns) if named else self._checked(self._asked(group, t_ns), t_ns)

    def _asked(self, group: str, t_ns: int) -> Route:
        for source in (self.values, *self.sources):
            found = source.project(group, t_ns)
            if found is not None:
                return Route(found[0], source.rule, found[1])
        return Route(UNCLAIMED, NOBODY)

    def _checked(self, route: Route, t_ns: int) -> Route:
        return Route(route.project, route.rule, route.source, self.refusal(route.project, t_ns))
