"""Where this landing service's catalogue and bytes are, by its settings."""

from __future__ import annotations

from edge_agent.errors import ConfigError
from landing.catalogue import Catalogue
from landing.database.sqlite import SqliteDatabase
from landing.home import Home
from landing.ledger import Ledger
from landing.store import Store
from landing.store.directory import DirectoryStore


def open_catalogue(home: Home) -> Catalogue:
    """The catalogue; the caller closes it.

    Raises:
        ConfigError: no landing service here, or what its catalogue needs is not installed.
        Refused: TROUBLE, PostgreSQL does not answer.
    """
    where = home.load().postgres
    if not where:
        return Catalogue(SqliteDatabase(home.catalogue))
    try:
        from landing.database.postgres import PostgresDatabase
    except ImportError as error:
        raise ConfigError(
            "The catalogue is in PostgreSQL, and its driver is not installed", why=str(error),
            try_='pip install "edge-agent-daq[postgres]"', code="LANDING_DRIVER",
        ) from error  # fmt: skip
    return Catalogue(PostgresDatabase(where))


def open_store(home: Home, catalogue: Catalogue) -> Store:
    """Where the bytes are; the caller closes it before the catalogue.

    Raises:
        ConfigError: no landing service here, no such bucket, or what its store needs is not installed.
        Refused: TROUBLE, the catalogue or the store does not answer.
    """
    place = home.load().s3
    if place is None:
        return DirectoryStore(home)
    try:
        from landing.store.bucket import Bucket
        from landing.store.s3 import S3Store
    except ImportError as error:
        raise ConfigError(
            "The bytes are in an S3 store, and its driver is not installed", why=str(error),
            try_='pip install "edge-agent-daq[s3]"', code="LANDING_DRIVER",
        ) from error  # fmt: skip
    bucket = Bucket(place)
    bucket.reach()
    store = S3Store(bucket, Ledger(catalogue.database), shared=catalogue.database.shared)
    store.tidy()
    return store
