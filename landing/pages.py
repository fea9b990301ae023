"""Pages of open runs, for everybody: a run's page with its signposts (`landing.signposts`), its files, its link set.

A page lists `MOST_FILES` files and leads to the next ones; the catalogue gives no more rows than a request shows (all of them for the link
set). Whether all of a run is open is asked at each request, since a closed file may come at any time.

Invariants: a run is shown when it is complete and every one of its files is of a label that lets it go to everybody, or was opened here
with its run (`Catalogue.said_later`, which closes a run just the same); of any other run there is nothing, not even that it exists: the
answer is the one for a run that never was. Without a public address there are no pages.
Files are sent as bytes that no browser runs, since an agent may be hostile.
"""

from __future__ import annotations

import asyncio
import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import quote

from aiohttp import web

from edge_agent.model import ItemKind, Label
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, may_send
from edge_agent.wire.refusal import Code, Refused
from landing import signposts
from landing.catalogue import Catalogue, LaterLabel, StoredItem
from landing.signposts import About, Link, Part
from landing.store import Store

EVERYBODY = Destination("everybody who asks", DestinationKind.STORE)
"""No label can name it: the name has spaces."""
CRATE = "ro-crate-metadata.json"
LINKSET = "linkset.json"
MOST_FILES = 1000
"""Files on one page."""
KNOWN_CRATES = 256
"""Crates of which it is remembered what they say: one of many files takes long to read."""
MOST_OF_A_CRATE = 16 << 20
"""Bytes of a crate that is looked into; of a larger one the page says no more than its files."""
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; img-src 'self'; sandbox"}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1><p>{description}</p>{picture}
<p><a href="{cite_as}">{cite_as}</a></p>{opened}
<h2>Files / ファイル ({count})</h2><ul>{files}</ul>{more}
</html>
"""


@dataclass(frozen=True, slots=True)
class _Shown:
    """An open run: its addresses, what its crate says, how many files it has, the address of its picture ("": none).

    ``later``: what was said of its label after it landed.
    """

    page: str
    linkset: str
    cite_as: str
    said: About
    crate: Part
    count: int
    picture: str
    later: LaterLabel | None

    def links(self) -> list[Link]:
        """Of the page, but for the items."""
        return signposts.of_page(self.page, self.cite_as, self.linkset, self.said, (self.crate,))


class Pages:
    """Handlers over one catalogue and one store. ``public`` is the address of the service for everybody, without a slash at its end."""

    def __init__(self, catalogue: Catalogue, store: Store, public: str) -> None:
        self._catalogue = catalogue
        self._store = store
        self._public = public
        self._about = lru_cache(KNOWN_CRATES)(self._read_about)

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
        after = request.query.get("after", "")
        if "\0" in request.match_info["path"] + after:  # no name has it, and PostgreSQL takes no such text
            raise _nothing()
        parts = request.match_info["path"].split("/")
        folder, name = "/".join(parts[:4]), "/".join(parts[4:])
        shown = await asyncio.to_thread(self._shown, folder) if len(parts) > 3 else None
        if shown is None:
            raise _nothing()
        if len(parts) == 4:
            return web.Response(status=308, headers={"Location": shown.page})
        if not name:
            listed = await asyncio.to_thread(self._parts, folder, after, MOST_FILES + 1, shown.later)
            links = [*shown.links(), *signposts.items(listed)[: signposts.MOST_ITEMS]]
            return _answer(_page(shown, listed).encode(), "text/html", links)
        if name == LINKSET:
            every = await asyncio.to_thread(self._parts, folder, "", shown.count + 1, shown.later)
            body = await asyncio.to_thread(_set, shown, every)
            return _answer(body, signposts.LINKSET, [Link("describes", shown.page, "text/html")])
        found = await asyncio.to_thread(self._catalogue.at, f"{folder}/{name}")
        if found is None or not _is_open(*found, shown.later):
            raise _nothing()
        return await self._file(request, shown, f"{folder}/{name}", self._part(folder, found[0]))

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
        crate = self._catalogue.at(f"{folder}/{CRATE}")
        if crate is None:
            return None
        sorts = self._catalogue.sorts(folder)
        item, address = crate[0], self._address(folder)
        later = self._catalogue.said_later(item.run_id)
        if not all(_may_see(sort.kind, _now(sort.run_id, sort.label, later)) for sort in sorts):
            return None
        run = item.run_id.hex()
        uuid = "-".join((run[:8], run[8:12], run[12:16], run[16:20], run[20:]))
        try:
            said = self._about(item.path, item.sha256) if item.size <= MOST_OF_A_CRATE else About()
        except FileNotFoundError:
            said = About()
        picture = next((self._href(folder, sort.first) for sort in sorts if sort.kind is ItemKind.PREVIEW), "")
        count = sum(sort.files for sort in sorts)
        return _Shown(
            f"{address}/", f"{address}/{LINKSET}", f"{self._public}/run/{uuid}", said, self._part(folder, item), count, picture, later
        )  # fmt: skip

    def _parts(self, folder: str, after: str, most: int, later: LaterLabel | None) -> list[Part]:
        """Files of a run, by name; those that became closed this moment are left out. Blocks."""
        found = [item for item, label in self._catalogue.labelled(folder, after, most) if _is_open(item, label, later)]
        return [part for item in found if (part := self._part(folder, item)).name != LINKSET]

    def _part(self, folder: str, item: StoredItem) -> Part:
        return Part(item.path.removeprefix(f"{folder}/"), self._href(folder, item.path), item.kind, item.size, item.sha256)

    def _href(self, folder: str, path: str) -> str:
        return f"{self._address(folder)}/{quote(path.removeprefix(f'{folder}/'))}"

    def _read_about(self, path: str, sha256: bytes) -> About:
        """What the crate of these bytes says; by their digest it is remembered.

        Raises:
            FileNotFoundError: the store has it not.
        """
        return signposts.about(b"".join(self._store.read(path)))

    def _address(self, folder: str) -> str:
        return f"{self._public}/open/{quote(folder)}"


def _is_open(item: StoredItem, label: Label | None, later: LaterLabel | None) -> bool:
    return _may_see(item.kind, _now(item.run_id, label, later))


def _now(run_id: bytes, label: Label | None, later: LaterLabel | None) -> Label | None:
    """The label that counts now; a word on one run says nothing of another one's files in the same folder."""
    return label if later is None or later.run_id != run_id else Label(later.access)


def _may_see(kind: ItemKind, label: Label | None) -> bool:
    what = ObjectKind.PREVIEW if kind is ItemKind.PREVIEW else ObjectKind.DATA
    return label is not None and may_send(label, EVERYBODY, what).allowed


def _nothing() -> Refused:
    return Refused(Code.NOT_FOUND, "There is nothing here", try_="is the address right? Runs that are not open are not shown")


def _headers(links: list[Link]) -> dict[str, str]:
    return SAFE | {"Link": signposts.header(links)}


def _answer(body: bytes, media: str, links: list[Link]) -> web.Response:
    return web.Response(body=body, content_type=media, charset="utf-8" if media == "text/html" else None, headers=_headers(links))


def _set(shown: _Shown, parts: Sequence[Part]) -> bytes:
    """The link set of a run: the page's links to all items, and each file's links back."""
    back = {part.href: signposts.of_part(shown.page, shown.linkset, shown.said, part) for part in parts}
    return signposts.link_set({shown.page: [*shown.links(), *signposts.items(parts)], **back})


def _page(shown: _Shown, listed: Sequence[Part]) -> str:
    """The page for people; where more files are listed than it has room for, it leads to the next ones."""
    parts, more = listed[:MOST_FILES], ""
    if len(listed) > MOST_FILES:
        more = f'<p><a rel="next" href="{html.escape(shown.page)}?after={quote(parts[-1].name, safe="")}">Next / 次へ</a></p>'
    files = "".join(f'<li><a href="{html.escape(part.href)}">{html.escape(part.name)}</a> {part.size}</li>' for part in parts)
    return PAGE.format(
        title=html.escape(shown.said.title or shown.page), description=html.escape(shown.said.description), files=files, more=more,
        picture=f'<img src="{html.escape(shown.picture)}" alt="preview">' if shown.picture else "", cite_as=html.escape(shown.cite_as),
        count=shown.count, opened="" if shown.later is None else f"<p>{html.escape(_opened(shown.later))}</p>",
    )  # fmt: skip


def _opened(later: LaterLabel) -> str:
    day = datetime.fromtimestamp(later.t_ns // 10**9, UTC).date().isoformat()
    return f"Opened {day} by {later.author}: {later.reason} / {day} 公開"
