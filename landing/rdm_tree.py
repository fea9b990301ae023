"""What a rehearsal GakuNin RDM keeps: projects with storages, in them folders and files with versions; a folder on disk and one index."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = "/"


@dataclass(slots=True)
class Version:
    """One version of a file; digests are hex, as the service writes them."""

    blob: str
    size: int
    md5: str
    sha256: str
    sha512: str


@dataclass(slots=True)
class Entry:
    """A folder (no versions) or a file; ``parent`` is the id of its folder, "/" for the top."""

    id: str
    node: str
    provider: str
    parent: str
    name: str
    kind: str
    versions: list[Version] = field(default_factory=list)


class Taken(Exception):
    """There is an entry of this name."""


class Absent(Exception):
    """There is no such entry."""


class Full(Exception):
    """The quota of the project's creator is used up."""


class Incoming:
    """A body on its way into a blob, hashed as it comes; what is cut leaves nothing behind but an orphan."""

    def __init__(self, folder: Path) -> None:
        """Begin."""
        self.blob = secrets.token_hex(12)
        self._file = (folder / self.blob).open("xb")
        self._size = 0
        self._digests = [hashlib.md5(usedforsecurity=False), hashlib.sha256(), hashlib.sha512()]

    def write(self, data: bytes) -> None:
        """Take more."""
        self._file.write(data)
        self._size += len(data)
        for digest in self._digests:
            digest.update(data)

    def end(self) -> Version:
        """All is there."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Version(self.blob, self._size, *(digest.hexdigest() for digest in self._digests))

    def give_up(self) -> None:
        """The connection broke."""
        self._file.close()


class Tree:
    """All entries; every change is in the index before it is answered."""

    def __init__(self, folder: Path, quota: int) -> None:
        """Open or begin. ``quota`` in bytes over all projects."""
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.quota = quota
        self._index = folder / "index.json"
        self.entries: dict[str, Entry] = {}
        if self._index.exists():
            for raw in json.loads(self._index.read_text()):
                versions = [Version(**version) for version in raw.pop("versions")]
                self.entries[raw["id"]] = Entry(**raw, versions=versions)

    def check_room(self, size: int) -> None:
        """Raise `Full` where ``size`` bytes more are too many."""
        if sum(version.size for entry in self.entries.values() for version in entry.versions) + size > self.quota:
            raise Full

    def entry(self, node: str, provider: str, id_: str, kind: str) -> Entry:
        """An entry by its id. Raises `Absent`."""
        found = self.entries.get(id_)
        if found is None or (found.node, found.provider, found.kind) != (node, provider, kind):
            raise Absent
        return found

    def children(self, node: str, provider: str, parent: str) -> list[Entry]:
        """What is in a folder. Raises `Absent`."""
        if parent != ROOT:
            self.entry(node, provider, parent, "folder")
        return [e for e in self.entries.values() if (e.node, e.provider, e.parent) == (node, provider, parent)]

    def check_name(self, node: str, provider: str, parent: str, name: str) -> str:
        """The name as it is kept: NFC. Raises `Taken`, `Absent`."""
        kept = unicodedata.normalize("NFC", name)
        if any(entry.name == kept for entry in self.children(node, provider, parent)):
            raise Taken
        return kept

    def add(self, node: str, provider: str, parent: str, name: str, version: Version | None) -> Entry:
        """A new folder, or with ``version`` a new file. Raises `Taken`, `Absent`."""
        kept = self.check_name(node, provider, parent, name)
        made = Entry(secrets.token_hex(12), node, provider, parent, kept, "folder" if version is None else "file")
        made.versions = [] if version is None else [version]
        self.entries[made.id] = made
        self._keep()
        return made

    def add_version(self, entry: Entry, version: Version) -> bool:
        """A new version of a file; False where it has the content of the last one, and nothing is added."""
        if entry.versions[-1].sha256 == version.sha256:
            return False
        entry.versions.append(version)
        self._keep()
        return True

    def remove(self, entry: Entry) -> None:
        """An entry and what is below it."""
        for child in [e for e in self.entries.values() if e.parent == entry.id]:
            self.remove(child)
        del self.entries[entry.id]
        self._keep()

    def materialized(self, entry: Entry) -> str:
        """Its path for people."""
        above = "/" if entry.parent == ROOT else self.materialized(self.entries[entry.parent])
        return f"{above}{entry.name}{'/' if entry.kind == 'folder' else ''}"

    def _keep(self) -> None:
        part = self._index.with_suffix(".part")
        raw: list[dict[str, Any]] = [asdict(entry) for entry in self.entries.values()]
        part.write_text(json.dumps(raw))
        part.replace(self._index)
