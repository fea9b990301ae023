"""A deposit by SWORD v3 in WEKO3, once.

SWORD has no key that makes a deposit idempotent, so an answer that gets lost would end in two items. A note beside the zip says before the
request that it is on its way and afterwards what became of it; and the repository is asked for an item of the same title (its
``GET /api/v1/records``, which finds items whose type is mapped to RO-Crate, and which the token may read). Whatever may be there already is
a person's decision: replace it, or deposit again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp

from edge_agent.errors import EdgeAgentError, PermissionRefused, TargetUnreachable
from edge_agent.export.repository import check, talking
from edge_agent.export.run_folder import RunFolder, sha256_of
from edge_agent.provenance.policy import ObjectKind

PACKAGING = "http://purl.org/net/sword/3.0/package/SimpleZip"
PAYLOAD = "payload.zip"
DOCUMENT = "service-document"
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=600)


@dataclass(frozen=True, slots=True)
class Deposited:
    """What the repository made of it: HTTP status (200 replaced, 201 stored, 202 waits for a person), and where to look."""

    status: int
    place: str


@dataclass(frozen=True, slots=True)
class _Note:
    """What is known of the last deposit of a zip; ``status`` 0 as long as no answer came."""

    service: str
    sha256: str
    status: int = 0
    place: str = ""


async def deposit(
    run: RunFolder, archive: Path, service: str, token: str, *, replace: str | None = None, again: bool = False
) -> Deposited:  # fmt: skip
    """Send a zip to a repository, unless the same zip was deposited there before: then what became of it is told again.

    Args:
        run: whose it is; the policy is asked.
        archive: what `edge_agent.export.weko.export_weko` made.
        service: the SWORD service document, as "https://repository.example.ac.jp/sword/service-document".
        token: OAuth 2 bearer token with ``deposit:write``, ``deposit:actions`` and ``item:create`` (``item:update`` to replace);
            with ``item:read`` also items that are not public are found.
        replace: number of the item that it takes the place of.
        again: deposit although it may be there.

    Raises:
        PolicyRefused: the run's label does not let it go there.
        PermissionRefused: the repository refuses it, or may have it already (WEKO_THERE, WEKO_UNANSWERED).
        TargetUnreachable: no answer, or a passing fault; try again.
    """
    check(run, service, ObjectKind.DATA)
    digest = (await asyncio.to_thread(sha256_of, archive)).hex()
    noted = archive.with_suffix(".deposit.json")
    note = _read(noted, service)
    if note is not None and note.status and note.sha256 == digest and replace is None and not again:
        return Deposited(note.status, note.place)
    async with talking(service, token, TIMEOUT, "WEKO_TROUBLE") as session:
        await _check_size(session, service, archive)
        if replace is None and not again:
            await _check_absent(session, service, str(run.entity("./")["name"]), note)
        await asyncio.to_thread(_write, noted, _Note(service, digest))
        try:
            made = await _send(session, service, archive, digest, replace)
        except EdgeAgentError as error:
            if error.code != "WEKO_TROUBLE":
                # It said no: nothing is on its way any more.
                await asyncio.to_thread(noted.unlink, missing_ok=True)
            raise
        await asyncio.to_thread(_write, noted, _Note(service, digest, made.status, made.place))
        return made


async def _check_size(session: aiohttp.ClientSession, service: str, archive: Path) -> None:
    size = (await asyncio.to_thread(archive.stat)).st_size
    async with session.get(service, allow_redirects=False) as response:
        _check_answer(response.status, await response.text(), (200,))
        largest = (await response.json(content_type=None)).get("maxUploadSize")
    if isinstance(largest, int) and size > largest:
        raise PermissionRefused(
            f"{archive.name} is too large for the repository", why=f"{size} bytes, it takes {largest}",
            try_="deposit the large files elsewhere and link them", code="WEKO_TOO_LARGE",
        )  # fmt: skip


async def _check_absent(session: aiohttp.ClientSession, service: str, title: str, note: _Note | None) -> None:
    """That no item of this title is found, and no earlier request is without an answer."""
    params = {"title": title, "exact_title_match": "true", "size": "1"}
    async with session.get(urljoin(service, "/api/v1/records"), params=params, allow_redirects=False) as response:
        # A repository that does not let us search, or has no such search, knows nothing that could be asked.
        found = json.loads(await response.text()).get("search_results", []) if response.status == 200 else []
    if found:
        raise PermissionRefused(
            f"The repository has an item called {title!r}", why=f"it is record {found[0]['id']}",
            try_=f"look at it; then --replace {found[0]['id']}, or --again if it is another one", code="WEKO_THERE",
        )  # fmt: skip
    if note is not None and not note.status:
        raise PermissionRefused(
            "An earlier deposit of this run got no answer", why="it may be there, or wait for a person, without being found by its title",
            try_="look at the repository; then --replace NUMBER, or --again if it is not there", code="WEKO_UNANSWERED",
        )  # fmt: skip


async def _send(session: aiohttp.ClientSession, service: str, archive: Path, digest: str, replace: str | None) -> Deposited:
    method, url = ("POST", service) if replace is None else ("PUT", urljoin(service, f"deposit/{replace}"))
    more = {"Content-Disposition": f"attachment; filename={PAYLOAD}", "Packaging": PACKAGING, "Digest": f"SHA-256={digest}"}
    file = await asyncio.to_thread(archive.open, "rb")
    with file:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("file", file, filename=PAYLOAD, content_type="application/zip")
        async with session.request(method, url, data=form, headers=more, allow_redirects=False) as response:
            said = await response.text()
            _check_answer(response.status, said, (200, 201, 202))
            return Deposited(response.status, _place(said) or response.headers.get("Location", ""))


def _read(path: Path, service: str) -> _Note | None:
    """The note about a deposit at this repository; one about another is none."""
    try:
        said: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        note = _Note(str(said["service"]), str(said["sha256"]), int(said["status"]), str(said["place"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        # Cut while it was written: just before a request.
        return _Note(service, "")
    return note if note.service == service else None


def _write(path: Path, note: _Note) -> None:
    path.write_text(json.dumps(asdict(note), indent=1) + "\n", encoding="utf-8")


def _check_answer(status: int, said: str, good: tuple[int, ...]) -> None:
    if status not in good:
        raise _refusal(status, f"HTTP status {status}: {said[:300]}")


def _refusal(status: int, why: str) -> EdgeAgentError:
    if status == 429:
        return TargetUnreachable("The repository gets too many requests", why=why, try_="try again in some minutes", code="WEKO_BUSY")
    if status >= 500:
        return TargetUnreachable("The repository is in trouble", why=why, try_="try again later", code="WEKO_TROUBLE")
    cures = {
        401: "make a new token with deposit:write, deposit:actions and item:create", 403: "the token's owner needs the right to deposit",
        404: "check the address, and the number of the item that is to be replaced",
        412: "the repository got other bytes, or does not take a deposit on behalf of others", 413: "the zip is too large for it",
        415: "ask the repository which packages it takes",
    }  # fmt: skip
    return PermissionRefused("The repository refuses the deposit", why=why, try_=cures.get(status, "see why"), code="WEKO_REFUSED")


def _place(said: str) -> str:
    """The status document's own address."""
    try:
        found = json.loads(said)
    except ValueError:
        return ""
    return str(found.get("@id", "")) if isinstance(found, dict) else ""
