"""The TOML table of a watched folder. Pure: nothing is read.

Invariants: patterns compile; times and sizes are positive.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator

from adapters.files.ingest import IngestConfig
from adapters.files.patterns import Selection, compile_template
from adapters.files.ready import ReadyFiles
from adapters.files.sets import Sets
from adapters.quantities import Bytes, Seconds
from edge_agent.adapter import AdapterConfig

PROJECT = "[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
"""What a project may be called; a folder of another name names none."""


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
    """Short for ready = "{name}" + this: take "scan.raw" only when "scan.raw.ready" exists."""
    ready: str | None = Field(default=None, max_length=200)
    """Take a file only when this one exists: "{stem}.done" (scan.done for scan.raw), "DONE" or "{folder}.ready" in its folder, or
    "../{folder}.ready" beside it. Default: none is needed."""
    together: list[list[str]] = Field(default_factory=list)
    """Files that are one item: [["{name}.img", "{name}.hdr"]] takes an image with its header, once both are finished, into one run."""
    project_from: str | None = None
    """The project of a file by its path below the folder: "{project}/**" is the first folder. Default: the run's or the instrument's."""
    headers: bool = False
    """Read the headers of CSV, TIFF and HDF5 files, in a process of its own, for the run record and the preview."""
    ingest: IngestConfig | None = None
    """Make signed chunks of the values in CSV and TIFF files. Default: files stay files."""
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

    @field_validator("together")
    @classmethod
    def _are_sets(cls, value: list[list[str]]) -> list[list[str]]:
        if any(len(entry) < 2 for entry in value):
            raise ValueError('each entry needs two templates or more, as ["{name}.img", "{name}.hdr"]')
        Sets(value)
        return value

    @field_validator("project_from")
    @classmethod
    def _is_template(cls, value: str | None) -> str | None:
        if value is not None:
            compile_template(value, "project", PROJECT)
        return value

    @field_validator("ready_suffix")
    @classmethod
    def _is_suffix(cls, value: str | None) -> str | None:
        if value is not None and "/" in value:
            raise ValueError(f'{value!r} is no suffix; write for example ".ready"')
        return value

    @field_validator("ready")
    @classmethod
    def _is_ready_file(cls, value: str | None) -> str | None:
        if value is not None:
            ReadyFiles(value, "")
        return value

    @model_validator(mode="after")
    def _is_ready_in_one_way(self) -> FilesConfig:
        if self.ready is not None and self.ready_suffix is not None:
            raise ValueError("ready and ready_suffix say the same; leave ready_suffix out")
        return self

    def ready_files(self, root: str) -> ReadyFiles | None:
        """The ready files below the folder that is called ``root``; None: none are needed."""
        template = f"{{name}}{self.ready_suffix}" if self.ready_suffix is not None else self.ready
        return None if template is None else ReadyFiles(template, root)

    def selection(self) -> Selection:
        """Which files are wanted."""
        return Selection(self.include, self.exclude)

    def project_of(self, path: str) -> str:
        """The project that a path below the folder names; empty: none."""
        if self.project_from is None:
            return ""
        found = compile_template(self.project_from, "project", PROJECT).fullmatch(path)
        return "" if found is None else found["project"]
