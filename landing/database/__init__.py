"""Where the catalogue's tables are: a SQLite file, or PostgreSQL for several servers at once. One dialect is spoken to both.

Invariants: what `Database.writing` did is durable when it is left, or did not happen; blocks that write about the same
thing come one after the other, whichever server they are in; after `Database.close` everybody who comes is refused with
TROUBLE, which means: try again. The SQL is what SQLite and PostgreSQL share: ``?`` for values, ``ON CONFLICT``, window
functions; ``rowid`` is the order of insertion, in PostgreSQL a column of its own, the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from edge_agent.wire.refusal import Code, Refused


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """Rows that were changed."""
        ...

    def fetchone(self) -> Any:
        """The next row as a tuple, None at the end."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows."""
        ...


class Session(Protocol):
    """Inside one block."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        """One statement; each ``?`` is the next of ``values`` (bytes, int, str, None)."""
        ...


class Database(Protocol):
    """Methods may be called from several threads; they block."""

    @property
    def shared(self) -> bool:
        """Whether other servers may work on the same tables."""
        ...

    def reading(self) -> AbstractContextManager[Session]:
        """A block that only reads.

        Raises:
            Refused: TROUBLE, it is closed or does not answer; also raised by what is executed inside.
        """
        ...

    def writing(self, about: bytes = b"") -> AbstractContextManager[Session]:
        """A transaction; another one about the same thing waits, here and on other servers.

        Raises:
            Refused: as `reading`.
        """
        ...

    def alone(self, about: bytes, *, wait: bool) -> AbstractContextManager[bool]:
        """A block that may last: nobody else, here or on another server, is in one about the same thing; a server that dies leaves it.

        Yields:
            Whether it is ours; always true with ``wait``.

        Raises:
            Refused: as `reading`.
        """
        ...

    def close(self) -> None:
        """Close it, when nobody is in a block."""
        ...


def stopping() -> Refused:
    """What everybody is told who comes while the service stops, or after."""
    return Refused(Code.TROUBLE, "The landing service is stopping", why="it takes nothing more", try_="try again when it is back")


def tables(binary: str, integer: str, text: str, rowid: str, strict: str) -> Iterable[str]:
    """The statements that make the tables where they are missing, with a dialect's words for the types."""
    for sql in _TABLES:
        yield sql.format(B=binary, I=integer, T=text, R=rowid, S=strict)


_TABLES = (
    "CREATE TABLE IF NOT EXISTS agents (agent_id {B} PRIMARY KEY, identity {B} NOT NULL, name {T} NOT NULL, t_ns {I} NOT NULL){S}",
    "CREATE TABLE IF NOT EXISTS projects (agent_id {B} NOT NULL, project {T} NOT NULL, PRIMARY KEY (agent_id, project)){S}",
    "CREATE TABLE IF NOT EXISTS tokens (secret {B} PRIMARY KEY, projects {T} NOT NULL, t_until {I} NOT NULL, used_by {B}, t_used {I}){S}",
    "CREATE TABLE IF NOT EXISTS items "
    "(agent_id {B} NOT NULL, item_id {T} NOT NULL, kind {T} NOT NULL, project {T} NOT NULL, path {T} NOT NULL, size {I} NOT NULL, "
    "sha256 {B} NOT NULL, run_id {B} NOT NULL, run_no {I} NOT NULL, level {I}, custody {B} NOT NULL, t_ns {I} NOT NULL, {R}"
    "PRIMARY KEY (agent_id, item_id)){S}",
    "CREATE INDEX IF NOT EXISTS items_by_path ON items (path)",
    "CREATE INDEX IF NOT EXISTS items_by_run ON items (run_id)",
    "CREATE TABLE IF NOT EXISTS labels "
    "(agent_id {B} NOT NULL, item_id {T} NOT NULL, access {T} NOT NULL, allowed {T} NOT NULL, PRIMARY KEY (agent_id, item_id)){S}",
    "CREATE TABLE IF NOT EXISTS said_later "
    "(run_id {B} NOT NULL, access {T} NOT NULL, author {T} NOT NULL, reason {T} NOT NULL, t_ns {I} NOT NULL, {R}"
    "UNIQUE (run_id, t_ns)){S}",
    "CREATE TABLE IF NOT EXISTS refused "
    "(agent_id {B} NOT NULL, item_id {T} NOT NULL, refusal {T} NOT NULL, t_ns {I} NOT NULL, PRIMARY KEY (agent_id, item_id)){S}",
    "CREATE TABLE IF NOT EXISTS heads "
    "(agent_id {B} NOT NULL, log_id {B} NOT NULL, size {I} NOT NULL, root {B} NOT NULL, head {B} NOT NULL, witness {B} NOT NULL, {R}"
    "PRIMARY KEY (agent_id, log_id, head)){S}",
    "CREATE TABLE IF NOT EXISTS restarts (agent_id {B} NOT NULL, t_ns {I} NOT NULL, log_id {B}, {R}UNIQUE (agent_id, log_id)){S}",
    "CREATE TABLE IF NOT EXISTS revoked (agent_id {B} PRIMARY KEY, reason {T} NOT NULL, t_ns {I} NOT NULL, statement {B} NOT NULL){S}",
    "CREATE TABLE IF NOT EXISTS uploads "
    "(agent_id {B} NOT NULL, item_id {T} NOT NULL, header {B} NOT NULL, have {I} NOT NULL, PRIMARY KEY (agent_id, item_id)){S}",
    "CREATE TABLE IF NOT EXISTS touched "
    "(agent_id {B} NOT NULL, item_id {T} NOT NULL, t_ns {I} NOT NULL, PRIMARY KEY (agent_id, item_id)){S}",
    "CREATE TABLE IF NOT EXISTS pieces "
    "(agent_id {B} NOT NULL, item_id {T} NOT NULL, at {I} NOT NULL, size {I} NOT NULL, object {T} NOT NULL, "
    "PRIMARY KEY (agent_id, item_id, at)){S}",
)
