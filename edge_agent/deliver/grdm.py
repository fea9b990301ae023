"""GakuNin RDM as a target: one PUT a file over WaterButler v1, and the digest that the storage returns compared.

Not resumable: a cut upload leaves no entry and is sent again from the start. Folders and files are found by their NFC names and
addressed by ids, never by paths built from names. A name that is taken (409) is the ordinary answer to a second attempt: the same content
is a success, other content a conflict, unless it is a revision of the receipts. Where a storage returns no SHA-256 the file is read back.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.deliver.grdm_talk import Talk
from edge_agent.deliver.outgoing import OutgoingFile
from edge_agent.deliver.pace import UNLIMITED, Pace
from edge_agent.deliver.target import Capabilities, Progress
from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.model import ItemKind, OutboxItem, Proof, Receipt, utc_now_ns

BLOCK = 256 << 10
ASK_FIRST = 1 << 20
"""From this size on the service is asked before the body is sent (``Expect: 100-continue``): quota and rights are checked then."""
OSFSTORAGE = "osfstorage"
MOST_NAMED = 20
"""Projects that a message names."""


@dataclass(frozen=True, slots=True)
class Project:
    """Where the data of a project goes: the id of its node, and the storage that was found there."""

    node: str
    provider: str

    @property
    def base(self) -> str:
        """Beginning of all paths."""
        return f"/v1/resources/{self.node}/providers/{self.provider}"


@dataclass(frozen=True, slots=True)
class _Found:
    """A file as the service describes it; ``sha256`` is None where the storage says none."""

    path: str
    size: int
    sha256: bytes | None


class GrdmTarget:
    """See `edge_agent.deliver.target.Target`."""

    def __init__(
        self, name: str, talk: Talk, nodes: Mapping[str, str], default_node: str | None, storage: str | None, largest: int,
        *, pace: Pace = UNLIMITED,
    ) -> None:  # fmt: skip
        """Prepare; nothing is connected yet.

        Args:
            name: in the configuration.
            talk: the connection.
            nodes: node id of each project of ours.
            default_node: node of projects that are not in ``nodes``; None: they are refused.
            storage: provider to use; None: the only one, or "osfstorage" where it is among several.
            largest: bytes of the largest file that the service takes.
            pace: how fast it is filled.
        """
        self._name = name
        self._talk = talk
        self._nodes = dict(nodes)
        self._default = default_node
        self._storage = storage
        self._largest = largest
        self._pace = pace
        self._projects: dict[str, Project] = {}
        self._writable = ""
        self._folders: dict[tuple[str, ...], str] = {}
        self._making = asyncio.Lock()

    @property
    def name(self) -> str:
        """Name in the configuration."""
        return self._name

    async def probe(self) -> Capabilities:
        """See `Target.probe`. Finds the storage of each project, and which projects the token may write to."""
        self._talk.renew()
        self._folders.clear()
        self._projects.clear()
        await self._talk.api("/users/me/")
        for node in sorted({*self._nodes.values(), *([self._default] if self._default else [])}):
            self._projects[node] = Project(node, await self._provider(node))
        self._writable = await self._may_write_to()
        found = ", ".join(f"{project.node} ({project.provider})" for project in self._projects.values())
        return Capabilities(self._largest, False, Proof.STORE_DIGEST, f"GakuNin RDM at {self._talk.files}: {found}")

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """See `Target.send`."""
        project = self._project(item)
        *folders, leaf = (_nfc(part) for part in item.remote.split("/"))
        if not leaf or any(part in ("", ".", "..") for part in folders):
            raise IntegrityError(
                f"{self._name}: {item.remote} cannot be the name of a file", why="a part of it is empty, '.' or '..'",
                try_="rename it at its source", code="TARGET_PATH",
            )  # fmt: skip
        try:
            folder = await self._folder(project, folders)
            sha256, said = await self._upload(project, item, f"{folder}?kind=file&name=", leaf, progress)
        except _Conflict:
            return await self._there_already(project, item, folder, leaf, progress)
        except _Moved as error:
            # Somebody moved or removed a folder that we remember.
            self._folders.clear()
            raise TargetUnreachable(
                f"{self._name}: a folder of {item.remote} is gone", why=str(error), try_="it is made again by itself", code="GRDM_MOVED"
            ) from error
        if await self._proof(project, item, sha256, said) is None:
            # Spoilt on the way or by the storage: once more, as a new version of the same file.
            sha256, said = await self._upload(project, item, f"{project.base}{said.path}?kind=file", "", progress)
        return await self._receipt(project, item, sha256, said)

    async def close(self) -> None:
        """See `Target.close`."""
        await self._talk.close()

    # ---- places

    def _project(self, item: OutboxItem) -> Project:
        node = self._nodes.get(item.project, self._default)
        if node is None:
            known_here = ", ".join(self._nodes) or "none"
            raise PermissionRefused(
                f"{self._name}: no GakuNin RDM project is given for {item.project}",
                why=f"known: {known_here}; the token may write to {self._writable or 'no project'}",
                try_=f'add it to the target: nodes = {{ {item.project} = "abc12" }}; then restart', code="GRDM_NO_PROJECT",
            )  # fmt: skip
        known = self._projects.get(node)
        if known is None:
            raise TargetUnreachable(f"{self._name}: not probed yet", try_="it is tried again by itself", code="GRDM_TROUBLE")
        return known

    async def _may_write_to(self) -> str:
        """Projects with their titles, for whoever configures the target.

        Which of them belongs to a project of ours is never guessed from a title: anybody may give a project any title, and share it.
        """
        try:
            answer = await self._talk.api(f"/nodes/?filter%5Bcurrent_user_permissions%5D=write&page%5Bsize%5D={MOST_NAMED}")
            named = [f"{node['id']} ({node['attributes']['title']})" for node in answer.entries()]
        except (EdgeAgentError, KeyError):
            # Nothing is sent by it.
            return "projects that the service does not list"
        return ", ".join([*named, *(["others"] if len(named) == MOST_NAMED else [])])

    async def _provider(self, node: str) -> str:
        answer = await self._talk.api(f"/nodes/{node}/files/")
        there = [str(entry["attributes"]["provider"]) for entry in answer.entries()]
        wanted = self._storage or (there[0] if len(there) == 1 else OSFSTORAGE)
        if wanted not in there:
            raise PermissionRefused(
                f"{self._name}: project {node} has no storage {wanted}", why=f"it has {', '.join(there) or 'none'}",
                try_='name one of them: storage = "..."; then edge-agent kick', code="GRDM_NO_STORAGE",
            )  # fmt: skip
        return wanted

    async def _folder(self, project: Project, names: list[str]) -> str:
        """Address of a folder; what is missing of it is made."""
        async with self._making:
            place = f"{project.base}/"
            for depth in range(1, len(names) + 1):
                key = (project.node, *names[:depth])
                if key not in self._folders:
                    self._folders[key] = await self._subfolder(project, place, names[depth - 1])
                place = self._folders[key]
            return place

    async def _subfolder(self, project: Project, above: str, name: str) -> str:
        made = await self._talk.put(f"{above}?kind=folder&name=", name, b"", also=frozenset({404, 409}))
        if made.status == 404:
            raise _Moved(above)
        entry = made.entry() if made.status != 409 else await self._find(above, name, "folder")
        return f"{project.base}{entry['attributes']['path']}"

    async def _find(self, folder: str, name: str, kind: str) -> Mapping[str, Any]:
        """An entry of a folder by name.

        Raises:
            TargetUnreachable: it is said to be there, and is not listed.
            IntegrityError: it is of the other kind.
        """
        for entry in await self._talk.listing(folder):
            if _nfc(str(entry["attributes"]["name"])) == name:
                if entry["attributes"]["kind"] != kind:
                    raise IntegrityError(
                        f"{self._name}: {name} is there already, and is not a {kind}", why=f"it is a {entry['attributes']['kind']}",
                        try_="move it away in GakuNin RDM, then edge-agent quarantine retry", code="TARGET_CONFLICT",
                    )  # fmt: skip
                return entry
        raise TargetUnreachable(
            f"{self._name}: {name} is said to be there and is not listed", why=folder, try_="it is tried again by itself",
            code="GRDM_TROUBLE",
        )  # fmt: skip

    # ---- one file

    async def _upload(self, project: Project, item: OutboxItem, place: str, name: str, progress: Progress) -> tuple[bytes, _Found]:
        """Send the file; its digest, and what the service says of it."""
        with await asyncio.to_thread(OutgoingFile, item) as file:
            body = _blocks(file, item.size, progress, self._pace)
            answer = await self._talk.put(
                place, name, body, size=item.size, ask_first=item.size >= ASK_FIRST, also=frozenset({404, 409})
            )  # fmt: skip
            if answer.status == 409:
                raise _Conflict
            if answer.status == 404:
                raise _Moved(place)
            sha256 = await asyncio.to_thread(file.sha256)
        progress(item.size)
        return sha256, _found(answer.entry())

    async def _there_already(self, project: Project, item: OutboxItem, folder: str, name: str, progress: Progress) -> Receipt:
        """The name is taken: by the same content, by a revision of it, or by something else."""
        entry = await self._find(folder, name, "file")
        said = _found(entry)
        with await asyncio.to_thread(OutgoingFile, item) as file:
            sha256 = await asyncio.to_thread(file.sha256)
        if await self._proof(project, item, sha256, said) is not None:
            progress(item.size)
            return await self._receipt(project, item, sha256, said)
        if item.kind is not ItemKind.RECEIPTS:
            raise IntegrityError(
                f"{self._name}: there is another file under {item.remote}", why=f"it is not the item with SHA-256 {sha256.hex()}",
                try_="look at both; move the one in GakuNin RDM away if it does not belong there, then edge-agent quarantine retry",
                code="TARGET_CONFLICT",
            )  # fmt: skip
        sha256, said = await self._upload(project, item, f"{project.base}{said.path}?kind=file", "", progress)
        return await self._receipt(project, item, sha256, said)

    async def _receipt(self, project: Project, item: OutboxItem, sha256: bytes, said: _Found) -> Receipt:
        proof = await self._proof(project, item, sha256, said)
        if proof is None:
            raise IntegrityError(
                f"{self._name}: {item.remote} is not what was sent", why="the storage says that it holds other bytes than it acknowledged",
                try_="look at the storage before anything else is put there; the spool keeps the item", code="READ_BACK_DIFFERS",
            )  # fmt: skip
        return Receipt(self._name, item.item_id, sha256, item.size, proof, utc_now_ns())

    async def _proof(self, project: Project, item: OutboxItem, sha256: bytes, said: _Found) -> Proof | None:
        """What kind of proof there is that our bytes are there; None: others are."""
        if said.size != item.size:
            return None
        if said.sha256 is not None:
            return Proof.STORE_DIGEST if said.sha256 == sha256 else None
        digest = hashlib.sha256()
        async for block in self._talk.read(f"{project.base}{said.path}"):
            digest.update(block)
        return Proof.READ_BACK if digest.digest() == sha256 else None


class _Conflict(Exception):
    """409: the name is taken."""


class _Moved(Exception):
    """404: a folder or file that we remember is not there."""


def _found(entry: Mapping[str, Any]) -> _Found:
    """Some storages put their digests one level deeper, under their own name; what is not a SHA-256 in hex is none."""
    said = entry["attributes"]
    hashes = said.get("extra", {}).get("hashes") or {}
    nested = hashes.get(said.get("provider"))
    text = (nested if isinstance(nested, dict) else hashes).get("sha256")
    try:
        sha256 = bytes.fromhex(text) if isinstance(text, str) and len(text) == 64 else None
    except ValueError:
        sha256 = None
    return _Found(str(said["path"]), int(said.get("sizeInt") or said.get("size") or 0), sha256)


def _nfc(name: str) -> str:
    """As the service keeps names."""
    return unicodedata.normalize("NFC", name)


async def _blocks(file: OutgoingFile, size: int, progress: Callable[[int], None], pace: Pace) -> AsyncIterator[bytes]:
    """The file, block by block, read in a thread."""
    for offset in range(0, size, BLOCK):
        if wait := pace.delay(min(BLOCK, size - offset)):
            await asyncio.sleep(wait)
        yield await asyncio.to_thread(file.read, offset, BLOCK)
        progress(min(offset + BLOCK, size))

