"""Claims: a person says to which project a run belongs that no rule gave one, or whose project refused it. Worker thread.

What was signed says "unclaimed" for ever; the claim is an amendment of ``project.name`` beside it, signed and logged like every other.
In the same transaction the files that are still in the spool get their place in the project's space and are sent there; the copy that
landed unclaimed is not removed. Files that have left the spool cannot be sent again: the claim says so, and where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.errors import UsageError
from edge_agent.model import NAME
from edge_agent.runs.amend import Amending
from edge_agent.runs.book import CLAIMED, RunEntry
from edge_agent.runs.keeper import claimed_item
from edge_agent.runs.routing import UNCLAIMED, Routing

FIELD = "project.name"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim did: number of the amendment, the folder in the project's space, whether the files are on their way there."""

    entry: RunEntry
    number: int
    folder: str
    sent: bool


@dataclass(slots=True)
class Claiming:
    """See the module."""

    amending: Amending
    routing: Routing

    def claim(self, run_name: str, project: str, author: str, reason: str) -> Claim:
        """Claim a run for a project.

        Raises:
            UsageError: no such closed run, it has a project, no project of that name, it takes no new data, or a file is being sent now.
        """
        keeper = self.amending.papers.keeper
        if not NAME.fullmatch(project) or project == UNCLAIMED:
            raise UsageError(
                f"{project[:80]!r} is no project to claim a run for", code="PROJECT_NAME", try_=f"edge-agent claim {run_name} --project P",
                why="1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit: it is a folder in the project space",
            )  # fmt: skip
        refused = self.routing.refusal(project, keeper.now_ns())
        if refused:
            raise UsageError(f"Project {project} takes no new data.", why=refused, try_="name another project", code="PROJECT_CLOSED")
        with keeper.spool.transaction():
            entry = self.amending.closed(run_name)
            owner = keeper.book.project(entry.run)
            if owner != UNCLAIMED and not (entry.run.refused and owner == entry.run.project):
                raise UsageError(
                    f"Run {entry.run.name} belongs to {owner}.", why="a run is claimed that has no project, or that its project refused",
                    try_=f"edge-agent amend {entry.run.name} --set project.name=P --reason '...'", code="CLAIM_OWNED",
                )  # fmt: skip
            here = self._here(entry)
            _, amendment = self.amending.amend(entry.run.name, {FIELD: project}, author, reason)
            if here:
                keeper.book.put_late(entry.run, CLAIMED, project.encode())
                # The receipts with the amendment too: nothing of them can have been sent, the transaction is still open.
                for item in keeper.spool.outbox.items_of_run(entry.run.run_id):
                    keeper.spool.outbox.move(item, claimed_item(item, project))
        keeper.kick()
        rest = entry.run.folder.partition("/")[2]
        return Claim(entry, amendment.number, f"{project}/{rest}" if here else entry.run.folder, here)

    def _here(self, entry: RunEntry) -> bool:
        """Whether every file of the run is still in the spool.

        Raises:
            UsageError: one of them is on its way to its old place.
        """
        outbox = self.amending.papers.keeper.spool.outbox
        items = outbox.items_of_run(entry.run.run_id)
        if any(delivery.state == "sending" for item in items for delivery in outbox.deliveries(item.item_id)):
            raise UsageError(
                f"Run {entry.run.name} is being sent this moment.", why="a file that is on its way keeps its place",
                try_="try again in a moment", code="CLAIM_BUSY",
            )  # fmt: skip
        return bool(items) and all(outbox.is_held(item.item_id) for item in items)
