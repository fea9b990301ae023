"""The SWORD v3 door of a WEKO3, as weko-swordserver was read: it refuses what the real one refuses."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import bagit
from aiohttp import web

TOKEN = "a-token"


class Sword:
    """``deposits`` are the unpacked bags; ``waits`` makes a person decide; ``largest`` is what it takes.

    ``refuses`` is a status that it answers instead of storing; ``silent`` stores and hangs up; ``searchable`` are the items that its search
    finds, by title.
    """

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.deposits: list[dict[str, Any]] = []
        self.waits = False
        self.largest = 1 << 30
        self.refuses = 0
        self.silent = False
        self.searchable: dict[str, str] = {}
        self.replaced: list[str] = []

    def app(self) -> web.Application:
        made = web.Application(client_max_size=1 << 30)
        made.router.add_get("/sword/service-document", self._document)
        made.router.add_post("/sword/service-document", self._deposit)
        made.router.add_put("/sword/deposit/{number}", self._deposit)
        made.router.add_get("/api/v1/records", self._search)
        return made

    def _refuse(self, status: int, kind: str, why: str) -> web.Response:
        return web.json_response({"@type": kind, "error": why}, status=status)

    async def _document(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "AuthenticationRequired", "token")
        return web.json_response({"@type": "ServiceDocument", "maxUploadSize": self.largest, "digest": ["SHA-256"]})

    async def _search(self, request: web.Request) -> web.Response:
        assert request.query["exact_title_match"] == "true"
        number = self.searchable.get(request.query["title"])
        found = [] if number is None else [{"id": number, "metadata": {"@graph": []}}]
        return web.json_response({"total_results": len(found), "search_results": found})

    async def _deposit(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "AuthenticationRequired", "token")
        if request.headers.get("Packaging") != "http://purl.org/net/sword/3.0/package/SimpleZip":
            return self._refuse(415, "PackagingFormatNotAcceptable", "packaging")
        part = await (await request.multipart()).next()
        assert part is not None
        named = f"attachment; filename={part.filename}"
        if part.name != "file" or request.headers.get("Content-Disposition") != named:
            return self._refuse(400, "BadRequest", "Content-Disposition and the file's name differ")
        if part.headers.get("Content-Type") != "application/zip":
            return self._refuse(415, "ContentTypeNotAcceptable", "content type")
        body = bytes(await part.read())
        if self.refuses:
            return self._refuse(self.refuses, "Refused", "told to")
        if request.headers.get("Digest") != f"SHA-256={hashlib.sha256(body).hexdigest()}":
            return self._refuse(412, "DigestMismatch", "digest")
        place = self.folder / f"deposit{len(self.deposits)}"
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            archive.extractall(place)
        try:
            bagit.Bag(str(place)).validate()
            crate = json.loads((place / "data" / "ro-crate-metadata.json").read_text())
        except (bagit.BagError, OSError, ValueError) as error:
            return self._refuse(400, "ContentMalformed", str(error))
        context = crate["@context"]
        root = next((e for e in crate["@graph"] if e.get("@id") == "./"), {})
        if "https://w3id.org/ro/crate/1.1/context" not in (context if isinstance(context, list) else [context]):
            return self._refuse(400, "ContentMalformed", "context")
        if root.get("wk:publishStatus") not in ("public", "private") or "identifier" in root:
            return self._refuse(400, "ContentMalformed", "already registered, or no wk:publishStatus")
        if not all(str(index).isdigit() for index in root["wk:index"]):
            return self._refuse(400, "ContentMalformed", "wk:index")
        if (number := request.match_info.get("number")) is not None:
            self.replaced.append(number)
            return web.json_response({"@type": "Status", "@id": f"/sword/deposit/{number}"}, status=200)
        self.deposits.append({"crate": crate, "folder": place})
        if self.silent:
            assert request.transport is not None
            request.transport.abort()
        where = f"/sword/deposit/{len(self.deposits)}"
        return web.json_response({"@type": "Status", "@id": where}, status=202 if self.waits else 201)
