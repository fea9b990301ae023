"""SciCat: a landed run registered as a raw dataset with one block of original files. The catalogue carries no bytes.

What the API (v4) takes was read in its source (SciCatProject/scicat-backend-next, ``datasets/dto``, ``origdatablocks/dto``,
``common/dto/datafile.dto.ts``): ``ownerGroup``, ``contactEmail``, ``sourceFolder``, ``creationTime``, ``datasetName`` and ``type`` are
mandatory, a raw dataset also says where it was made; what is not in the lists is refused. Only some accounts may choose a pid, so none is
sent: a run that is there already is found by its id in the scientific metadata, and is not registered twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import aiohttp

from edge_agent.errors import EdgeAgentError, PermissionRefused, TargetUnreachable
from edge_agent.export.repository import check, talking
from edge_agent.export.run_folder import CRATE, RunFolder, open_run, text
from edge_agent.provenance.policy import ObjectKind

TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=30)
RUN_ID = "run_id"
CARRIED = (ObjectKind.METADATA, ObjectKind.NAME)
"""What the catalogue gets of a run."""


@dataclass(frozen=True, slots=True)
class Place:
    """What only the site knows.

    Attributes:
        api: as "https://scicat.example.ac.jp/api/v4".
        owner_group: who owns the dataset there.
        access_groups: who else may see it.
        contact: mail address of a person.
        source: absolute path or address of the project space, as the catalogue's users see it.
        location: where it was made, as "/KEK/PF/BL05".
    """

    api: str
    owner_group: str
    contact: str
    source: str
    location: str
    access_groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """The dataset's pid, and whether it was made now."""

    pid: str
    made: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of many runs."""

    folder: Path
    result: Registered | EdgeAgentError


def dataset(run: RunFolder, place: Place) -> dict[str, Any]:
    """The body of ``POST /datasets``; what the record does not know is left out."""
    record = run.record
    operator = record.get("operator")
    owner = text(operator.get("name")) if isinstance(operator, Mapping) else text(operator)
    licence = next((e.get("license") for e in run.crate["@graph"] if e["@id"] == "./"), None)
    known = {
        "owner": owner,
        "license": licence.get("@id") if isinstance(licence, Mapping) else text(licence),
        "startTime": _time(run.started), "endTime": _time(run.ended) if run.ended else None,
    }  # fmt: skip
    title = text(record.get("title"))
    return {
        "type": "raw", "ownerGroup": place.owner_group, "accessGroups": list(place.access_groups), "contactEmail": place.contact,
        "sourceFolder": _folder(run, place), "creationTime": _time(run.ended or run.started), "creationLocation": place.location,
        "datasetName": title or f"{record['project']['name']} {run.name}", "runNumber": run.name, "isPublished": False,
        "dataFormat": "NeXus/HDF5", "size": sum(file.size for file in run.files), "numberOfFiles": len(run.files),
        "scientificMetadata": {
            RUN_ID: {"value": record["runId"], "unit": ""}, "outcome": {"value": run.outcome, "unit": ""},
            "received": {"value": run.received, "unit": ""}, "missing": {"value": run.missing, "unit": ""},
            "access": {"value": run.label.access.value, "unit": ""},
        },
        **{key: value for key, value in known.items() if value},
    }  # fmt: skip


def block(run: RunFolder, place: Place, pid: str) -> dict[str, Any]:
    """The body of ``POST /origdatablocks``: every file of the run with its SHA-256."""
    time = _time(run.ended or run.started)
    files = [{"path": file.name, "size": file.size, "time": time, "chk": file.sha256.hex()} for file in run.files]
    return {
        "datasetId": pid, "ownerGroup": place.owner_group, "accessGroups": list(place.access_groups), "chkAlg": "sha256",
        "size": sum(file.size for file in run.files), "dataFileList": files,
    }  # fmt: skip


async def register(run: RunFolder, place: Place, token: str) -> Registered:
    """Register a run, or what a broken attempt left out.

    Args:
        run: a landed run; the policy is asked for its metadata and its names.
        place: where and how.
        token: of an account that may create datasets for the group.

    Raises:
        PolicyRefused: the run's label does not let it go there.
        PermissionRefused: the catalogue refuses it.
        TargetUnreachable: no answer, or a passing fault; try again.
    """
    check(run, place.api, *CARRIED)
    async with _catalogue(place, token) as catalogue:
        pid, whole = await catalogue.have(run, place)
        made = pid is None
        if pid is None:
            pid = str((await catalogue.post("datasets", dataset(run, place)))["pid"])
        if not whole:
            await catalogue.post("origdatablocks", await asyncio.to_thread(block, run, place, pid))
        return Registered(pid, made)


async def register_below(folder: Path, place: Place, token: str) -> AsyncIterator[Outcome]:
    """Register every complete run below a folder that the catalogue does not have; only of those the files are read.

    One that is refused does not stop the others. Made to be called again and again: what is there already costs two questions.

    Raises:
        TargetUnreachable: no answer, or a passing fault; what is left is for the next time.
    """
    for crate in await asyncio.to_thread(lambda: sorted(folder.rglob(CRATE))):
        try:
            glimpse = await asyncio.to_thread(open_run, crate.parent, compare=False)
            check(glimpse, place.api, *CARRIED)
            async with _catalogue(place, token) as catalogue:
                pid, whole = await catalogue.have(glimpse, place)
            if pid is not None and whole:
                yield Outcome(crate.parent, Registered(pid, False))
                continue
            yield Outcome(crate.parent, await register(await asyncio.to_thread(open_run, crate.parent), place, token))
        except TargetUnreachable:
            raise
        except EdgeAgentError as error:
            yield Outcome(crate.parent, error)


@asynccontextmanager
async def _catalogue(place: Place, token: str) -> AsyncIterator[_Catalogue]:
    async with talking(place.api, token, TIMEOUT, "SCICAT_TROUBLE") as session:
        yield _Catalogue(session, place.api.rstrip("/"))


class _Catalogue:
    def __init__(self, session: aiohttp.ClientSession, api: str) -> None:
        self._session = session
        self._api = api

    async def have(self, run: RunFolder, place: Place) -> tuple[str | None, bool]:
        """The pid of a run's dataset, and whether its block of files is there too."""
        there = await self.find(
            "datasets", {f"scientificMetadata.{RUN_ID}.value": run.record["runId"], "ownerGroup": place.owner_group}
        )  # fmt: skip
        pid = str(there[0]["pid"]) if there else None
        return pid, pid is not None and bool(await self.find("origdatablocks", {"datasetId": pid}))

    async def find(self, what: str, where: Mapping[str, str]) -> list[dict[str, Any]]:
        params = {"filter": json.dumps({"where": where, "limits": {"limit": 1}})}
        async with self._session.get(f"{self._api}/{what}", params=params, allow_redirects=False) as response:
            found = await _answer(response)
        if not isinstance(found, list):
            raise TypeError(f"GET {what} is no list")
        return found

    async def post(self, what: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        async with self._session.post(f"{self._api}/{what}", json=body, allow_redirects=False) as response:
            made: Mapping[str, Any] = await _answer(response)
            return made


async def _answer(response: aiohttp.ClientResponse) -> Any:
    said = await response.text()
    if response.status in (200, 201):
        return json.loads(said)
    raise _refusal(response.status, f"HTTP status {response.status}: {said[:300]}")


def _refusal(status: int, why: str) -> EdgeAgentError:
    if status in (408, 429) or status >= 500:
        return TargetUnreachable("The catalogue is busy or in trouble", why=why, try_="try again later", code="SCICAT_TROUBLE")
    cures = {401: "get a new token", 403: "the account needs the right to create datasets for this group"}
    return PermissionRefused("The catalogue refuses the run", why=why, try_=cures.get(status, "see why"), code="SCICAT_REFUSED")


def _folder(run: RunFolder, place: Place) -> str:
    """``<source>/<project>/<instrument>/<date>/<run>``."""
    return "/".join([place.source.rstrip("/"), *PurePosixPath(run.folder.resolve().as_posix()).parts[-4:]])


def _time(iso: str) -> str:
    """ISO 8601 in UTC; the catalogue's clock has milliseconds."""
    whole, _, rest = iso.rstrip("Z").partition(".")
    return f"{whole.removesuffix('+00:00')}.{rest.removesuffix('+00:00')[:3]:0<3}Z"
