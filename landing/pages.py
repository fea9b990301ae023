"""Pages of open runs, for everybody: a run's page with its signposts (`landing.signposts`), its files, its link set.

Invariants: a run is shown when it is complete and every one of its files is of a label that lets it go to everybody; of any other run there
is nothing, not even that it exists: the answer is the one for a run that never was. Without a public address there are no pages.
Files are sent as bytes that no browser runs, since an agent may be hostile.
"""

from __future__ import annotations

import asyncio
import base64
import html
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import web

from edge_agent.model import ItemKind, Label
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, may_send
from edge_agent.wire.refusal import Code, Refused
from landing import signposts
from landing.catalogue import Catalogue, StoredItem
from landing.signposts import About, Link, Part
from landing.store import Store

EVERYBODY = Destination("everybody who asks", DestinationKind.STORE)
"""No label can name it: the name has spaces."""
CRATE = "ro-crate-metadata.json"
LINKSET = "linkset.json"
MOST_OF_A_CRATE = 16 << 20
"""Bytes of a crate that is looked into; of a larger one the page says no more than its files."""
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; img-src 'self'; sandbox"}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1><p>{description}</p>{picture}
<p><a href="{cite_as}">{cite_as}</a></p>
<h2>Files / ファイル</h2><ul>{files}</ul>
</html>
"""


@dataclass(frozen=True, slots=True)
class _Shown:
    """An open run: its addresses, what its crate says, its files."""

    page: str
    linkset: str
    cite_as: str
    said: About
    parts: tuple[Part, ...]

    def links(self) -> list[Link]:
        """Of the page, but for the items."""
        return signposts.of_page(self.page, self.cite_as, self.linkset, self.said, self.parts)


class Pages:
    """Handlers over one catalogue and one store. ``public`` is the address of the service for everybody, without a slash at its end."""

    def __init__(self, catalogue: Catalogue, store: Store, public: str) -> None:
        self._catalogue = catalogue
        self._store = store
        self._public = public

    def routes(self) -> list[web.RouteDef]:
        """``GET`` and ``HEAD``."""
        return [web.get("/open/{path:.+}", self.show), web.get("/run/{id:[0-9a-f-]{36}}", self.find)]

    async def find(self, request: web.Request) -> web.Response:
        """``GET /run/<UUID of a run>``: where the run's page is now; it moves when somebody claims it for a project."""
        folder = await asyncio.to_thread(self._catalogue.folder_of, bytes.fromhex(request.match_info["id"].replace("-", "")))
        if folder is None or await asyncio.to_thread(self._shown, folder) is None:
            raise _nothing()
        return web.Response(status=303, headers={"Location": self._address(folder) + "/"})

    async def show(self, request: web.Request) -> web.StreamResponse:
        """``GET /open/<project>/<group>/<date>/<run>/`` and what is below it."""
        parts = request.match_info["path"].split("/")
        folder, name = "/".join(parts[:4]), "/".join(parts[4:])
        shown = await asyncio.to_thread(self._shown, folder) if len(parts) > 3 else None
        if shown is None:
            raise _nothing()
        if len(parts) == 4:
            return web.Response(status=308, headers={"Location": shown.page})
        if not name:
            links = [*shown.links(), *signposts.items(shown.parts)[: signposts.MOST_ITEMS]]
            return _answer(_page(shown).encode(), "text/html", links)
        if name == LINKSET:
            return _answer(_set(shown), signposts.LINKSET, [Link("describes", shown.page, "text/html")])
        part = next((each for each in shown.parts if each.name == name), None)
        if part is None:
            raise _nothing()
        return await self._file(request, shown, f"{folder}/{name}", part)

    async def _file(self, request: web.Request, shown: _Shown, path: str, part: Part) -> web.StreamResponse:
        headers = _headers(signposts.of_part(shown.page, shown.linkset, shown.said, part)) | {
            "Content-Type": part.media, "Content-Length": str(part.size),
            "Repr-Digest": f"sha-256=:{base64.b64encode(part.sha256).decode()}:",
        }  # fmt: skip
        reply = web.StreamResponse(headers=headers)
        if request.method == "HEAD":
            await reply.prepare(request)
            return reply
        blocks = self._store.read(path)
        try:
            block = await asyncio.to_thread(next, blocks, b"")
            await reply.prepare(request)
            while block:
                await reply.write(block)
                block = await asyncio.to_thread(next, blocks, b"")
        except FileNotFoundError as error:
            raise Refused(Code.TROUBLE, "The file is not where it should be", why=path, try_="tell the operator of the service") from error
        finally:
            blocks.close()
        await reply.write_eof()
        return reply

    def _shown(self, folder: str) -> _Shown | None:
        """The run in a folder; None where there is none for everybody. Blocks."""
        files = self._catalogue.labelled(folder)
        crate = next((item for item, _ in files if item.path == f"{folder}/{CRATE}"), None)
        if crate is None or not all(label is not None and _is_open(item, label) for item, label in files):
            return None
        address = self._address(folder)
        parts = tuple(
            Part(name, f"{address}/{quote(name)}", item.kind, item.size, item.sha256)
            for item, _ in files
            if (name := item.path.removeprefix(f"{folder}/")) != LINKSET
        )
        said = signposts.about(self._bytes(crate.path)) if crate.size <= MOST_OF_A_CRATE else About()
        run = crate.run_id.hex()
        uuid = "-".join((run[:8], run[8:12], run[12:16], run[16:20], run[20:]))
        return _Shown(f"{address}/", f"{address}/{LINKSET}", f"{self._public}/run/{uuid}", said, parts)

    def _bytes(self, path: str) -> bytes:
        try:
            return b"".join(self._store.read(path))
        except FileNotFoundError:
            return b""

    def _address(self, folder: str) -> str:
        return f"{self._public}/open/{quote(folder)}"


def _is_open(item: StoredItem, label: Label) -> bool:
    kind = ObjectKind.PREVIEW if item.kind is ItemKind.PREVIEW else ObjectKind.DATA
    return may_send(label, EVERYBODY, kind).allowed


def _nothing() -> Refused:
    return Refused(Code.NOT_FOUND, "There is nothing here", try_="is the address right? Runs that are not open are not shown")


def _headers(links: list[Link]) -> dict[str, str]:
    return SAFE | {"Link": signposts.header(links)}


def _answer(body: bytes, media: str, links: list[Link]) -> web.Response:
    return web.Response(body=body, content_type=media, charset="utf-8" if media == "text/html" else None, headers=_headers(links))


def _set(shown: _Shown) -> bytes:
    """The link set of a run: the page's links to all items, and each file's links back."""
    back = {part.href: signposts.of_part(shown.page, shown.linkset, shown.said, part) for part in shown.parts}
    return signposts.link_set({shown.page: [*shown.links(), *signposts.items(shown.parts)], **back})


def _page(shown: _Shown) -> str:
    """The page for people."""
    files = "".join(f'<li><a href="{html.escape(part.href)}">{html.escape(part.name)}</a> {part.size}</li>' for part in shown.parts)
    preview = next((part.href for part in shown.parts if part.kind is ItemKind.PREVIEW), "")
    return PAGE.format(
        title=html.escape(shown.said.title or shown.page), description=html.escape(shown.said.description), files=files,
        picture=f'<img src="{html.escape(preview)}" alt="preview">' if preview else "", cite_as=html.escape(shown.cite_as),
    )  # fmt: skip
