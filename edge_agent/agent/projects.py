"""What the configuration says of projects: the rules that give a run its project, and which projects take no new data."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from edge_agent.config.models import Config
from edge_agent.runs.routing import Configured, Routing
from edge_agent.runs.schedule import Schedule
from edge_agent.words import t


def build_routing(config: Config) -> tuple[Routing, Schedule | None]:
    """The rules in their order, and the schedule that has to be watched if there is one."""
    projects: dict[str, str] = {}
    for name in config.instruments:
        projects.setdefault(config.group_of(name), config.project_of(name))
    schedule = None if config.schedule is None else Schedule(config.schedule, config.zone)
    sources = (Configured(projects),) if schedule is None else (schedule, Configured(projects))
    return Routing(sources, refusal(config)), schedule


def refusal(config: Config) -> Callable[[str, int], str]:
    """Says why a project takes no data of a run that begins then (UTC ns); empty: it does."""

    def refuses(project: str, t_ns: int) -> str:
        about = config.projects.get(project)
        if about is None:
            return ""
        if about.closed:
            return t("[projects.{project}] is closed", project=project)
        day = datetime.fromtimestamp(t_ns / 1e9, UTC).astimezone(config.zone).date()
        if about.last_day is not None and day > about.last_day:
            return t("the last day of [projects.{project}] was {day}", project=project, day=about.last_day)
        return ""

    return refuses
