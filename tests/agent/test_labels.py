"""The label of a run: every table of the configuration that says something counts, the strictest most."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.agent.labels import Labels
from edge_agent.config.loading import examine, load
from edge_agent.model import Access, Label
from edge_agent.provenance.policy import NOBODY

Configure = Callable[..., Path]
NOON = int(dt.datetime(2026, 11, 24, 3, tzinfo=dt.UTC).timestamp()) * 10**9
DAY = 86400 * 10**9
C, S, O = Access.CLOSED, Access.SHARED, Access.OPEN  # noqa: E741
TARGETS = "".join(
    f'[target.{name}]\nfolder = "/tmp/{name}"\nproject_space = {own}\n' for name, own in (("a", "true"), ("b", "true"), ("x", "false"))
)


def label(configure: Configure, site: str = "", first: str = "", second: str = "", project: str = "", t_ns: int = NOON) -> Label:
    two = f'[instrument.one]\nadapter = "driven"\ngroup = "bl"\n{first}\n[instrument.two]\nadapter = "driven"\ngroup = "bl"\n{second}\n'
    config = load(configure(two, TARGETS, f"{site}\n[projects.p]\n{project}\n"))
    return Labels(config).label("bl", "p", t_ns)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Label()),
        ({"site": 'access = "open"'}, Label(O)),
        ({"first": 'access = "open"'}, Label(O)),
        ({"first": 'access = "open"', "second": 'access = "shared"'}, Label(S)),
        ({"site": 'access = "closed"', "first": 'access = "open"'}, Label()),
        ({"first": 'access = "open"', "project": 'access = "closed"'}, Label()),
        ({"site": 'access = "open"', "project": 'access = "shared"'}, Label(S)),
        ({"first": 'allowed = ["a"]', "second": 'allowed = ["a", "x"]'}, Label(C, frozenset({"a"}))),
        ({"first": 'allowed = ["a"]'}, Label(C, frozenset({"a"}))),
        ({"first": 'allowed = ["x"]'}, Label(C, frozenset({NOBODY}))),
        ({"first": 'allowed = ["a"]', "second": 'allowed = ["b"]'}, Label(C, frozenset({NOBODY}))),
        ({"project": 'allowed = ["x"]'}, Label(C, frozenset({"x"}))),
        ({"site": 'allowed = ["a", "x"]', "project": 'allowed = ["x", "b"]'}, Label(C, frozenset({"x"}))),
        ({"site": 'jurisdiction = ["JP", "US"]', "project": 'jurisdiction = ["JP"]'}, Label(C, jurisdictions=frozenset({"JP"}))),
        ({"first": 'jurisdiction = ["US"]', "project": 'jurisdiction = ["JP"]'}, Label(C, jurisdictions=frozenset())),
        ({"site": 'access = "open"\nallowed = ["a"]\njurisdiction = ["JP"]'}, Label(O)),
        ({"project": 'access = "open"\nembargo = "2026-11-24"'}, Label()),
        ({"project": 'access = "open"\nembargo = "2026-11-24"', "t_ns": NOON + DAY}, Label(O)),
    ],
)
def test_the_strictest_counts(configure: Configure, said: dict[str, Any], expected: Label) -> None:
    assert label(configure, **said) == expected


def test_what_a_person_chooses_only_makes_it_stricter(configure: Configure) -> None:
    head = 'access = "shared"\nallowed = ["x"]\njurisdiction = ["JP"]\n'
    labels = Labels(load(configure('[instrument.one]\nadapter = "driven"\n', TARGETS, head)))
    named, bound = frozenset({"x"}), frozenset({"JP"})
    assert labels.label("one", "p", NOON, O) == Label(S, named, bound)
    assert labels.label("one", "p", NOON, C) == Label(C, named, bound)
    opened = Labels(load(configure('[instrument.one]\nadapter = "driven"\n', TARGETS, head.replace("shared", "open"))))
    assert opened.label("one", "p", NOON) == Label(O)
    assert opened.label("one", "p", NOON, C) == Label(C, named, bound), "what was not needed while it was open counts again"


async def test_a_session_may_be_more_closed_than_its_group(configure: Configure, start: Any) -> None:
    agent = await start(configure('[instrument.one]\nadapter = "driven"\naccess = "open"\n'))
    assert agent.desk.start("one", project="p", access=C).label == Label()
    await agent.desk.stop("one")
    assert agent.desk.start("one", project="p").label == Label(O)


def test_the_record_says_why_and_until_when(configure: Configure) -> None:
    head = 'reasons = ["personal_data"]\n[projects.p]\naccess = "shared"\nreasons = ["novelty", "personal_data"]\nembargo = "2027-03-31"\n'
    why = Labels(load(configure('[instrument.one]\nadapter = "driven"\n', TARGETS, head))).why("one", "p", NOON)
    assert (why.reasons, why.embargo, why.afterwards) == (("personal_data", "novelty"), dt.date(2027, 3, 31), S)


def test_open_data_with_reasons_to_keep_it_back_is_a_mistake(configure: Configure) -> None:
    file = configure('[instrument.one]\nadapter = "driven"\naccess = "open"\nreasons = ["export_control"]\n')
    (problem,) = examine(file).problems
    assert "gives reasons to keep data back" in problem.message
