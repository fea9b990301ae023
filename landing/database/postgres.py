"""The catalogue's tables in PostgreSQL, for any number of servers.

A pool of connections; one that broke is replaced, and what was asked over it is refused with TROUBLE. Blocks about the same
thing exclude each other by advisory locks (PostgreSQL manual, 13.3.5): those of transactions for `writing`, those of a connection of its
own for `alone`, which the server releases when the connection is gone, so a dead replica holds nothing up. ``synchronous_commit`` is
switched on for us, whatever the server's default is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, LiteralString, cast

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from edge_agent.wire.refusal import Code, Refused
from landing.database import Rows, Session, stopping, tables

PATIENCE = 5.0
"""Seconds that a connection, or a free one of the pool, is waited for."""
CONNECTIONS = 8
_OPTIONS = {
    "autocommit": True, "connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000, "application_name": "landing",
}  # fmt: skip
_ROWID = "rowid BIGINT GENERATED ALWAYS AS IDENTITY, "
_SCHEMA = b"landing: tables"


def _durable(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute("SET synchronous_commit = on")


class _Session:
    """Translates the values' places; nothing else differs."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows:
        """See `Session.execute`."""
        return self._connection.execute(sql.replace("?", "%s"), values)


class PostgresDatabase:
    """See `landing.database.Database`. ``where`` is a connection string or URI of libpq; a password is better in its password file."""

    shared = True

    def __init__(self, where: str, patience: float = PATIENCE) -> None:
        self._where = where
        self._closed = False
        # psycopg_pool warns of each attempt; ours is said once, as a refusal.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
        self._pool = ConnectionPool(
            where, kwargs=_OPTIONS, min_size=0, max_size=CONNECTIONS, open=True, timeout=patience, reconnect_timeout=patience,
            check=ConnectionPool.check_connection, configure=_durable,
        )  # fmt: skip
        try:
            with self.writing(_SCHEMA) as db:
                for sql in tables("BYTEA", "BIGINT", 'TEXT COLLATE "C"', _ROWID, ""):
                    db.execute(sql)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Database.close`."""
        self._closed = True
        self._pool.close()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """See `Database.reading`."""
        with self._errors(), self._pool.connection() as connection:
            yield _Session(connection)

    @contextmanager
    def writing(self, about: bytes = b"") -> Iterator[Session]:
        """See `Database.writing`."""
        with self._errors(), self._pool.connection() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_number(b"writing", about),))
            yield _Session(connection)

    @contextmanager
    def alone(self, about: bytes, *, wait: bool) -> Iterator[bool]:
        """See `Database.alone`."""
        with self._errors():
            connection = psycopg.connect(self._where, **cast(dict[str, Any], _OPTIONS))
        number, ours = _number(b"alone", about), False
        try:
            with self._errors():
                call: LiteralString = "SELECT pg_advisory_lock(%s)" if wait else "SELECT pg_try_advisory_lock(%s)"
                row = connection.execute(call, (number,)).fetchone()
                ours = wait or bool(row and row[0])
            yield ours
        finally:
            if ours:
                # Told: what a closed connection holds is held until the server has seen that it is closed.
                with suppress(psycopg.Error):
                    connection.execute("SELECT pg_advisory_unlock(%s)", (number,))
            connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if self._closed:
            raise stopping()
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            why = str(error).strip() or type(error).__name__
            what, try_ = "The landing service's catalogue does not answer", "it is tried again; its operator should look at PostgreSQL"
            raise Refused(Code.TROUBLE, what, why=why, try_=try_) from error


def _number(kind: bytes, about: bytes) -> int:
    """Advisory locks are named by 64 bits."""
    return int.from_bytes(hashlib.sha256(kind + b"\0" + about).digest()[:8], "big", signed=True)
