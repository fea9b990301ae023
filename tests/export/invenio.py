"""An InvenioRDM, as its documentation says: drafts that are kept with what is wrong with them, files in three steps, MD5 after the last."""

from __future__ import annotations

import hashlib
from typing import Any

from aiohttp import web

TOKEN = "a-token"
NEEDED = ("title", "creators", "publication_date", "resource_type")


class Invenio:
    """``records`` by id, each with its ``files``.

    ``trouble`` is a status that the next upload of content gets; as long as ``cut`` is true it takes content and hangs up; ``spoil`` keeps
    other bytes than the next that come.
    """

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self.contents: list[str] = []
        self.trouble = 0
        self.cut = self.spoil = False

    def app(self) -> web.Application:
        made = web.Application(client_max_size=1 << 24, middlewares=[self._who])
        made.router.add_get("/api/user/records", self._find)
        made.router.add_post("/api/records", self._make)
        files = "/api/records/{id}/draft/files"
        made.router.add_get(files, self._list)
        made.router.add_post(files, self._begin)
        made.router.add_delete(f"{files}/{{key}}", self._delete)
        made.router.add_put(f"{files}/{{key}}/content", self._content)
        made.router.add_post(f"{files}/{{key}}/commit", self._commit)
        return made

    @web.middleware
    async def _who(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"message": "no token"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _find(self, request: web.Request) -> web.Response:
        field, _, value = request.query["q"].partition(":")
        assert field == "metadata.identifiers.identifier"
        found = [r for r in self.records.values() if value.strip('"') in [i["identifier"] for i in r["metadata"]["identifiers"]]]
        return web.json_response({"hits": {"hits": [self._said(record) for record in found], "total": len(found)}})

    async def _make(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.keys() != {"access", "files", "metadata"} or set(body["access"].values()) - {"public", "restricted"}:
            return web.json_response({"message": "A validation error occurred."}, status=400)
        errors = [{"field": f"metadata.{key}", "messages": ["Missing data."]} for key in NEEDED if not body["metadata"].get(key)]
        id_ = f"r{len(self.records)}"
        self.records[id_] = {"id": id_, **body, "errors": errors, "is_published": False, "entries": {}}
        return web.json_response(self._said(self.records[id_]), status=201)

    def _said(self, record: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in record.items() if k not in ("entries", "bytes")} | {"links": {"self_html": f"/uploads/{record['id']}"}}

    def _entries(self, request: web.Request) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = self.records[request.match_info["id"]]["entries"]
        return entries

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"enabled": True, "entries": [{"key": k, **e} for k, e in self._entries(request).items()]})

    async def _begin(self, request: web.Request) -> web.Response:
        entries = self._entries(request)
        for each in await request.json():
            if each["key"] in entries:
                return web.json_response({"message": f"File with key {each['key']} already exists."}, status=400)
            entries[each["key"]] = {"status": "pending"}
        return web.json_response({"entries": []}, status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        del self._entries(request)[request.match_info["key"]]
        return web.Response(status=204)

    async def _content(self, request: web.Request) -> web.Response:
        if self.trouble:
            status, self.trouble = self.trouble, 0
            return web.json_response({"message": "no"}, status=status)
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
        body, key = await request.read(), request.match_info["key"]
        self.records[request.match_info["id"]].setdefault("bytes", {})[key] = b"?" if self.spoil else body
        self.spoil = False
        self.contents.append(key)
        return web.json_response({"key": key, "status": "pending"})

    async def _commit(self, request: web.Request) -> web.Response:
        key, record = request.match_info["key"], self.records[request.match_info["id"]]
        if key not in record.get("bytes", {}):
            return web.json_response({"message": "no content"}, status=400)
        entry = {"status": "completed", "checksum": f"md5:{hashlib.md5(record['bytes'][key]).hexdigest()}"}
        record["entries"][key] = entry
        return web.json_response({"key": key, **entry})
