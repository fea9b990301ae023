"""``edge-agent export rde | weko | ... | scicat | invenio | sinetstream``: a landed run as others take it, live values as readers do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t

if TYPE_CHECKING:
    from edge_agent.export.scicat import Place

Run = Annotated[Path, typer.Argument(metavar="RUN", help=t("Folder of a run that has landed."))]
Out = Annotated[Path, typer.Option("--out", "-o", help=t("Folder to write to."))]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(no_args_is_help=True, help=t("A landed run in the form that a repository takes."))
    group.command("rde", help=t("For NIMS RDE: the zip of its rdeformat mode, and the invoice."))(rde)
    group.command("rde-template", help=t("What an RDE data-set template needs to take these zips."))(rde_template)
    group.command("weko", help=t("For WEKO3 and JAIRO Cloud: a BagIt zip with an RO-Crate; deposited when told to."))(weko)
    group.command("sinetstream", help=t("For SINETStream: a reader's configuration for the live values."))(sinetstream)
    for name, purpose in {
        "croissant": t("As a Croissant 1.0 data set, for machine learning."),
        "datacite": t("As DataCite 4.5, for whoever registers a DOI."),
        "jpcoar": t("As JPCOAR 2.0, for an institutional repository."),
        "prov": t("As W3C PROV-JSON: who and what made which file."),
        "rdm-form": t("As GakuNin RDM's form for publicly funded data, as far as the run knows."),
    }.items():
        group.command(name, help=purpose)(_form(name))
    group.command("scicat", help=t("For SciCat: register the run as a dataset with its files; no bytes are sent."))(scicat)
    group.command("invenio", help=t("For InvenioRDM (Zenodo): a draft with all files, which a person publishes."))(invenio)
    app.add_typer(group, name="export")


def _secret(file: Path) -> str:
    """The token in a file.

    Raises:
        UsageError: it cannot be read.
    """
    from edge_agent.errors import UsageError

    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(t("{file} cannot be read.", file=file), why=str(error)) from error


def _form(name: str) -> Callable[..., int]:
    def write(run: Run, out: Out = Path(), as_json: JsonFlag = False) -> int:
        """Write the form."""
        from edge_agent.cli import output
        from edge_agent.export.forms import write_form
        from edge_agent.export.run_folder import open_run

        path = write_form(open_run(run), name, out)
        if as_json:
            output.emit({"ok": True, "file": str(path)})
        else:
            output.say(t("{file} is written.", file=path))
        return 0

    return write


def rde(
    run: Run,
    invoice: Annotated[Path, typer.Option("--invoice", help=t("JSON file with what only the site knows: datasetId, basic.dataOwnerId."))],
    out: Out = Path(),
    as_json: JsonFlag = False,
) -> int:
    """Write the zip and the invoice."""
    import json

    from edge_agent.cli import output
    from edge_agent.errors import UsageError
    from edge_agent.export.rde import export_rde
    from edge_agent.export.run_folder import open_run

    try:
        base = json.loads(invoice.read_text(encoding="utf-8"))
        if not isinstance(base, dict):
            raise ValueError(t("it is no JSON object"))
    except (OSError, ValueError) as error:
        raise UsageError(t("{file} is no invoice.", file=invoice), why=str(error), try_="edge-agent explain EXPORT_INVOICE") from error
    archive, paper = export_rde(open_run(run), out, base)
    if as_json:
        output.emit({"ok": True, "zip": str(archive), "invoice": str(paper)})
        return 0
    output.say(t("{zip} and {invoice} are ready for RDE's entry screen.", zip=archive, invoice=paper))
    return 0


def rde_template(out: Out = Path()) -> int:
    """Write the template's files."""
    from edge_agent.cli import output
    from edge_agent.export.rde import template

    template(out)
    output.say(t("{folder} is for the data-set template.", folder=out / "tasksupport"))
    return 0


def weko(
    run: Run,
    index: Annotated[list[str], typer.Option("--index", help=t("Number of the index that the item goes into; may be repeated."))],
    out: Out = Path(),
    public: Annotated[bool, typer.Option("--public", help=t("Ask for publication; by default the item is private."))] = False,
    deposit: Annotated[str, typer.Option("--deposit", metavar="URL", help=t("Deposit it: address of the SWORD service document."))] = "",
    token: Annotated[Path | None, typer.Option("--token", help=t("File with the access token for the deposit."))] = None,
    replace: Annotated[str, typer.Option("--replace", metavar="NUMBER", help=t("Number of the item that it takes the place of."))] = "",
    again: Annotated[bool, typer.Option("--again", help=t("Deposit it although it may be there already."))] = False,
    as_json: JsonFlag = False,
) -> int:
    """Write the zip, and deposit it."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.errors import UsageError
    from edge_agent.export import sword
    from edge_agent.export.run_folder import open_run
    from edge_agent.export.weko import export_weko

    opened = open_run(run)
    archive = export_weko(opened, out, index, "public" if public else "private")
    answer: dict[str, object] = {"ok": True, "zip": str(archive)}
    if deposit:
        if token is None:
            raise UsageError(t("A deposit needs a token."), try_="--token FILE")
        secret = _secret(token)
        made = asyncio.run(sword.deposit(opened, archive, deposit, secret, replace=replace or None, again=again))
        answer |= {"status": made.status, "place": made.place}
    if as_json:
        output.emit(answer)
        return 0
    output.say(t("{zip} is ready.", zip=archive))
    if deposit:
        waits = answer["status"] == 202
        said = t("It waits for a person: {place}", place=answer["place"]) if waits else t("Deposited: {place}", place=answer["place"])
        output.say(said)
    return 0


def sinetstream(
    config: ConfigOption = None,
    reader: Annotated[str, typer.Option("--reader", help=t("Who will read; each reader needs a name of its own."))] = "reader",
    ca: Annotated[str, typer.Option("--ca", help=t("PEM file of the broker's authority, as the reader will find it."))] = "",
    out: Out = Path(),
    as_json: JsonFlag = False,
) -> int:
    """Write the reader's configuration, one service a kind of message."""
    from edge_agent.cli import output
    from edge_agent.cli.options import config_path
    from edge_agent.config.loading import load
    from edge_agent.errors import UsageError
    from edge_agent.export.sinetstream import FILE, reader_config

    loaded = load(config_path(config))
    if not loaded.live:
        raise UsageError(t("There is no [live.NAME] in the configuration."), try_='sinetstream = "mqtts://..."')
    file = out / FILE
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(reader_config(loaded.site, loaded.live, reader, ca), encoding="utf-8")
    if as_json:
        output.emit({"ok": True, "file": str(file)})
        return 0
    output.say(t("{file} is for the folder in which the reader is started.", file=file))
    return 0


def scicat(
    run: Run,
    api: Annotated[str, typer.Option("--api", metavar="URL", help=t("Address of the catalogue's API, ending in /api/v4."))],
    token: Annotated[Path, typer.Option("--token", help=t("File with the access token for the catalogue."))],
    owner_group: Annotated[str, typer.Option("--owner-group", help=t("Group that owns the dataset there."))],
    contact: Annotated[str, typer.Option("--contact", help=t("Mail address of the contact person."))],
    source: Annotated[str, typer.Option("--source", help=t("Absolute path of the project space, as the catalogue's users see it."))],
    location: Annotated[str, typer.Option("--location", help=t('Where the data was taken, as "/KEK/PF/BL05".'))],
    access_group: Annotated[list[str] | None, typer.Option("--access-group", help=t("Group that may see it too; may be repeated."))] = None,
    below: Annotated[bool, typer.Option("--below", help=t("RUN holds many runs: register all that are not there yet."))] = False,
    as_json: JsonFlag = False,
) -> int:
    """Register a landed run, or all."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.export.run_folder import open_run
    from edge_agent.export.scicat import Place, register

    secret = _secret(token)
    place = Place(api, owner_group, contact, source, location, tuple(access_group or ()))
    if below:
        return asyncio.run(_scicat_below(run, place, secret, as_json))
    made = asyncio.run(register(open_run(run), place, secret))
    if as_json:
        output.emit({"ok": True, "pid": made.pid, "made": made.made})
        return 0
    output.say(t("Registered: {pid}", pid=made.pid) if made.made else t("It was registered before: {pid}", pid=made.pid))
    return 0


async def _scicat_below(folder: Path, place: Place, secret: str, as_json: bool) -> int:
    from edge_agent.cli import output
    from edge_agent.errors import EdgeAgentError, PolicyRefused
    from edge_agent.export.scicat import register_below

    made, there, kept, failed = [], 0, 0, []
    async for outcome in register_below(folder, place, secret):
        if isinstance(outcome.result, PolicyRefused):
            kept += 1
        elif isinstance(outcome.result, EdgeAgentError):
            failed.append(output.error(outcome.result))
        elif outcome.result.made:
            made.append(outcome.result.pid)
        else:
            there += 1
    if as_json:
        output.emit({"ok": not failed, "made": made, "there": there, "kept": kept, "failed": len(failed)})
    else:
        output.say(t(
            "{made} registered, {there} were there, {kept} may not go there, {failed} failed.",
            made=len(made), there=there, kept=kept, failed=len(failed),
        ))  # fmt: skip
    return failed[0] if failed else 0


def invenio(
    run: Run,
    api: Annotated[str, typer.Option("--api", metavar="URL", help=t("Address of the repository's API, as https://zenodo.org/api."))],
    token: Annotated[Path, typer.Option("--token", help=t("File with the access token for the deposit."))],
    as_json: JsonFlag = False,
) -> int:
    """Make a draft, or complete it."""
    import asyncio

    from edge_agent.cli import output
    from edge_agent.export.invenio import send
    from edge_agent.export.run_folder import open_run

    secret = _secret(token)
    draft = asyncio.run(send(open_run(run), api, secret))
    if as_json:
        output.emit({"ok": True, "id": draft.id, "page": draft.page, "made": draft.made, "problems": list(draft.problems)})
        return 0
    output.say(t("All files are in a draft that you can publish: {page}", page=draft.page or draft.id))
    for problem in draft.problems:
        output.say(t("Before that it wants: {problem}", problem=problem))
    return 0
