"""A run as a draft in an InvenioRDM (a fake, see there): whole, once, and only where its label lets it go."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from edge_agent.cli.app import run as command
from edge_agent.errors import IntegrityError, PermissionRefused, PolicyRefused, TargetUnreachable
from edge_agent.export.invenio import draft, send
from edge_agent.export.run_folder import CRATE, RunFolder
from edge_agent.model import Access, Label
from edge_agent.provenance.facts import RunRecord
from tests.export.invenio import TOKEN, Invenio

Make = Callable[[RunRecord], RunFolder]


@pytest.fixture
async def invenio() -> AsyncIterator[tuple[Invenio, str]]:
    made = Invenio()
    async with TestServer(made.app()) as server:
        yield made, str(server.make_url("/api"))


def opened(run: RunFolder) -> RunFolder:
    return replace(run, label=Label(Access.OPEN))


async def test_a_run_becomes_one_draft_with_every_file(make_run: Make, full_record: RunRecord, invenio: tuple[Invenio, str]) -> None:
    repository, api = invenio
    run = opened(make_run(full_record))
    made = await send(run, api, TOKEN)
    assert (made.made, made.page, made.problems) == (True, "/uploads/r0", ())
    there = repository.records["r0"]
    assert not there["is_published"], "a person publishes it"
    content = there["bytes"]
    assert repository.contents[-1] == CRATE
    with zipfile.ZipFile(io.BytesIO(content.pop("files.zip"))) as archive:
        vendor = {name: archive.read(name) for name in archive.namelist()}
    assert content | vendor == {
        path.relative_to(run.folder).as_posix(): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()
    }
    (creator,) = there["metadata"]["creators"]
    assert creator["person_or_org"]["identifiers"][0]["scheme"] == "orcid"
    sent = len(repository.contents)
    again = await send(run, api, TOKEN)
    assert (again.id, again.made, len(repository.contents)) == (made.id, False, sent), "nothing is sent twice"


async def test_what_broke_off_goes_on_in_the_same_draft(make_run: Make, full_record: RunRecord, invenio: tuple[Invenio, str]) -> None:
    repository, api = invenio
    run = opened(make_run(full_record))
    for fault in ("trouble", "cut", "spoil"):
        setattr(repository, fault, 503 if fault == "trouble" else True)
        with pytest.raises(IntegrityError if fault == "spoil" else TargetUnreachable):
            await send(run, api, TOKEN)
        repository.cut = False
    assert not (await send(run, api, TOKEN)).made
    (there,) = repository.records.values()
    assert all(entry["status"] == "completed" for entry in there["entries"].values())
    assert there["bytes"][CRATE] == (run.folder / CRATE).read_bytes()


async def test_what_is_refused(make_run: Make, full_record: RunRecord, invenio: tuple[Invenio, str]) -> None:
    repository, api = invenio
    closed = replace(make_run(full_record), label=Label(Access.CLOSED))
    with pytest.raises(PolicyRefused):
        await send(closed, api, TOKEN)
    assert repository.records == {}
    run = opened(closed)
    with pytest.raises(PermissionRefused) as refused:
        await send(run, api, "wrong")
    assert (refused.value.code, "token" in refused.value.try_) == ("INVENIO_REFUSED", True)
    repository.trouble = 413
    with pytest.raises(PermissionRefused):
        await send(run, api, TOKEN)
    repository.trouble = 429
    with pytest.raises(TargetUnreachable):
        await send(run, api, TOKEN)
    repository.records["r0"]["is_published"] = True
    with pytest.raises(PermissionRefused, match="new version") as there:
        await send(run, api, TOKEN)
    assert there.value.code == "INVENIO_THERE"
    with pytest.raises(TargetUnreachable):
        await send(run, "http://127.0.0.1:9/api", TOKEN)


def test_files_that_are_not_open_are_restricted(make_run: Make, full_record: RunRecord) -> None:
    run = make_run(full_record)
    named = replace(run, label=Label(Access.SHARED, frozenset({"https://zenodo.org/api"})))
    assert draft(named)["access"] == {"record": "restricted", "files": "restricted"}


def test_a_run_of_which_nobody_said_anything_is_a_valid_draft_too(make_run: Make, bare_record: RunRecord) -> None:
    metadata = draft(make_run(bare_record))["metadata"]
    assert all(metadata[key] for key in ("title", "creators", "publication_date", "resource_type"))
    assert metadata["creators"][0]["person_or_org"]["type"] == "organizational"


def test_the_verb_asks_the_policy_first(make_run: Make, full_record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(full_record)
    assert run.label.access is not Access.OPEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    words = ["export", "invenio", str(run.folder), "--api", "http://127.0.0.1:9/api", "--token", str(tmp_path / "token"), "--json"]
    assert command(words) == PolicyRefused.exit_code
    assert json.loads(capsys.readouterr().out)["ok"] is False
