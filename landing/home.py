"""The folder of a landing service: where everything is, its settings, and the lock that lets only one server work in it."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydantic

from edge_agent.errors import ConfigError, UsageError

PUBLIC = r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*"
"""An address without a slash at its end."""


class S3Place(pydantic.BaseModel):
    """Where objects go in an S3 store. The keys come from where every S3 program finds them, never from here."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    endpoint: str = pydantic.Field(pattern=r"^https?://")
    """URL of the store."""
    bucket: str = pydantic.Field(min_length=1)
    """A bucket that is there already."""
    prefix: str = ""
    """Beginning of all keys, as "landing/"."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    path_style: bool = True
    """Whether the bucket stands in the path, not in the host's name."""
    ca: str = ""
    """PEM file of the store's CA; empty: the system's."""


class Settings(pydantic.BaseModel):
    """``landing.json``, written by ``init``."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str = pydantic.Field(min_length=1, max_length=64)
    """Name of the service, for people and in receipts (``store``)."""
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Names and addresses in the TLS certificate."""
    public: str = pydantic.Field(default="", pattern=f"^({PUBLIC})?$")
    """Address under which everybody sees the pages of open runs, without a slash at its end; empty: nobody does."""
    postgres: str = ""
    """PostgreSQL that has the catalogue, as libpq's connection string or URI; empty: a SQLite file in the folder."""
    s3: S3Place | None = None
    """S3 store that has the bytes; None: the folder."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below the service's folder. ``space`` is what researchers see; ``keys`` is readable by the service alone."""

    path: Path

    @property
    def settings(self) -> Path:
        """Settings."""
        return self.path / "landing.json"

    @property
    def root(self) -> Path:
        """The root certificate, PEM: public."""
        return self.path / "root.pem"

    @property
    def keys(self) -> Path:
        """Private keys and the certificates of the service."""
        return self.path / "keys"

    @property
    def space(self) -> Path:
        """Project spaces: ``space/<project>/<group>/<date>/<run>/``."""
        return self.path / "space"

    @property
    def incoming(self) -> Path:
        """Uploads that are not complete, or not yet checked."""
        return self.path / "incoming"

    @property
    def refused(self) -> Path:
        """Bytes that were refused, each with its reason."""
        return self.path / "refused"

    @property
    def catalogue(self) -> Path:
        """The SQLite catalogue."""
        return self.path / "catalogue.sqlite"

    @property
    def address(self) -> Path:
        """``{"url": ...}`` of the running server, for ``token``."""
        return self.path / "serve.json"

    def create(self, settings: Settings) -> None:
        """Make the folders and write the settings.

        Raises:
            UsageError: there is a landing service in the folder already.
        """
        if self.settings.exists():
            raise UsageError(
                f"{self.path} is a landing service already", try_="choose another folder, or serve this one", code="LANDING_EXISTS"
            )
        for folder in (self.path, self.space, self.incoming, self.refused):
            folder.mkdir(parents=True, exist_ok=True)
        self.keys.mkdir(mode=0o700, exist_ok=True)
        self.settings.write_text(settings.model_dump_json(indent=2) + "\n")

    def load(self) -> Settings:
        """Read the settings.

        Raises:
            ConfigError: no landing service here, or its settings are broken.
        """
        try:
            return Settings.model_validate_json(self.settings.read_bytes())
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.path} is no landing service", why="no landing.json in it", try_=f'python -m landing init {self.path} --name "..."'
            ) from error
        except pydantic.ValidationError as error:
            raise ConfigError(f"{self.settings} cannot be read", why=str(error)) from error

    def announce(self, url: str) -> None:
        """Write down where the server is."""
        write_durably(self.address, json.dumps({"url": url}).encode())

    def announced(self) -> str:
        """The URL that the server wrote down last.

        Raises:
            UsageError: it never ran.
        """
        try:
            return str(json.loads(self.address.read_bytes())["url"])
        except (OSError, ValueError, KeyError) as error:
            raise UsageError("The service never ran, so its URL is not known", try_="start it, or give --url https://...") from error

    def lock(self) -> IO[bytes]:
        """Hold the folder for one server; released when the file is closed or the process dies.

        Raises:
            UsageError: another server works in it.
        """
        file = (self.path / "serve.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UsageError(f"Another server works in {self.path}", try_="stop it first", code="LANDING_LOCKED") from error
        return file


def sync(path: Path) -> None:
    """``fsync`` of what is there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """``fsync`` of a folder: makes the names in it durable."""
    sync(folder)


def make_folders(folder: Path, above: Path) -> None:
    """Create ``folder`` below ``above``, each new name made durable."""
    missing = []
    while folder != above and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def write_durably(path: Path, data: bytes, mode: int = 0o640) -> None:
    """Replace a small file atomically and durably."""
    part = path.with_name(path.name + ".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)
