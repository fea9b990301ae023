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

    @property
    def name(self) -> str:
        """Its number, as the folder is called."""
        return self.folder.resolve().name

    def entity(self, id_: str) -> Mapping[str, Any]:
        """An entity of the crate. Raises KeyError."""
        found: Mapping[str, Any] = next(e for e in self.crate["@graph"] if e["@id"] == id_)
        return found


def open_run(folder: Path) -> RunFolder:
    """Read a run folder; every file is compared with the digest that the manifest gives it.

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
    files = [_checked(folder, name, digest) for name, digest in digests.items()]
    files += [
        RunFile(path, path.name, path.stat().st_size, _digest(path))
        for path in sorted(folder.iterdir())
        if path.name == MANIFEST or path.suffix in UNLISTED
    ]
    said = _master(folder)
    label = said.record["policy"]["label"]
    return RunFolder(
        folder, crate, said.record, _label(label),
        tuple(sorted((file for file in files if file.name != CRATE), key=lambda file: file.name)),
        str(action["startTime"]), str(action.get("endTime", "")), said.outcome, said.received, said.missing,
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


def _checked(folder: Path, name: str, digest: bytes) -> RunFile:
    path = folder / PurePosixPath(name)
    if ".." in PurePosixPath(name).parts or not path.is_file():
        raise IntegrityError(
            f"{name} is not in {folder}", why="its manifest lists it", try_="copy the whole run folder, then try again",
            code="EXPORT_CHANGED",
        )  # fmt: skip
    found = _digest(path)
    if found != digest:
        raise IntegrityError(
            f"{name} is not what the manifest says", why=f"SHA-256 {found.hex()}, the manifest has {digest.hex()}",
            try_=f"edge-agent verify {folder}", code="EXPORT_CHANGED",
        )  # fmt: skip
    return RunFile(path, name, path.stat().st_size, found)


def _digest(path: Path) -> bytes:
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


def _master(folder: Path) -> _Master:
    try:
        (master,) = folder.glob("*.nxs")
        with h5py.File(master, "r") as file:
            entry = file["/entry"]
            record = json.loads(entry["provenance/data"].asstr()[()])
            Access(record["policy"]["label"]["access"])
            counted = entry.get("completeness")
            received, missing = (0 if counted is None else int(counted[name][()].sum()) for name in ("received", "missing"))
            return _Master(record, entry["outcome"].asstr()[()] if "outcome" in entry else "", received, missing)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{folder} is no complete run", why=f"its .nxs file has no run record: {error}", try_=f"edge-agent verify {folder}",
            code="EXPORT_NO_RUN",
        ) from error  # fmt: skip
