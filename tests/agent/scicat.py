"""A SciCat, API v4, as scicat-backend-next was read: who may, what a dataset and a block must say, and nothing that it does not know."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from typing import Any

from aiohttp import web

TOKEN, GROUP = "a-token", "bl05"
OWNABLE = {"ownerGroup": str, "accessGroups": [str], "instrumentGroup": str}
DATASET = OWNABLE | {
    "pid": str, "type": str, "version": str, "owner": str, "ownerEmail": str, "orcidOfOwner": str, "contactEmail": str, "sourceFolder": str,
    "sourceFolderHost": str, "size": int, "packedSize": int, "numberOfFiles": int, "numberOfFilesArchived": int, "creationTime": datetime,
    "validationStatus": str, "keywords": [str], "description": str, "datasetName": str, "classification": str, "license": str,
    "isPublished": bool, "techniques": [dict], "sharedWith": [str], "relationships": [dict], "datasetlifecycle": dict,
    "scientificMetadata": dict, "scientificMetadataSchema": str, "comment": str, "dataQualityMetrics": float,
    "principalInvestigators": [str], "startTime": datetime, "endTime": datetime, "creationLocation": str, "dataFormat": str,
    "proposalIds": [str], "sampleIds": [str], "instrumentIds": [str], "inputDatasets": [str], "usedSoftware": [str],
    "jobParameters": dict, "jobLogData": str, "runNumber": str,
}  # fmt: skip
NEEDED = {"ownerGroup", "contactEmail", "sourceFolder", "creationTime", "datasetName", "type"}
BLOCK = OWNABLE | {"datasetId": str, "size": int, "chkAlg": str, "dataFileList": [dict]}
FILE = {"path": str, "size": int, "time": datetime, "chk": str, "uid": str, "gid": str, "perm": str}


def wrong(body: Any, known: dict[str, Any], needed: set[str]) -> list[str]:
    """As class-validator says it: what is missing, unknown, or of another type."""
    if not isinstance(body, dict):
        return ["no object"]
    said = [f"property {key} should not exist" for key in body.keys() - known.keys()]
    said += [f"{key} must be there" for key in needed - body.keys()]
    return said + [f"{key} has another type" for key in body.keys() & known.keys() if not _is(body[key], known[key])]


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(each, kind[0]) for each in value)
    if kind is datetime:
        return isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", value) is not None
    return isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)


class SciCat:
    """``datasets`` and ``blocks`` are what it has; ``trouble`` is the status of the next POST of a block."""

    def __init__(self) -> None:
        self.datasets: list[dict[str, Any]] = []
        self.blocks: list[dict[str, Any]] = []
        self.trouble = 0

    def app(self) -> web.Application:
        made = web.Application(client_max_size=1 << 24, middlewares=[self._who])
        made.router.add_get("/api/v4/{what:datasets|origdatablocks}", self._find)
        made.router.add_post("/api/v4/datasets", self._dataset)
        made.router.add_post("/api/v4/origdatablocks", self._block)
        return made

    @web.middleware
    async def _who(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refuse(401, "Unauthorized")
        return await handler(request)

    async def _find(self, request: web.Request) -> web.Response:
        among = self.datasets if request.match_info["what"] == "datasets" else self.blocks
        where = json.loads(request.query.get("filter", "{}")).get("where", {})
        return web.json_response([one for one in among if all(_at(one, key) == value for key, value in where.items())])

    async def _dataset(self, request: web.Request) -> web.Response:
        body = await request.json()
        said = wrong(body, DATASET, NEEDED)
        if not said and body["type"] not in ("raw", "derived"):
            said = ["type must be one of the following values: raw, derived"]
        if not said and body["type"] == "raw" and "creationLocation" not in body:
            said = ["creationLocation must be there"]
        if not said and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", body["contactEmail"]):
            said = ["contactEmail must be an email"]
        if said:
            return refuse(400, said)
        if body["ownerGroup"] != GROUP or "pid" in body:
            return refuse(403, "Unauthorized to create this dataset")
        self.datasets.append({**body, "pid": f"PID/{uuid.uuid4()}", "sourceFolder": body["sourceFolder"].rstrip("/")})
        return web.json_response(self.datasets[-1], status=201)

    async def _block(self, request: web.Request) -> web.Response:
        if self.trouble:
            status, self.trouble = self.trouble, 0
            return refuse(status, "trouble")
        body = await request.json()
        said = wrong(body, BLOCK, {"datasetId", "size", "dataFileList"})
        said = said or [problem for file in body["dataFileList"] for problem in wrong(file, FILE, {"path", "size", "time"})]
        if said or not body["dataFileList"]:
            return refuse(400, said or ["dataFileList should not be empty"])
        if not any(dataset["pid"] == body["datasetId"] for dataset in self.datasets):
            return refuse(404, "dataset not found")
        self.blocks.append(body)
        return web.json_response({**body, "_id": str(uuid.uuid4())}, status=201)


def refuse(status: int, message: Any) -> web.Response:
    return web.json_response({"statusCode": status, "message": message}, status=status)


def _at(one: Any, key: str) -> Any:
    for part in key.split("."):
        one = one.get(part) if isinstance(one, dict) else None
    return one
