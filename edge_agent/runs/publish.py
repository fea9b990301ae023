"""Publishing a project's key: who opened what was encrypted to it, when and why, is signed beside each run. Worker thread.

The agent never has the secret key: a person publishes that, where people find it, and says so here. The statement is an amendment of each
run of which something went somewhere encrypted to the key: signed and logged as every other, and sent with the run's receipts, which
whoever has the key opens as well. From then on nothing else is encrypted to that key (`edge_agent.deliver.encrypted`).

What is said twice is said once: the command is given again for runs that were not closed yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.errors import UsageError
from edge_agent.model import Envelope, OutboxItem
from edge_agent.runs.amend import Amending
from edge_agent.runs.book import AMENDMENT
from edge_agent.seal import cose
from edge_agent.seal.amendment import Amendment, parse_amendment

FIELD = "project_key."
"""Beginning of the field that says of a public key, which follows, that it is published."""
SAID = "published"


@dataclass(frozen=True, slots=True)
class Publication:
    """What a statement did: the runs that say so now, those that do so already, those that are not closed yet; by name.

    ``configured``: the project still encrypts to the key.
    """

    key: str
    runs: tuple[str, ...]
    before: tuple[str, ...]
    still_open: tuple[str, ...]
    configured: bool


@dataclass(frozen=True, slots=True)
class Sent:
    """An item that a target holds encrypted, and the public keys that open it; none where they are not known any more."""

    item: OutboxItem
    target: str
    held: Envelope
    keys: tuple[str, ...]


@dataclass(slots=True)
class Publishing:
    """See the module. ``keys``: what is encrypted to for each project that has any, the project's own key first."""

    amending: Amending
    keys: Mapping[str, tuple[str, ...]]

    def publish(self, project: str, key: str, author: str, reason: str) -> Publication:
        """Say that a key was published.

        Args:
            project: whose key it is.
            key: the public key; "" for the one that the project has now.
            author: who published it.
            reason: why.

        Raises:
            UsageError: the project has no key, it is none, nothing was encrypted to it, or a text cannot be kept.
        """
        from edge_agent.wire import envelope  # only where there is a key

        keeper, configured = self.amending.papers.keeper, self.keys.get(project, ())
        key = self._key(project, key)
        before = keeper.book.published(key)
        said, known, still_open = list[str](), list[str](), list[str]()
        for number in keeper.spool.outbox.encrypted_to(key, envelope.folder_of(key)):
            name = f"{number:06d}"
            if name in before:
                known.append(name)
            elif self._say(name, key, author, reason):
                said.append(name)
            else:
                still_open.append(name)
        if not (said or known or still_open):
            raise UsageError(
                f"Nothing that this agent sent is encrypted to {key}.", why="no target proved that it holds such an object",
                try_="edge-agent project-key list RUN shows the keys of a run", code="ENVELOPE_KEY_UNUSED",
            )  # fmt: skip
        return Publication(key, tuple(said), tuple(known), tuple(still_open), key in configured)

    def sent(self, run_name: str) -> tuple[tuple[Sent, ...], Mapping[str, Amendment]]:
        """What targets hold of a run encrypted; and the statement of each of its keys that is published.

        Raises:
            UsageError: no such run.
        """
        keeper = self.amending.papers.keeper
        entry = self.amending.run(run_name)
        found = []
        for item, receipt in keeper.spool.outbox.encrypted(entry.run.run_id):
            if (held := receipt.envelope) is not None:
                found.append(Sent(item, receipt.target, held, held.keys or self._key_of(held)))
        published = dict[str, Amendment]()
        for name, data in keeper.book.late(entry.run).items():
            if name.startswith(AMENDMENT):
                amendment = parse_amendment(cose.parse_all(data).payload)
                published |= {c.field.removeprefix(FIELD): amendment for c in amendment.changes if c.field.startswith(FIELD)}
        return tuple(found), published

    def _say(self, name: str, key: str, author: str, reason: str) -> bool:
        """Amend one run; False: it is not closed yet."""
        keeper = self.amending.papers.keeper
        with keeper.spool.transaction():
            if not self.amending.is_closed(self.amending.run(name)):
                return False
            entry, _ = self.amending.amend(name, {f"{FIELD}{key}": SAID}, author, reason)
            keeper.book.put_published(entry.run, key)
        return True

    def _key(self, project: str, key: str) -> str:
        if not key:
            configured = self.keys.get(project, ())
            if not configured:
                raise UsageError(
                    f"Project {project} has no key.", why=f"there is no encrypt_to in [projects.{project}]",
                    try_="name the public key that it had, with --key age1...", code="ENVELOPE_KEYLESS",
                )  # fmt: skip
            return configured[0]
        from edge_agent.wire import envelope

        try:
            return str(envelope.recipient(key))
        except envelope.NoKey as error:
            raise UsageError(
                "What was given is no public key.", why=str(error), code="ENVELOPE_PUBLIC_KEY",
                try_="give the public key, age1...: the secret one is published where people find it, and is not for this computer",
            ) from error  # fmt: skip

    def _key_of(self, held: Envelope) -> tuple[str, ...]:
        """The project's key of an envelope that was sent before the keys were kept."""
        from edge_agent.wire import envelope

        known = {key for keys in self.keys.values() for key in keys}
        return tuple(key for key in sorted(known) if held.name.startswith(f"{envelope.folder_of(key)}/"))
