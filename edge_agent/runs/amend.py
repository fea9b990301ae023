"""Amends closed runs: what people learn later is signed beside the run, logged, and sent with its receipts. Worker thread.

Order: the agent log, then the copy of the amendment, then the database with the receipts. A crash after the first leaves a leaf without an
amendment, which says nothing false: the number is used again. After the copy, the next start takes it from there (`Book.is_ahead`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.errors import UsageError
from edge_agent.model import RunContext
from edge_agent.runs.book import AMENDMENT, RunEntry, Stage
from edge_agent.runs.papers import SIDECAR, Papers
from edge_agent.runs.texts import check_text
from edge_agent.seal import cose
from edge_agent.seal.amendment import FIELD, Amendment, Change, amendment_hash, parse_amendment
from edge_agent.seal.leaf import Amended

MOST_FIELDS = 50
LABEL = re.compile(r"(policy\.)?(label|access|allowed|jurisdictions?)(\..*)?")
"""Fields that would say another label, which nothing obeys."""


@dataclass(slots=True)
class Amending:
    """See the module."""

    papers: Papers

    def amend(self, run_name: str, fields: Mapping[str, str], author: str, reason: str) -> tuple[RunEntry, Amendment]:
        """Amend a run.

        Args:
            run_name: its number, with or without leading zeros.
            fields: new values by the names of fields, as ``sample.name``.
            author: who says so.
            reason: why.

        Raises:
            UsageError: no such closed run, no such field, a label, a text that cannot be kept, or nothing that changes.
        """
        keeper, session = self.papers.keeper, self.papers.keeper.session
        for what, text in (("author", author), ("reason", reason), *fields.items()):
            check_text(what, text)
            if not text.strip():
                raise UsageError(f"the {what} is empty", why="an amendment says what, who and why", try_=f"give the {what}", code="TEXT")
        if not 0 < len(fields) <= MOST_FIELDS or not all(FIELD.fullmatch(name) for name in fields):
            raise UsageError(
                "An amendment sets 1 to 50 fields.", why=f"given: {', '.join(fields) or 'none'}; a field is named as sample.name",
                try_="edge-agent amend RUN --set sample.name=SiC --reason 'it was mixed up'", code="AMEND_FIELD",
            )  # fmt: skip
        if any(LABEL.fullmatch(name) for name in fields):
            raise UsageError(
                "The label of a run is not amended.", why="who may have data is signed with it, and nothing is loosened at the instrument",
                try_="have it opened where it landed: python -m landing label DIR RUN open", code="AMEND_LABEL",
            )  # fmt: skip
        with keeper.spool.transaction():
            entry = self.closed(run_name)
            late = keeper.book.late(entry.run)
            before = [cose.parse_all(data).payload for name, data in late.items() if name.startswith(AMENDMENT)]
            known = _known(entry.run) | {c.field: c.new for payload in before for c in parse_amendment(payload).changes}
            changes = tuple(Change(name, known.get(name), new) for name, new in fields.items() if known.get(name) != new)
            if not changes:
                raise UsageError(f"Run {entry.run.name} says so already.", why="no field would change", code="AMEND_SAME")
            amendment = Amendment(
                session.agent_id, entry.run.run_id, late[SIDECAR], len(before) + 1, amendment_hash(before[-1]) if before else None,
                changes, author, reason, keeper.now_ns(),
            )  # fmt: skip
            payload = amendment.payload()
            keeper.agent_log.append(Amended(entry.run.run_id, amendment.number, amendment_hash(payload), amendment.t_ns))
            signed = cose.sign_all(session.keys, cose.AMENDMENT, payload)
            self.papers.keep_late(entry, f"{AMENDMENT}{amendment.number:06d}", signed)
        return entry, amendment

    def run(self, name: str) -> RunEntry:
        """A run by its number, with or without leading zeros.

        Raises:
            UsageError: there is none of that number.
        """
        book = self.papers.keeper.book
        entry = book.find(f"{int(name):06d}") if name.isascii() and name.isdigit() and len(name) < 19 else None
        if entry is None:
            why = "this agent recorded none of that number"
            raise UsageError(f"There is no run {name}.", why=why, try_="edge-agent status", code="RUN_UNKNOWN")
        return entry

    def is_closed(self, entry: RunEntry) -> bool:
        """Whether a run is signed, so that it can be amended."""
        return entry.stage in (Stage.CLOSED, Stage.DONE) and SIDECAR in self.papers.keeper.book.late(entry.run)

    def closed(self, name: str) -> RunEntry:
        """A closed run by its number, with or without leading zeros.

        Raises:
            UsageError: there is none of that number, or it is not closed yet.
        """
        entry = self.run(name)
        if not self.is_closed(entry):
            raise UsageError(
                f"Run {entry.run.name} is not closed yet.", why="only what is signed can be amended",
                try_=f"edge-agent session stop --group {entry.run.group}", code="RUN_NOT_CLOSED",
            )  # fmt: skip
        return entry


def _known(run: RunContext) -> dict[str, str]:
    """What the run record said of the fields that a session gives; others are not known here."""
    given = {"title": run.title, "user.name": run.user, "sample.name": run.sample, "project.name": run.project}
    return {name: text for name, text in given.items() if text}

