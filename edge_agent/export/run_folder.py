"""A complete run folder, read by its manifest, its crate and its master, as `docs/layout.md` says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from edge_agent.errors import IntegrityError, UsageError
from edge_agent.model import Access, Label

CRATE = "ro-crate-metadata.json"
MANIFEST = "manifest-sha256.txt"
BLOCK = 1 << 20
UNSAID = ("", "count", "dimensionless")
"""What the recorder writes for a unit that nobody said."""
UNLISTED = (".hsc", ".receipts")
"""What a run folder has beside what its manifest lists: the statement that signs the rest, and who holds it."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file of the run: where it is, its path in the folder, size and SHA-256."""

    path: Path
    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class RunStream:
    """A stream of the run. ``unit`` is empty where nobody said one; ``numeric`` whether its values need one."""

    key: str
    unit: str
    numeric: bool
    received: int
    missing: int
    unknown_gaps: int


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A complete run.

    Attributes:
        folder: where it is.
        crate: its RO-Crate, parsed.
        record: its run record (JSON-LD), see `edge_agent.provenance.jsonld`.
        label: who may have it.
        files: everything in it but the crate, by name.
        started, ended: ISO 8601, UTC.
        outcome: how it ended, empty where nobody said.
        received, missing: items of all streams.
        streams: what came from each source.
    """

    folder: Path
    crate: Mapping[str, Any]
    record: Mapping[str, Any]
    label: Label
    files: tuple[RunFile, ...]
    started: str
    ended: str
    outcome: str
    received: int
    missing: int
    streams: tuple[RunStream, ...] = ()

    @property
    def name(self) -> str:
        """Its number, as the folder is called."""
        return self.folder.resolve().name

    def entity(self, id_: str) -> Mapping[str, Any]:
        """An entity of the crate. Raises KeyError."""
        found: Mapping[str, Any] = next(e for e in self.crate["@graph"] if e["@id"] == id_)
        return found


def open_run(folder: Path, *, compare: bool = True) -> RunFolder:
    """Read a run folder; every file is compared with the digest that the manifest gives it, unless ``compare`` is false.

    Raises:
        UsageError: it is no complete run.
        IntegrityError: a file is missing, or is another one.
    """
    try:
        crate = json.loads((folder / CRATE).read_text(encoding="utf-8"))
        (action,) = (entity for entity in crate["@graph"] if entity.get("@type") == "CreateAction")
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        digests = {name: bytes.fromhex(digest) for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder} is no complete run", why=f"its crate or its manifest cannot be read: {error}",
            try_="give the folder of a run that has landed; the crate comes last", code="EXPORT_NO_RUN",
        ) from error  # fmt: skip
    files = [_checked(folder, name, digest, compare) for name, digest in digests.items()]
    files += [
        RunFile(path, path.name, path.stat().st_size, sha256_of(path))
        for path in sorted(folder.iterdir())
        if path.name == MANIFEST or path.suffix in UNLISTED
    ]
    said = _master(folder)
    label = said.record["policy"]["label"]
    return RunFolder(
        folder, crate, said.record, _label(label),
        tuple(sorted((file for file in files if file.name != CRATE), key=lambda file: file.name)),
        str(action["startTime"]), str(action.get("endTime", "")), said.outcome, said.received, said.missing, said.streams,
    )  # fmt: skip


def _label(said: Mapping[str, Any]) -> Label:
    bound = said.get("jurisdictions")
    return Label(Access(said["access"]), frozenset(said["allowed"]), None if bound is None else frozenset(bound))


def text(value: Any) -> str | None:
    """A value of the record, None where it is absent (``{"value": null, "reason": ...}``)."""
    return None if value is None or isinstance(value, Mapping) else str(value)


def blocks(path: Path) -> Iterator[bytes]:
    """A file, bit by bit."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _checked(folder: Path, name: str, digest: bytes, compare: bool) -> RunFile:
    path = folder / PurePosixPath(name)
    if ".." in PurePosixPath(name).parts or not path.is_file():
        raise IntegrityError(
            f"{name} is not in {folder}", why="its manifest lists it", try_="copy the whole run folder, then try again",
            code="EXPORT_CHANGED",
        )  # fmt: skip
    found = sha256_of(path) if compare else digest
    if found != digest:
        raise IntegrityError(
            f"{name} is not what the manifest says", why=f"SHA-256 {found.hex()}, the manifest has {digest.hex()}",
            try_=f"edge-agent verify {folder}", code="EXPORT_CHANGED",
        )  # fmt: skip
    return RunFile(path, name, path.stat().st_size, found)


def sha256_of(path: Path) -> bytes:
    """Digest of a file."""
    digest = hashlib.sha256()
    for block in blocks(path):
        digest.update(block)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class _Master:
    """What the file that a viewer opens says of the run."""

    record: Mapping[str, Any]
    outcome: str
    received: int
    missing: int
    streams: tuple[RunStream, ...]


def _streams(entry: h5py.Group) -> tuple[RunStream, ...]:
    """What the entry says of each source, joined by source id: its unit from the data, its numbers from the list of completeness."""
    streams = (group for device in _groups(entry["instrument"]) for group in _groups(device) if "source_id" in group.attrs)
    units = {str(group.attrs["source_id"]): _unit(group) for group in streams}
    if "tags" in entry:
        tags = entry["tags"]
        said = zip(tags["source_id"].asstr()[()], tags["units"].asstr()[()], strict=True)
        units |= {key: ("" if unit in UNSAID else unit, unit != "") for key, unit in said}
    if "completeness" not in entry:
        return ()
    counted = entry["completeness"]
    columns = (counted[name][()] for name in ("received", "missing", "gaps_of_unknown_size"))
    rows = zip(counted["source_id"].asstr()[()], *columns, strict=True)
    return tuple(RunStream(key, *units.get(key, ("", False)), *(int(n) for n in numbers)) for key, *numbers in rows)


def _groups(parent: h5py.Group) -> list[h5py.Group]:
    return [node for node in parent.values() if isinstance(node, h5py.Group)]


def _unit(group: h5py.Group) -> tuple[str, bool]:
    """The unit of a stream, and whether its values are numbers."""
    values = next((group[name] for name in ("data", "value") if name in group), None)
    if values is None:
        return "", False
    unit = str(values.attrs.get("units", ""))
    return "" if unit in UNSAID else unit, values.dtype.kind in "iufc"


def _master(folder: Path) -> _Master:
    try:
        (master,) = folder.glob("*.nxs")
        with h5py.File(master, "r") as file:
            entry = file["/entry"]
            record = json.loads(entry["provenance/data"].asstr()[()])
            Access(record["policy"]["label"]["access"])
            streams = _streams(entry)
            received, missing = (sum(getattr(stream, name) for stream in streams) for name in ("received", "missing"))
            return _Master(record, entry["outcome"].asstr()[()] if "outcome" in entry else "", received, missing, streams)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{folder} is no complete run", why=f"its .nxs file has no run record: {error}", try_=f"edge-agent verify {folder}",
            code="EXPORT_NO_RUN",
        ) from error  # fmt: skip
