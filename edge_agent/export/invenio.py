"""InvenioRDM (Zenodo and many institutions' repositories): a landed run as a draft, which a person looks at and publishes.

The API was read in its documentation (docs-invenio-rdm, ``rest_api_drafts_records``). A draft is found again by the run's URN among its
identifiers, so that an attempt that broke off goes on in it: what is complete with our MD5 stays, everything else is sent anew. Files lie
flat there: what a vendor's program wrote is one zip, ``files.zip``, which unpacks to the run folder's own ``files/``.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, TargetUnreachable
from edge_agent.export.about import About, about, family_and_given
from edge_agent.export.datacite import NOBODY
from edge_agent.export.repository import check, talking
from edge_agent.export.run_folder import CRATE, RunFolder, blocks
from edge_agent.export.zips import write_zip
from edge_agent.provenance.policy import ObjectKind

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=600)
VENDOR = "files/"
ZIPPED = "files.zip"


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft with all files of a run.

    Attributes:
        id: of the record.
        page: where a person looks at it and publishes it.
        made: whether it was made now.
        problems: what the repository wants before it can be published.
    """

    id: str
    page: str
    made: bool
    problems: tuple[str, ...]


def draft(run: RunFolder) -> dict[str, Any]:
    """The body of ``POST /records``: nothing is public before a person publishes it, and files of a run that is not open never are."""
    said = about(run)
    files = "public" if said.access.value == "open" and said.embargo is None else "restricted"
    return {
        "access": {"record": "public" if files == "public" else "restricted", "files": files},
        "files": {"enabled": True},
        "metadata": {
            "resource_type": {"id": "dataset"}, "title": said.title, "publication_date": said.published, "description": said.description,
            "creators": [_creator(said)], "identifiers": [{"identifier": said.urn, "scheme": "urn"}],
            **({"publisher": said.organisation} if said.organisation else {}),
            **({"rights": [_rights(said)]} if said.licence else {}),
        },
    }  # fmt: skip


async def send(run: RunFolder, api: str, token: str) -> Draft:
    """Make a draft of a run, or complete the one that there is.

    Args:
        run: a landed run; the policy is asked.
        api: as "https://zenodo.org/api".
        token: personal access token that may write.

    Raises:
        PolicyRefused: the run's label does not let it go there.
        PermissionRefused: the repository refuses it, or has it published already (INVENIO_THERE).
        IntegrityError: it got other bytes than were sent.
        TargetUnreachable: no answer, or a passing fault; try again.
    """
    check(run, api, ObjectKind.DATA)
    async with talking(api, token, TIMEOUT, "INVENIO_TROUBLE") as session:
        with tempfile.TemporaryDirectory() as scratch:
            files = await asyncio.to_thread(_files, run, Path(scratch))
            repository = _Repository(session, api.rstrip("/"))
            there = await repository.find(str(run.record["@id"]))
            record = there or await repository.ask("POST", "/records", body=draft(run))
            present = await repository.present(record["id"])
            for name, path in files:
                await repository.upload(record["id"], name, path, present.get(name))
            return Draft(record["id"], str(record.get("links", {}).get("self_html", "")), there is None, _problems(record))


class _Repository:
    def __init__(self, session: aiohttp.ClientSession, api: str) -> None:
        self._session = session
        self._api = api

    async def ask(self, method: str, path: str, *, body: Any = None, file: Any = None, also: Sequence[int] = ()) -> Any:
        """One request; what the JSON of its answer says, None without one."""
        more: dict[str, Any] = {"json": body} if file is None else {"data": file, "headers": {"Content-Type": "application/octet-stream"}}
        async with self._session.request(method, f"{self._api}{path}", allow_redirects=False, **more) as response:
            if response.status in (200, 201, *also):
                return await response.json(content_type=None)
            if response.status == 204:
                return None
            raise _refusal(response.status, f"HTTP status {response.status}: {(await response.text())[:300]}")

    async def find(self, urn: str) -> Mapping[str, Any] | None:
        """The draft of a run among those of the token's owner."""
        wanted = quote(f'metadata.identifiers.identifier:"{urn}"', safe="")
        found = await self.ask("GET", f"/user/records?q={wanted}&size=1")
        record: Mapping[str, Any] | None = next(iter(found["hits"]["hits"]), None)
        if record is not None and record["is_published"]:
            raise PermissionRefused(
                "The repository has published this run", why=f"it is record {record['id']}",
                try_="make a new version of the record there, by hand", code="INVENIO_THERE",
            )  # fmt: skip
        return record

    async def present(self, record: str) -> dict[str, str]:
        """MD5 (``md5:...``) of each file of the draft, by name; empty for what is not complete."""
        listed = (await self.ask("GET", f"/records/{record}/draft/files"))["entries"]
        return {entry["key"]: entry.get("checksum") or "" if entry.get("status") == "completed" else "" for entry in listed}

    async def upload(self, record: str, name: str, path: Path, known: str | None) -> None:
        """Send one file, unless the draft has it; ``known`` is None where it does not know the name.

        Raises:
            IntegrityError: it says another MD5.
        """
        md5 = f"md5:{await asyncio.to_thread(_md5, path)}"
        if known == md5:
            return
        files, place = f"/records/{record}/draft/files", f"/records/{record}/draft/files/{quote(name, safe='')}"
        if known is not None:
            await self.ask("DELETE", place)
        await self.ask("POST", files, body=[{"key": name}])
        with await asyncio.to_thread(path.open, "rb") as file:
            await self.ask("PUT", f"{place}/content", file=file)
        said = await self.ask("POST", f"{place}/commit")
        if said["checksum"] != md5:
            raise IntegrityError(
                f"{name} is not in the draft as it was sent", why=f"the repository has {said['checksum']}, here it is {md5}",
                try_="try again: it is sent anew", code="INVENIO_WRONG_BYTES",
            )  # fmt: skip


def _files(run: RunFolder, scratch: Path) -> list[tuple[str, Path]]:
    """What is sent, by name, the crate last: where it is, the draft is whole."""
    own = [(file.name, file.path) for file in run.files if not file.name.startswith(VENDOR) and file.name != CRATE]
    vendor = [(file.name, file.path) for file in run.files if file.name.startswith(VENDOR)]
    if vendor:
        write_zip(scratch / ZIPPED, vendor)
        own.append((ZIPPED, scratch / ZIPPED))
    return [*own, (CRATE, run.folder / CRATE)]


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for block in blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _creator(said: About) -> dict[str, Any]:
    if said.name is None and said.orcid is None:
        return {"person_or_org": {"type": "organizational", "name": said.organisation or NOBODY}}
    family, given = family_and_given(said.name or NOBODY)
    person: dict[str, Any] = {"type": "personal", "family_name": family, **({"given_name": given} if given else {})}
    if said.orcid is not None:
        person["identifiers"] = [{"scheme": "orcid", "identifier": said.orcid}]
    return {"person_or_org": person, **({"affiliations": [{"name": said.organisation}]} if said.organisation else {})}


def _rights(said: About) -> dict[str, Any]:
    made: dict[str, Any] = {"title": {"en": said.licence}}
    return made if said.licence_page is None else {**made, "link": said.licence_page}


def _problems(record: Mapping[str, Any]) -> tuple[str, ...]:
    """A draft is kept with what is wrong with it, and says so."""
    return tuple(f"{each.get('field')}: {', '.join(map(str, each.get('messages', [])))}" for each in record.get("errors", []))


def _refusal(status: int, why: str) -> EdgeAgentError:
    if status in (408, 429) or status >= 500:
        return TargetUnreachable("The repository is busy or in trouble", why=why, try_="try again later", code="INVENIO_TROUBLE")
    cures = {401: "make a new token", 403: "the token's owner needs the right to make records", 413: "ask the repository for more room"}
    return PermissionRefused("The repository refuses the run", why=why, try_=cures.get(status, "see why"), code="INVENIO_REFUSED")
