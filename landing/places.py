"""Where this landing service's catalogue and bytes are, by its settings."""

from __future__ import annotations

from landing.catalogue import Catalogue
from landing.database.sqlite import SqliteDatabase
from landing.home import Home
from landing.store import Store
from landing.store.directory import DirectoryStore


def open_catalogue(home: Home) -> Catalogue:
    """The catalogue; the caller closes it."""
    return Catalogue(SqliteDatabase(home.catalogue))


def open_store(home: Home) -> Store:
    """Where the bytes are; the caller closes it."""
    return DirectoryStore(home)
