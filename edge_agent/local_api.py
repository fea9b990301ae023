"""The local API: HTTP over a Unix socket in the spool, for the command line and the status page.

Nothing here leaves the machine. The socket's mode lets only the service's user and group in; there is no other authentication.
Errors are the project's own, as JSON ``{"code", "what", "why", "try"}`` with status 400 (a mistake of the caller) or 500.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from edge_agent.agent.agent import Agent, status_json
from edge_agent.errors import (
    ConfigError,
    DiskError,
    EdgeAgentError,
    InstrumentUnreachable,
    IntegrityError,
    PermissionRefused,
    TargetUnreachable,
    UsageError,
)
from edge_agent.metrics import exposition
from edge_agent.model import Access, Outcome
from edge_agent.spool.quarantine import GivenUp, Quarantined

log = logging.getLogger(__name__)

SOCKET = "agent.sock"
AGENT: web.AppKey[Agent] = web.AppKey("agent", Agent)
CLASSES = (UsageError, ConfigError, InstrumentUnreachable, TargetUnreachable, PermissionRefused, IntegrityError, DiskError)


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        if request.app[AGENT].stopping:
            raise EdgeAgentError("The agent is stopping", why="runs that are open are being closed", try_="start it again", code="STOPPING")
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return _told(UsageError(f"there is no {request.method} {request.path}", why=str(error.reason)), error.status)
    except EdgeAgentError as error:
        return _told(error, 400)
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path, extra={"code": "API"})
        return _told(EdgeAgentError("The agent could not answer", why=f"{type(error).__name__}: {error}", code="API"), 500)
    return answer


def _told(error: EdgeAgentError, status: int) -> web.Response:
    body = {"code": error.code, "what": error.what, "why": error.why, "try": error.try_, "exit": error.exit_code}
    return web.json_response(body, status=status)


async def _status(request: web.Request) -> web.Response:
    agent = request.app[AGENT]
    return web.Response(text=status_json(await agent.status()), content_type="application/json")


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(text=exposition(await request.app[AGENT].status()), content_type="text/plain")


async def _start(request: web.Request) -> web.Response:
    body = await _body(request, {"group", "project", "user", "role", "sample", "title", "access"})
    agent = request.app[AGENT]
    group = body.get("group") or _only(list(agent.desk.groups))
    run = agent.desk.start(
        group, project=body.get("project", ""), user=body.get("user", ""), role=body.get("role", ""), sample=body.get("sample", ""),
        title=body.get("title", ""), access=_access(body.get("access", "")),
    )  # fmt: skip
    return web.json_response({"run": run.name, "folder": run.folder, "group": group})


async def _stop(request: web.Request) -> web.Response:
    body = await _body(request, {"group", "outcome"})
    agent = request.app[AGENT]
    group = body.get("group") or _only(
        [name for name, g in agent.desk.groups.items() if g.foreground is not None] or list(agent.desk.groups)
    )
    run = await agent.desk.stop(group, _outcome(body.get("outcome") or Outcome.COMPLETE.value))
    return web.json_response({"run": run.name, "folder": run.folder, "group": group})


def _access(text: str) -> Access | None:
    """None for an empty text."""
    try:
        return Access(text) if text else None
    except ValueError as error:
        known = ", ".join(access.value for access in Access)
        raise UsageError(f"{text!r} is no access", why=f"known: {known}", try_="--access closed", code="ACCESS") from error


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError as error:
        known = ", ".join(outcome.value for outcome in Outcome)
        raise UsageError(f"{text!r} is no outcome", why=f"outcomes: {known}", try_="--outcome complete", code="OUTCOME") from error


async def _amend(request: web.Request) -> web.Response:
    """Fields as ``set.NAME``, because a body is a flat map of texts."""
    body = await _body(request, {"run", "author", "reason"}, prefix="set.")
    agent = request.app[AGENT]
    fields = {name.removeprefix("set."): value for name, value in body.items() if name.startswith("set.")}
    entry, amendment = await asyncio.to_thread(
        agent.amending.amend, body.get("run", ""), fields, body.get("author", ""), body.get("reason", "")
    )
    changes = [{"field": change.field, "old": change.old, "new": change.new} for change in amendment.changes]
    return web.json_response({"run": entry.run.name, "folder": entry.run.folder, "number": amendment.number, "changes": changes})


async def _claim(request: web.Request) -> web.Response:
    body = await _body(request, {"run", "project", "author", "reason"})
    agent = request.app[AGENT]
    made = await asyncio.to_thread(
        agent.claiming.claim, body.get("run", ""), body.get("project", ""), body.get("author", ""), body.get("reason", "")
    )
    return web.json_response({"run": made.entry.run.name, "number": made.number, "folder": made.folder, "sent": made.sent})


async def _publish(request: web.Request) -> web.Response:
    body = await _body(request, {"project", "key", "author", "reason"})
    said = await asyncio.to_thread(
        request.app[AGENT].publishing.publish, body.get("project", ""), body.get("key", ""), body.get("author", ""), body.get("reason", "")
    )
    return web.json_response(asdict(said))


async def _encrypted(request: web.Request) -> web.Response:
    """What targets hold encrypted of the run of the query, and which of its keys are published."""
    sent, published = await asyncio.to_thread(request.app[AGENT].publishing.sent, request.query.get("run", ""))
    items = [
        {
            "file": each.item.remote,
            "target": each.target,
            "object": each.held.name,
            "size": each.held.size,
            "sha256": each.held.sha256.hex(),
            "keys": each.keys,
        }
        for each in sent
    ]
    keys = {key: published[key].as_json() if key in published else None for each in sent for key in each.keys}
    return web.json_response({"items": items, "keys": keys})


async def _kick(request: web.Request) -> web.Response:
    return web.json_response({"parked": await request.app[AGENT].engine.kick()})


async def _change_keys(request: web.Request) -> web.Response:
    """New session keys; ``compromised`` says why the old ones are not trusted any more, empty when they are."""
    body = await _body(request, {"compromised"})
    sessions = request.app[AGENT].sessions
    await asyncio.to_thread(sessions.change, body.get("compromised", "").strip())
    return web.json_response({"kid": sessions.keeper.session.kids[0].hex()})


async def _quarantine(request: web.Request) -> web.Response:
    """All entries, or the one of the query's ``id``; and what was ever given up."""
    quarantine, wanted = request.app[AGENT].spool.quarantine, request.query.get("id")
    entries = await asyncio.to_thread(quarantine.entries if wanted is None else lambda: (quarantine.show(wanted),))
    dropped = await asyncio.to_thread(quarantine.dropped)
    gone = [{"id": d.id, "path": str(d.path), "size": d.size, "why": d.why, "reason": d.reason, "t_ns": d.t_ns} for d in dropped]
    return web.json_response({"entries": [_entry(entry) for entry in entries], "dropped": gone})


async def _retry(request: web.Request) -> web.Response:
    body = await _body(request, {"id"})
    agent = request.app[AGENT]
    entry = await asyncio.to_thread(agent.spool.quarantine.retry, body.get("id", ""))
    agent.engine.wake()
    return web.json_response(_entry(entry))


async def _drop(request: web.Request) -> web.Response:
    body = await _body(request, {"id", "reason"})
    agent = request.app[AGENT]
    was = await asyncio.to_thread(agent.drop, body.get("id", ""), body.get("reason", ""))
    agent.engine.wake()  # what had to come after it may go now
    if isinstance(was, GivenUp):
        return web.json_response({"id": was.target, "items": was.items, "lost": was.lost})
    return web.json_response(_entry(was))


async def _export(request: web.Request) -> web.Response:
    body = await _body(request, {"id", "folder"})
    folder = Path(body.get("folder", ""))
    if not folder.is_absolute():
        raise UsageError(f"{str(folder)!r} is no whole path", why="the agent runs in another folder than you", try_="begin it with /")
    try:
        copy = await asyncio.to_thread(request.app[AGENT].spool.quarantine.export, body.get("id", ""), folder)
    except DiskError as error:
        raise PermissionRefused(
            f"The agent cannot write a copy into {folder}.", why=error.why, code="EXPORT",
            try_="name a folder where the agent's user may write and where no file of this name is",
        ) from error  # fmt: skip
    return web.json_response({"id": body.get("id", ""), "path": str(copy)})


def _entry(entry: Quarantined) -> dict[str, Any]:
    return {
        "id": entry.id,
        "path": str(entry.path),
        "beside": [str(path) for path in entry.beside],
        "size": entry.size,
        "why": entry.why,
        "since_ns": entry.since_ns,
        "targets": entry.targets,
        "remote": entry.item.remote if entry.item else None,
        "origin": str(entry.origin) if entry.origin else None,
    }


async def _body(request: web.Request, known: set[str], *, prefix: str | None = None) -> dict[str, str]:
    try:
        value = json.loads(await request.text() or "{}")
    except json.JSONDecodeError as error:
        raise UsageError("the request is not JSON", why=str(error)) from error
    names = {name for name in value if prefix is None or not name.startswith(prefix)} if isinstance(value, dict) else set()
    if not isinstance(value, dict) or not names <= known or not all(isinstance(v, str) for v in value.values()):
        raise UsageError("the request has other keys or values than it may", why=f"known: {', '.join(sorted(known))}")
    return value


def _only(names: list[str]) -> str:
    if len(names) != 1:
        raise UsageError("say which group", why=f"groups: {', '.join(sorted(names))}", try_="--group NAME")
    return names[0]


def application(agent: Agent) -> web.Application:
    """The routes over one agent."""
    app = web.Application(middlewares=[_errors])
    app[AGENT] = agent
    app.router.add_get("/status", _status)
    app.router.add_get("/metrics", _metrics)
    app.router.add_post("/session/start", _start)
    app.router.add_post("/session/stop", _stop)
    app.router.add_post("/amend", _amend)
    app.router.add_post("/claim", _claim)
    app.router.add_post("/project-key/publish", _publish)
    app.router.add_get("/project-key", _encrypted)
    app.router.add_post("/kick", _kick)
    app.router.add_post("/keys/change", _change_keys)
    app.router.add_get("/quarantine", _quarantine)
    app.router.add_post("/quarantine/retry", _retry)
    app.router.add_post("/quarantine/drop", _drop)
    app.router.add_post("/quarantine/export", _export)
    return app


@contextlib.asynccontextmanager
async def serving(agent: Agent, spool: Path) -> AsyncIterator[None]:
    """Serve while the context is open."""
    runner = web.AppRunner(application(agent), access_log=None, handle_signals=False)
    await runner.setup()
    path = spool / SOCKET
    path.unlink(missing_ok=True)
    # A Unix socket's path holds about 100 bytes: a deep spool is reached through its folder's file descriptor.
    folder = os.open(spool, os.O_RDONLY)
    try:
        site = web.UnixSite(runner, f"/proc/self/fd/{folder}/{SOCKET}" if len(str(path)) > 90 else str(path))
        await site.start()
        path.chmod(0o660)
        yield
    finally:
        await runner.cleanup()
        os.close(folder)
        path.unlink(missing_ok=True)


def _open_folder(spool: Path) -> int:
    """A descriptor of the spool's folder, -1 when it is not there."""
    return os.open(spool, os.O_RDONLY) if spool.is_dir() else -1


async def ask(spool: Path, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
    """Call a running daemon.

    Raises:
        EdgeAgentError: what the daemon said, in its words and class (`UsageError`: the request is wrong); or nothing answers.
        PermissionRefused: this user may not talk to it.
    """
    where, folder = spool / SOCKET, -1
    try:
        folder = _open_folder(spool)
        address = f"/proc/self/fd/{folder}/{SOCKET}" if len(str(where)) > 90 else str(where)
        connector = aiohttp.UnixConnector(address)
        timeout = aiohttp.ClientTimeout(total=120, connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
            async with session.request(method, f"http://agent{path}", json=dict(body) if body is not None else None) as answer:
                if answer.content_type == "application/json":
                    value = await answer.json()
                else:
                    value = await answer.text()
                if answer.status >= 400:
                    raise _said(value)
                return value
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionRefused(
                "You may not talk to the agent.", why=f"{where}: {error}", try_="ask for membership of the service's group, or use sudo",
                code="AGENT_PERMISSION",
            ) from error  # fmt: skip
        raise EdgeAgentError(
            "No edge-agent answers here.", why=f"{where}: {error}", try_="is it running? edge-agent run --config FILE", code="AGENT_DOWN"
        ) from error
    finally:
        if folder >= 0:
            os.close(folder)


def _said(value: Any) -> EdgeAgentError:
    """The daemon's error in its class."""
    if not isinstance(value, dict):
        return EdgeAgentError("The agent could not answer", why=str(value)[:500], code="API")
    made = next((cls for cls in CLASSES if cls.exit_code == value.get("exit")), EdgeAgentError)
    what, why, try_, code = (str(value.get(key, "")) for key in ("what", "why", "try", "code"))
    return made(what, why=why, try_=try_, code=code)
