"""``python -m landing``: init, token, agents, grant, approve-restart, revoke, label, serve, fake-rdm."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.errors import EdgeAgentError, UsageError
from edge_agent.model import Access, utc_now_ns
from edge_agent.wire.names import BadName, check_project
from edge_agent.wire.talk import PREFIX
from edge_agent.wire.words import six_words
from edge_agent.words import t
from landing import authority
from landing.catalogue import Agent, Catalogue, LaterLabel
from landing.enrol import issue_token
from landing.fake_rdm import Rehearsal
from landing.fake_rdm import serve as serve_rdm
from landing.home import PUBLIC, Home, S3Place, Settings, write_durably
from landing.pages import CRATE
from landing.places import open_catalogue
from landing.revoke import revoke as revoke_agent
from landing.room import Limits
from landing.serve import Options, serve

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the landing service.")]
Projects = Annotated[list[str], typer.Option("--project", help="Project that the agent may write to; may be repeated.")]
GIB = 1 << 30
URL = re.compile(PUBLIC)


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Name of the service, for people and in receipts.")],
    host: Annotated[list[str] | None, typer.Option("--host", help="Further name or address of this machine.")] = None,
    postgres: Annotated[str, typer.Option(help="PostgreSQL for the catalogue: postgresql://landing@host/landing; default: SQLite.")] = "",
    s3: Annotated[str, typer.Option(help="URL of an S3 store for the bytes; default: the folder.")] = "",
    bucket: Annotated[str, typer.Option(help="Its bucket.")] = "",
    prefix: Annotated[str, typer.Option(help='Beginning of all keys there, as "landing/".')] = "",
    public: Annotated[str, typer.Option(help="Address under which everybody sees open runs; default: nobody does.")] = "",
) -> None:
    """Make a landing service: its certificate authority, keys, project spaces and catalogue."""
    home = Home(folder)
    if bool(s3) != bool(bucket):
        raise UsageError("--s3 and --bucket belong together", try_="give both, or none")
    if public and not URL.fullmatch(public):
        raise UsageError(f"--public {public} is no address", why="wants http(s)://host[/path] without a slash at its end")
    settings = Settings(name=name, public=public, postgres=postgres, s3=S3Place(endpoint=s3, bucket=bucket, prefix=prefix) if s3 else None)
    settings = settings.model_copy(update={"hosts": settings.hosts + tuple(host or ())})
    home.create(settings)
    ca = authority.create(home, settings)
    open_catalogue(home).close()
    print(t("{name}: landing service in {folder}", name=name, folder=folder))
    print(t("root certificate: {path}", path=home.root))
    print(t("its words: {words}", words=six_words(hashlib.sha256(ca.root_der).digest())))
    print(t("next: {command}", command=f"python -m landing serve {folder}"))


@app.command()
def token(
    folder: Folder,
    project: Projects,
    url: Annotated[str, typer.Option(help="URL that the agent reaches the service at; the running server's by default.")] = "",
) -> None:
    """Make a one-time token, good for 15 minutes, by which one agent enrols."""
    home = Home(folder)
    home.load()
    ca = authority.load(home)
    with closing(open_catalogue(home)) as catalogue:
        made = issue_token(catalogue, ca.root_der, url or home.announced(), project, utc_now_ns())
    print(f"edge-agent enroll {made.text()}")
    print(t("words: {words}", words=six_words(made.root)))
    print(t("Good for one agent, for 15 minutes. The agent shows the same six words."))


@app.command()
def grant(folder: Folder, agent: Annotated[str, typer.Argument(help="Agent id, hex.")], project: Projects) -> None:
    """Let an enrolled agent write to more projects."""
    home = Home(folder)
    home.load()
    with closing(open_catalogue(home)) as catalogue:
        known = _known(catalogue, agent, folder)
        catalogue.grant(known.agent_id, tuple(check_project(name) for name in project))
    print(t("{name}: may write to {projects}", name=known.name, projects=", ".join(sorted(known.projects | set(project)))))


@app.command("approve-restart")
def approve_restart(folder: Folder, agent: Annotated[str, typer.Argument(help="Agent id, hex.")]) -> None:
    """Let an agent whose disk was restored or lost go on in a new log. Ask its owner first: a copied key looks the same."""
    home = Home(folder)
    home.load()
    with closing(open_catalogue(home)) as catalogue:
        known = _known(catalogue, agent, folder)
        catalogue.approve_restart(known.agent_id, utc_now_ns())
    print(t("{name}: may begin one new log; the old one stays on record and is not countersigned again", name=known.name))


@app.command()
def agents(folder: Folder) -> None:
    """List who is enrolled."""
    home = Home(folder)
    home.load()
    with closing(open_catalogue(home)) as catalogue:
        for agent in catalogue.agents():
            state = t("shut out") if agent.revoked else ", ".join(sorted(agent.projects))
            print(f"{agent.agent_id.hex()}  {agent.name}  {state}")


@app.command()
def revoke(
    folder: Folder,
    agent: Annotated[str, typer.Argument(help="Agent id, hex; `agents` lists them.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the catalogue.")],
) -> None:
    """Shut an agent out whose identity may be stolen, for good: it is not answered, stored for or countersigned any more."""
    home = Home(folder)
    home.load()
    signer, _ = authority.receipt_signer(home)
    with closing(open_catalogue(home)) as catalogue:
        known = _known(catalogue, agent, folder)
        said = revoke_agent(catalogue, signer, known, reason, utc_now_ns())
    path = home.path / "revoked" / f"{known.agent_id.hex()}.cose"
    path.parent.mkdir(exist_ok=True)
    write_durably(path, said.statement, 0o644)
    print(t("{name} is shut out: nothing is taken from it any more, and its log is not countersigned.", name=known.name))
    print(t("What was stored and countersigned before stays. The signed statement: {path}", path=path))
    print(t("To go on with that instrument, enrol it as a new agent with a new token."))


@app.command()
def label(
    folder: Folder,
    run: Annotated[str, typer.Argument(help="Folder of the run in its project space: project/group/date/run.")],
    access: Annotated[str, typer.Argument(help="open: everybody sees the run on the public pages; closed: nobody does.")],
    author: Annotated[str, typer.Option(help="Who decided it: an ORCID or a name.")],
    reason: Annotated[str, typer.Option(help="Why; both are shown on the page of the run.")],
) -> None:
    """Open a run that landed, or close one: what an agent signed stays, and the newest word counts on the public pages."""
    home = Home(folder)
    settings = home.load()
    if access not in ("open", "closed"):
        raise UsageError(f"{access} is no label of a page", why="a run is shown to everybody or to nobody", try_="say open or closed")
    for what, text in (("author", author), ("reason", reason)):
        if not text.strip() or len(text) > 1000 or not text.isprintable():
            raise UsageError(f"The {what} cannot be kept", why="it is empty, longer than 1000 characters or has control characters")
    with closing(open_catalogue(home)) as catalogue:
        crate = catalogue.at(f"{run.strip('/')}/{CRATE}")
        if crate is None:
            raise UsageError(f"There is no complete run in {run}", why="its crate comes last", try_="name it as project/group/date/run")
        word = LaterLabel(crate[0].run_id, Access(access), author, reason, utc_now_ns())
        catalogue.say_later(word)
    said = t("Run {run} is open: everybody sees it.", run=run) if access == "open" else t("Run {run} is closed: nobody sees it.", run=run)
    print(said)
    if not settings.public:
        print(t("This service has no public pages yet: they need the address \"public\" in landing.json."))


def _known(catalogue: Catalogue, agent: str, folder: Path) -> Agent:
    try:
        known = catalogue.agent(bytes.fromhex(agent))
    except ValueError as error:
        raise UsageError(f"{agent} is no agent id", why="wants 32 hex digits") from error
    if known is None:
        raise UsageError(f"Agent {agent} is not enrolled here", try_=f"python -m landing token {folder} --project P")
    return known


@app.command("serve")
def serve_command(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 0,
    mqtt: Annotated[str, typer.Option(help="Broker for the second door: mqtt://[user:password@]host:port, or mqtts://...")] = "",
    mqtt_ca: Annotated[str, typer.Option(help="PEM file of the broker's CA, for mqtts://.")] = "",
    mqtt_topic: Annotated[str, typer.Option(help="Beginning of all topics.")] = PREFIX,
    mqtt_share: Annotated[str, typer.Option(help="Group of servers that share the broker's messages, the same name for each.")] = "",
    keep_free: Annotated[float, typer.Option(help="GiB of the disk that stay free.")] = 1.0,
    quota: Annotated[float, typer.Option(help="GiB that one project may hold; 0 is no limit.")] = 0.0,
    upload_age: Annotated[float, typer.Option(help="Days without a byte after which an unfinished upload is removed; 0 is never.")] = 30.0,
    uploads: Annotated[int, typer.Option(help="Unfinished uploads that one agent may have; 0 is no limit.")] = 1000,
    upload_space: Annotated[float, typer.Option(help="GiB that those may be announced to take together; 0 is no limit.")] = 0.0,
) -> None:
    """Take, check, store and countersign, until stopped; prints one JSON line when ready."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    limits = Limits(
        keep_free=int(keep_free * GIB), quota=int(quota * GIB) or None, uploads=uploads or None,
        upload_bytes=int(upload_space * GIB) or None, upload_age=upload_age * 86_400 or None,
    )  # fmt: skip
    asyncio.run(serve(Home(folder), Options(host, port, mqtt, mqtt_ca, mqtt_topic, mqtt_share, limits)))


@app.command("fake-rdm")
def fake_rdm(
    folder: Folder,
    token: Annotated[str, typer.Option(help="The personal access token that it takes.")],
    node: Annotated[list[str], typer.Option("--node", help='Id of a project, as "abc12"; may be repeated.')],
    storage: Annotated[list[str] | None, typer.Option("--storage", help='Storage of each project; default "osfstorage".')] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 0,
    quota: Annotated[float, typer.Option(help="GiB that it takes in all.")] = 100.0,
    hashes: Annotated[bool, typer.Option(help="Whether the storage tells digests, as osfstorage does.")] = True,
) -> None:
    """A GakuNin RDM to rehearse with: API v2 and WaterButler v1 over a folder; prints one JSON line when ready."""
    providers = tuple(storage or ["osfstorage"])
    nodes = {name: f"rehearsal {name}" for name in node}
    rehearsal = Rehearsal(token, nodes, providers, hashes=hashes, quota=int(quota * GIB))
    asyncio.run(_rehearse(folder, rehearsal, host, port))


async def _rehearse(folder: Path, rehearsal: Rehearsal, host: str, port: int) -> None:
    runner, at = await serve_rdm(folder, rehearsal, host, port)
    try:
        base = f"http://{host}:{at}"
        print(json.dumps({"files": base, "api": f"{base}/v2", "nodes": sorted(rehearsal.nodes)}), flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Run; a failure is what, why and try, and the error's exit code."""
    try:
        app()
    except EdgeAgentError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BadName as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(UsageError.exit_code)


if __name__ == "__main__":
    main()
