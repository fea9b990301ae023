"""The TOML table of a watched folder. Pure: nothing is read.

Invariants: patterns compile; times and sizes are positive.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from adapters.files.patterns import Selection
from adapters.quantities import Bytes, Seconds
from edge_agent.adapter import AdapterConfig


class FilesConfig(AdapterConfig):
    """A folder that a vendor's program drops finished files into; they are carried byte for byte."""

    folder: Path
    """The folder to watch."""
    include: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    """Files to take: "*.tif" by their name, "scans/**/*.csv" by their path below the folder."""
    exclude: list[str] = Field(default_factory=lambda: [".*", "*~", "~$*", "*.tmp", "*.part"])
    """Files and folders to leave out. Default: hidden and temporary ones."""
    recursive: bool = True
    """Look into sub-folders."""
    settle: Seconds = 2.0
    """How long size and time of a file must stay the same before it counts as finished."""
    settle_closed: Seconds = 0.2
    """The same after a program closed the file, renamed it into place, or wrote its ready file."""
    rescan: Seconds = 5.0
    """How often the whole folder is looked through; finds what the system's notices missed."""
    polling: bool = False
    """For network shares, where the system gives no notices: rely on looking through alone."""
    ready_suffix: str | None = Field(default=None, min_length=1, max_length=64)
    """Take "scan.raw" only when "scan.raw" + this exists, as ".ready". Default: none is needed."""
    max_size: Bytes | None = Field(default=None, gt=0)
    """Larger files are left where they are and declared as missing, as "10 GB". Default: any size."""

    @field_validator("folder", mode="before")
    @classmethod
    def _is_folder(cls, value: object) -> object:
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            raise ValueError('must be a folder, as "/data/scans"')
        return value

    @field_validator("include", "exclude")
    @classmethod
    def _are_patterns(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if not pattern or pattern.startswith("/") or "\\" in pattern:
                raise ValueError(f'{pattern!r} is no pattern; write for example "*.tif" or "scans/**/*.csv"')
        return value

    @field_validator("ready_suffix")
    @classmethod
    def _is_suffix(cls, value: str | None) -> str | None:
        if value is not None and "/" in value:
            raise ValueError(f'{value!r} is no suffix; write for example ".ready"')
        return value

    def selection(self) -> Selection:
        """Which files are wanted."""
        return Selection(self.include, self.exclude)
