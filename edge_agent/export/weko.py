"""WEKO3 (JAIRO Cloud): a BagIt bag with an RO-Crate 1.1, and its deposit by SWORD v3.

What WEKO demands beyond the standards was read in its source (RCOSDP/weko, weko-swordserver, 2026-03): the crate stands in ``data/``, its
context is that of 1.1, its root has ``wk:publishStatus``, and has no ``identifier`` (which WEKO would take for one of its own items); the
bag must be valid (RFC 8493); ``Digest`` is SHA-256 in hex, and the request itself names the file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from edge_agent.errors import EdgeAgentError, PermissionRefused, PolicyRefused, TargetUnreachable, UsageError
from edge_agent.export.run_folder import CRATE, MANIFEST, RunFolder, blocks
from edge_agent.export.zips import write_zip
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, may_send

PACKAGING = "http://purl.org/net/sword/3.0/package/SimpleZip"
PAYLOAD = "payload.zip"
BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
VISIBLE = ("private", "public")


@dataclass(frozen=True, slots=True)
class Deposited:
    """What the repository made of it: HTTP status (201 stored, 202 waits for a person), and where to look."""

    status: int
    place: str


def export_weko(run: RunFolder, out: Path, indexes: Sequence[str], visible: str = "private") -> Path:
    """Write ``<project>-<run>-weko.zip`` into a folder.

    Args:
        run: what to export.
        out: the folder.
        indexes: numbers of the WEKO indexes that the item goes into.
        visible: "private" or "public"; a person publishes, so "private" is the default.

    Raises:
        UsageError: no index, or one that is no number.
        PolicyRefused: it should be public, and the run is not open.
    """
    if not indexes or not all(index.isascii() and index.isdigit() for index in indexes):
        raise UsageError("An item needs at least one index", why=f"got {list(indexes)}", try_="--index 1623632832836", code="EXPORT_INDEX")
    if visible == "public":
        _check(run, "the public")
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"{run.record['project']['name']}-{run.name}-weko.zip"
    write_zip(archive, _bag(run, _crate(run, indexes, visible)))
    return archive


async def deposit(run: RunFolder, archive: Path, service: str, token: str) -> Deposited:
    """Send a zip to a repository.

    Args:
        run: whose it is; the policy is asked.
        archive: what `export_weko` made.
        service: the SWORD service document, as "https://repository.example.ac.jp/sword/service-document".
        token: OAuth 2 bearer token with ``deposit:write``, ``deposit:actions`` and ``item:create``.

    Raises:
        PolicyRefused: the run's label does not let it go there.
        PermissionRefused: the repository refuses it.
        TargetUnreachable: no answer, or a passing fault; nothing was deposited, try again.
    """
    _check(run, service)
    size, digest = await asyncio.to_thread(_measure, archive)
    headers = {"Authorization": f"Bearer {token}"}
    timeouts = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=600)
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeouts, trust_env=False) as session:
            async with session.get(service, allow_redirects=False) as response:
                _check_answer(response.status, await response.text(), (200,))
                largest = (await response.json(content_type=None)).get("maxUploadSize")
            if isinstance(largest, int) and size > largest:
                raise PermissionRefused(
                    f"{archive.name} is too large for the repository", why=f"{size} bytes, it takes {largest}",
                    try_="deposit the large files elsewhere and link them", code="WEKO_TOO_LARGE",
                )  # fmt: skip
            file = await asyncio.to_thread(archive.open, "rb")
            with file:
                form = aiohttp.FormData(quote_fields=False)
                form.add_field("file", file, filename=PAYLOAD, content_type="application/zip")
                more = {
                    "Content-Disposition": f"attachment; filename={PAYLOAD}", "Packaging": PACKAGING,
                    "Digest": f"SHA-256={digest}",
                }  # fmt: skip
                async with session.post(service, data=form, headers=more, allow_redirects=False) as response:
                    said = await response.text()
                    _check_answer(response.status, said, (200, 201, 202))
                    return Deposited(response.status, _place(said) or response.headers.get("Location", ""))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise TargetUnreachable(
            f"{service} does not answer as it should", why=str(error) or type(error).__name__, try_="check the address, then try again",
            code="WEKO_TROUBLE",
        ) from error  # fmt: skip


def _measure(path: Path) -> tuple[int, str]:
    """Bytes of a file, and its SHA-256 in hex."""
    size, digest = 0, hashlib.sha256()
    for block in blocks(path):
        size += len(block)
        digest.update(block)
    return size, digest.hexdigest()


def _check(run: RunFolder, where: str) -> None:
    """A repository is nobody's project space: only open data, or what its label names."""
    decision = may_send(run.label, Destination(where, DestinationKind.STORE), ObjectKind.DATA)
    if not decision.allowed:
        raise PolicyRefused(
            f"Run {run.name} may not go to {where}", why=decision.reason,
            try_="have the project's owner open the data, then try again", code="POLICY",
        )  # fmt: skip


def _crate(run: RunFolder, indexes: Sequence[str], visible: str) -> bytes:
    """The crate with what WEKO wants to know of the item."""
    graph = [dict(entity) for entity in run.crate["@graph"]]
    root = next(entity for entity in graph if entity["@id"] == "./")
    root.pop("identifier", None)
    root |= {"wk:index": list(indexes), "wk:publishStatus": visible, "wk:editMode": "Keep"}
    listed = {entity["@id"] for entity in graph}
    for file in run.files:
        # The manifest, the signed statement and the receipts are made after the crate; here they travel with it.
        if (id_ := quote(file.name)) not in listed:
            root["hasPart"] = [*root["hasPart"], {"@id": id_}]
            graph.append({
                "@id": id_, "@type": "File", "name": file.name, "contentSize": str(file.size), "sha256": file.sha256.hex(),
                "encodingFormat": "text/plain" if file.name == MANIFEST else "application/cbor",
            })  # fmt: skip
    crate: Mapping[str, Any] = {**run.crate, "@graph": graph}
    return json.dumps(crate, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _bag(run: RunFolder, crate: bytes) -> Iterator[tuple[str, Path | bytes]]:
    manifest = {f"data/{file.name}": file.sha256.hex() for file in run.files} | {f"data/{CRATE}": hashlib.sha256(crate).hexdigest()}
    octets = sum(file.size for file in run.files) + len(crate)
    tags = {
        "bagit.txt": BAGIT,
        "bag-info.txt": f"Payload-Oxum: {octets}.{len(manifest)}\n".encode(),
        "manifest-sha256.txt": _lines(manifest),
    }
    yield from tags.items()
    yield "tagmanifest-sha256.txt", _lines({name: hashlib.sha256(content).hexdigest() for name, content in tags.items()})
    yield f"data/{CRATE}", crate
    for file in run.files:
        yield f"data/{file.name}", file.path


def _lines(digests: Mapping[str, str]) -> bytes:
    """RFC 8493, 2.1.3: line ends and the percent sign in names are written as percent codes."""
    quoted = {name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D"): digest for name, digest in digests.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(quoted.items())).encode()


def _check_answer(status: int, said: str, good: tuple[int, ...]) -> None:
    if status in good:
        return
    why = f"HTTP status {status}: {said[:300]}"
    raise _refusal(status, why)


def _refusal(status: int, why: str) -> EdgeAgentError:
    if status in (429, 500, 502, 503, 504):
        return TargetUnreachable("The repository is busy or in trouble", why=why, try_="try again later", code="WEKO_TROUBLE")
    cures = {
        401: "make a new token with deposit:write, deposit:actions and item:create", 403: "the token's owner needs the right to deposit",
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
