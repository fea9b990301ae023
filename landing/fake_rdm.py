"""A rehearsal GakuNin RDM: enough of API v2 and WaterButler v1 to try an upload where the real one must not be tried.

It answers as RDM-waterbutler (commit 4d7698f of 2026-04) was seen to answer: names in NFC, ids instead of paths, 409 for a name that
is taken, 411 without Content-Length, 406 over quota, 413 over the body limit, 500 for a new folder without Content-Length, no new version
for equal content, and the digests of what it received. It does not: real accounts, rates, redirects to storage, copies and moves, add-ons.
Whoever has the token may do everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from landing.rdm_tree import ROOT, Absent, Entry, Full, Incoming, Taken, Tree, Version

MAX_BODY = 50 << 30
QUOTA = 100 * 10**9
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How it behaves.

    Attributes:
        token: the one personal access token.
        nodes: projects by id, with their titles.
        providers: storages that each project has.
        hashes: whether the storage says which digests it received (osfstorage does, some others do not).
        max_body: bytes of the largest body.
        quota: bytes that may be stored.
    """

    token: str
    nodes: dict[str, str]
    providers: tuple[str, ...] = ("osfstorage",)
    hashes: bool = True
    max_body: int = MAX_BODY
    quota: int = QUOTA


class FakeRdm:
    """The service over one folder."""

    def __init__(self, folder: Path, rehearsal: Rehearsal) -> None:
        """Open or begin."""
        self.rehearsal = rehearsal
        self.tree = Tree(folder, rehearsal.quota)
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request, for the tests."""

    def app(self) -> web.Application:
        """The aiohttp application."""
        made = web.Application(middlewares=[self._guard], client_max_size=0)
        made.router.add_get("/v2/users/me/", self._me)
        made.router.add_get("/v2/nodes/", self._nodes)
        made.router.add_get("/v2/nodes/{node}/", self._node)
        made.router.add_get("/v2/nodes/{node}/files/", self._storages)
        place = "/v1/resources/{node}/providers/{provider}/{path:.*}"
        made.router.add_get(place, self._get)
        made.router.add_delete(place, self._delete)
        made.router.add_put(place, self._put, expect_handler=self._expected)
        return made

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append((request.method, request.path_qs))
        waterbutler = request.path.startswith("/v1/")
        try:
            if waterbutler:
                self._known(request)
            return await handler(request)  # type: ignore[no-any-return]
        except web.HTTPException as error:
            return self._error(error.status, error.text or error.reason, waterbutler)
        except Absent:
            return self._error(404, "Could not retrieve file or directory", waterbutler)
        except Taken:
            return self._error(409, "Cannot complete action: file or folder already exists in this location", waterbutler)
        except Full:
            return self._error(406, "You do not have enough available quota.", waterbutler)

    def _error(self, status: int, message: str, waterbutler: bool) -> web.Response:
        if waterbutler:
            return web.json_response({"code": status, "message": message}, status=status)
        return web.json_response({"errors": [{"detail": message}]}, status=status)

    def _known(self, request: web.Request) -> None:
        if not self._authorised(request):
            raise web.HTTPUnauthorized
        if request.match_info["node"] not in self.rehearsal.nodes or request.match_info["provider"] not in self.rehearsal.providers:
            raise Absent

    def _authorised(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.rehearsal.token}"

    # ---- API v2

    async def _me(self, request: web.Request) -> web.Response:
        if not self._authorised(request):
            raise web.HTTPUnauthorized(text="Authentication credentials were not provided.")
        return web.json_response({"data": {"id": "abcde", "type": "users", "attributes": {"full_name": "Rehearsal"}}})

    async def _nodes(self, request: web.Request) -> web.Response:
        nodes = self.rehearsal.nodes if self._authorised(request) else {}
        listed = [{"id": node, "type": "nodes", "attributes": {"title": title}} for node, title in nodes.items()]
        size = int(request.query.get("page[size]", "10"))
        return web.json_response({"data": listed[:size], "links": {"next": None if len(listed) <= size else f"{request.url}&page=2"}})

    async def _node(self, request: web.Request) -> web.Response:
        self._may_see(request)
        node = request.match_info["node"]
        attributes = {"title": self.rehearsal.nodes[node], "current_user_permissions": ["read", "write"]}
        return web.json_response({"data": {"id": node, "type": "nodes", "attributes": attributes}})

    async def _storages(self, request: web.Request) -> web.Response:
        self._may_see(request)
        node = request.match_info["node"]
        listed = [
            {"id": f"{node}:{name}", "type": "files", "attributes": {"name": name, "provider": name, "path": "/", "kind": "folder"}}
            for name in self.rehearsal.providers
        ]
        size = int(request.query.get("page[size]", "10"))
        return web.json_response({"data": listed[:size], "links": {"next": None if len(listed) <= size else f"{request.url}&page=2"}})

    def _may_see(self, request: web.Request) -> None:
        if not self._authorised(request):
            raise web.HTTPUnauthorized(text="Authentication credentials were not provided.")
        if request.match_info["node"] not in self.rehearsal.nodes:
            raise web.HTTPNotFound(text="Not found.")

    # ---- WaterButler v1

    async def _get(self, request: web.Request) -> web.StreamResponse:
        node, provider, id_, kind = _place(request)
        if kind == "folder":
            children = self.tree.children(node, provider, id_)
            return web.json_response({"data": [self._described(entry) for entry in children]})
        entry = self.tree.entry(node, provider, id_, "file")
        if "meta" in request.query:
            return web.json_response({"data": self._described(entry)})
        if "versions" in request.query:
            return web.json_response({"data": [self._version(entry, n) for n in range(len(entry.versions), 0, -1)]})
        number = int(request.query.get("version", len(entry.versions)))
        return web.FileResponse(self.tree.blobs / entry.versions[number - 1].blob)

    async def _delete(self, request: web.Request) -> web.Response:
        node, provider, id_, kind = _place(request)
        if id_ == ROOT:
            raise web.HTTPBadRequest(text="confirm_delete=1 is required for deleting root provider folder")
        self.tree.remove(self.tree.entry(node, provider, id_, kind))
        return web.Response(status=204)

    async def _expected(self, request: web.Request) -> web.StreamResponse | None:
        """Say no before the body is sent, as it does."""
        with contextlib.suppress(web.HTTPException, Absent, Taken, Full):
            self._known(request)
            self._check_put(request)
            if request.transport is not None:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _check_put(self, request: web.Request) -> None:
        """Everything that is refused before the body is read.

        Raises:
            web.HTTPException, Absent, Taken, Full: it is.
        """
        node, provider, id_, kind = _place(request)
        wanted, name = request.query.get("kind", "file"), request.query.get("name")
        if wanted not in ("file", "folder"):
            raise web.HTTPBadRequest(text="Kind must be file, folder or unspecified (interpreted as file)")
        if request.content_length is None:
            if wanted == "folder":
                raise web.HTTPInternalServerError(text="int() argument must be a string or a real number, not 'NoneType'")
            raise web.HTTPLengthRequired(text="Content-Length is required for file uploads.")
        if wanted == "folder" and request.content_length:
            raise web.HTTPRequestEntityTooLarge(0, request.content_length, text="Folder creation requests may not have a body")
        if request.content_length > self.rehearsal.max_body:
            raise web.HTTPRequestEntityTooLarge(max_size=self.rehearsal.max_body, actual_size=request.content_length)
        if kind == "file":
            if wanted == "folder" or name is not None:
                raise web.HTTPBadRequest(text="'name' parameter doesn't apply to actions on files")
            self.tree.entry(node, provider, id_, "file")
        else:
            if not name:
                raise web.HTTPBadRequest(text="Missing required parameter 'name'")
            self.tree.check_name(node, provider, id_, name)
        self.tree.check_room(request.content_length)

    async def _put(self, request: web.Request) -> web.Response:
        self._check_put(request)
        node, provider, id_, kind = _place(request)
        if request.query.get("kind") == "folder":
            return web.json_response({"data": self._described(self.tree.add(node, provider, id_, request.query["name"], None))}, status=201)
        received = await self._receive(request)
        if kind == "file":
            entry = self.tree.entry(node, provider, id_, "file")
            self.tree.add_version(entry, received)
            return web.json_response({"data": self._described(entry)}, status=200)
        entry = self.tree.add(node, provider, id_, request.query["name"], received)
        return web.json_response({"data": self._described(entry)}, status=201)

    async def _receive(self, request: web.Request) -> Version:
        incoming = Incoming(self.tree.blobs)
        try:
            async for block in request.content.iter_chunked(BLOCK):
                await asyncio.to_thread(incoming.write, block)
        except ConnectionError as error:
            incoming.give_up()
            raise web.HTTPBadRequest(text="The upload was cut.") from error
        except BaseException:
            incoming.give_up()
            raise
        return await asyncio.to_thread(incoming.end)

    # ---- how entries are written

    def _described(self, entry: Entry) -> dict[str, Any]:
        slash = "/" if entry.kind == "folder" else ""
        path = f"/{entry.id}{slash}"
        link = f"/v1/resources/{entry.node}/providers/{entry.provider}{path}"
        said: dict[str, Any] = {
            "name": entry.name, "kind": entry.kind, "path": path, "materialized": self.tree.materialized(entry),
            "provider": entry.provider, "resource": entry.node, "etag": entry.id, "extra": {},
        }  # fmt: skip
        if entry.kind == "file":
            last = entry.versions[-1]
            said |= {"size": last.size, "sizeInt": last.size, "extra": {"version": len(entry.versions), **self._hashes(last)}}
        links = {"upload": f"{link}?kind=file", "delete": link, "move": link}
        links |= {"download": link} if entry.kind == "file" else {"new_folder": f"{link}?kind=folder"}
        return {"id": f"{entry.provider}{path}", "type": "files", "attributes": said, "links": links}

    def _version(self, entry: Entry, number: int) -> dict[str, Any]:
        version = entry.versions[number - 1]
        extra = self._hashes(version)
        return {"id": str(number), "type": "file_versions", "attributes": {"version": str(number), "size": version.size, "extra": extra}}

    def _hashes(self, version: Version) -> dict[str, Any]:
        if not self.rehearsal.hashes:
            return {}
        return {"hashes": {"md5": version.md5, "sha256": version.sha256, "sha512": version.sha512}}


def _place(request: web.Request) -> tuple[str, str, str, str]:
    """Node, provider, id and kind (folder: it ends in "/") of what a path is about."""
    path = request.match_info["path"]
    node, provider = request.match_info["node"], request.match_info["provider"]
    if path == "":
        return node, provider, ROOT, "folder"
    return node, provider, path.rstrip("/"), "folder" if path.endswith("/") else "file"


async def serve(folder: Path, rehearsal: Rehearsal, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Start it; the runner to stop it with, and the port."""
    runner = web.AppRunner(FakeRdm(folder, rehearsal).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    return runner, int(runner.addresses[0][1])
