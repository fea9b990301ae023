"""A run that landed, exported for NIMS RDE and for WEKO3: judged by rdetoolkit, bagit and a SWORD door that refuses what WEKO refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from edge_agent.cli.app import run as command
from edge_agent.errors import IntegrityError, PermissionRefused, PolicyRefused, TargetUnreachable, UsageError
from edge_agent.export.rde import FIELDS, export_rde, template
from edge_agent.export.run_folder import RunFolder, open_run
from edge_agent.export.sword import deposit
from edge_agent.export.weko import export_weko
from edge_agent.model import Access, Frame, Kind, Label, Stream
from tests.agent.sword import TOKEN, Sword
from tests.environments import environment

IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)
CAMERA = '[instrument.camera]\nadapter = "driven"\ngroup = "bl"\n'
INVOICE = {"datasetId": "1s1199df4-0d1v-41b0-1dea-23bf4dh09g12", "basic": {"dataOwnerId": "0" * 56, "instrumentId": None}}


@pytest.fixture
async def landed(configure: Callable[..., Path], start: Any, until: Any, adapters: ModuleType, tmp_path: Path) -> Path:
    """The folder of a run of ten frames."""
    agent = await start(configure(CAMERA))
    inlet = (await until(lambda: adapters.SINKS.get("camera"))).open(IMAGE)
    run = agent.desk.start("bl", project="p")
    for number in range(10):
        assert inlet.offer(Frame(np.full((8, 8), number, "<u2"), number, time.time_ns(), time.time_ns()))
    await agent.desk.stop("bl")
    folder = tmp_path / "space" / run.folder

    async def complete() -> bool:
        return (folder / "ro-crate-metadata.json").exists() and (folder / f"{run.name}.hsc").exists()

    await until(complete)
    return folder


def opened(run: RunFolder) -> RunFolder:
    return replace(run, label=Label(Access.OPEN))


async def test_a_run_for_rde(landed: Path, tmp_path: Path) -> None:
    run = open_run(landed)
    archive, paper = export_rde(run, tmp_path / "out", INVOICE)
    with zipfile.ZipFile(archive) as found:
        assert found.testzip() is None
        names = found.namelist()
        metadata = json.loads(found.read("meta/metadata.json"))
    assert len({name.rsplit("/", 1)[-1] for name in names}) == len(names), "RDE copies them flat"
    assert {name.split("/")[0] for name in names} == {"nonshared_raw", "structured", "meta", "main_image"}, "a closed run's data is not shared"
    assert set(metadata["constant"]) <= set(FIELDS)
    assert metadata["constant"]["run_id"] == {"value": run.record["runId"]}
    assert metadata["constant"]["received"] == {"value": "10"}
    invoice = json.loads(paper.read_text())
    assert (invoice["basic"]["dataOwnerId"], invoice["custom"]["run_id"]) == ("0" * 56, run.record["runId"])
    assert invoice["custom"]["zip_sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    again, _ = export_rde(run, tmp_path / "again", INVOICE)
    assert again.read_bytes() == archive.read_bytes(), "the same input, the same bytes"
    shared, _ = export_rde(opened(run), tmp_path / "open", INVOICE)
    assert any(name.startswith("raw/") for name in zipfile.ZipFile(shared).namelist())


async def test_what_stops_an_export(landed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        export_rde(open_run(landed), tmp_path / "out", {"basic": {}})
    assert "datasetId, basic.dataOwnerId" in str(refused.value)
    with pytest.raises(UsageError):
        open_run(tmp_path)
    changed = tmp_path / "changed"
    shutil.copytree(landed, changed)
    preview = changed / "preview.png"
    preview.write_bytes(preview.read_bytes() + b"x")
    with pytest.raises(IntegrityError) as spoilt:
        open_run(changed)
    assert spoilt.value.code == "EXPORT_CHANGED"
    preview.unlink()
    with pytest.raises(IntegrityError):
        open_run(changed)
    for index in ([], ["main"], [""]):
        with pytest.raises(UsageError):
            export_weko(open_run(landed), tmp_path, index)
    with pytest.raises(PolicyRefused):
        export_weko(open_run(landed), tmp_path, ["1"], "public")


@pytest.fixture
async def weko(tmp_path: Path) -> AsyncIterator[tuple[Sword, str]]:
    sword = Sword(tmp_path)
    async with TestServer(sword.app()) as server:
        yield sword, str(server.make_url("/sword/service-document"))


async def test_a_run_is_deposited_once_and_arrives_whole(landed: Path, weko: tuple[Sword, str], tmp_path: Path) -> None:
    sword, service = weko
    run = open_run(landed)
    archive = export_weko(run, tmp_path / "out", ["1623632832836"])
    with pytest.raises(PolicyRefused):
        await deposit(run, archive, service, TOKEN)
    assert sword.deposits == [], "a closed run goes to no repository"
    run = opened(run)
    made = await deposit(run, archive, service, TOKEN)
    assert (made.status, made.place) == (201, "/sword/deposit/1")
    there = sword.deposits[0]["folder"] / "data"
    for file in run.files:
        assert (there / file.name).read_bytes() == file.path.read_bytes()
    listed = {e["@id"] for e in sword.deposits[0]["crate"]["@graph"] if e["@type"] == "File"}
    assert listed == {file.name for file in run.files}
    archive = export_weko(run, tmp_path / "out", ["1623632832836"])
    assert await deposit(run, archive, service, TOKEN) == made, "the same zip, asked for again"
    assert len(sword.deposits) == 1
    assert (await deposit(run, archive, service, TOKEN, replace="1")).status == 200
    assert (len(sword.deposits), sword.replaced) == (1, ["1"])
    sword.waits = True
    assert (await deposit(run, archive, service, TOKEN, again=True)).status == 202


async def test_a_deposit_of_which_nobody_knows_is_not_repeated_by_itself(landed: Path, weko: tuple[Sword, str], tmp_path: Path) -> None:
    sword, service = weko
    run = opened(open_run(landed))
    archive = export_weko(run, tmp_path / "out", ["1"])
    sword.silent = True
    with pytest.raises(TargetUnreachable):
        await deposit(run, archive, service, TOKEN)
    assert len(sword.deposits) == 1, "it is there, and the answer got lost"
    sword.silent = False
    with pytest.raises(PermissionRefused) as refused:
        await deposit(run, archive, service, TOKEN)
    assert refused.value.code == "WEKO_UNANSWERED"
    sword.searchable[str(run.entity("./")["name"])] = "15"
    elsewhere = export_weko(run, tmp_path / "elsewhere", ["1"])
    for zipped in (archive, elsewhere):
        with pytest.raises(PermissionRefused, match="--replace 15") as refused:
            await deposit(run, zipped, service, TOKEN)
        assert refused.value.code == "WEKO_THERE"
    assert len(sword.deposits) == 1
    assert (await deposit(run, archive, service, TOKEN, replace="15")).place == "/sword/deposit/15"


async def test_what_a_repository_refuses_can_be_tried_again(landed: Path, weko: tuple[Sword, str], tmp_path: Path) -> None:
    sword, service = weko
    run = opened(open_run(landed))
    archive = export_weko(run, tmp_path / "out", ["1"])
    with pytest.raises(PermissionRefused):
        await deposit(run, archive, service, "wrong")
    for status, kind, code in (
        (403, PermissionRefused, "WEKO_REFUSED"), (412, PermissionRefused, "WEKO_REFUSED"), (413, PermissionRefused, "WEKO_REFUSED"),
        (429, TargetUnreachable, "WEKO_BUSY"),
    ):  # fmt: skip
        sword.refuses = status
        with pytest.raises(kind) as refused:
            await deposit(run, archive, service, TOKEN)
        assert refused.value.code == code
    sword.refuses, sword.largest = 0, 10
    with pytest.raises(PermissionRefused) as refused:
        await deposit(run, archive, service, TOKEN)
    assert refused.value.code == "WEKO_TOO_LARGE"
    sword.largest = 1 << 30
    with pytest.raises(TargetUnreachable):
        await deposit(run, archive, "http://127.0.0.1:9/sword/service-document", TOKEN)
    assert (await deposit(run, archive, service, TOKEN)).status == 201


async def test_the_verbs(landed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "invoice.json").write_text(json.dumps(INVOICE))
    (tmp_path / "bad.json").write_text("[1]")
    out = ["--out", str(tmp_path / "out")]
    assert command(["export", "rde", str(landed), "--invoice", str(tmp_path / "invoice.json"), *out]) == 0
    assert command(["export", "rde", str(landed), "--invoice", str(tmp_path / "bad.json"), *out]) == UsageError.exit_code
    assert command(["export", "rde-template", *out]) == 0
    capsys.readouterr()
    assert command(["score", str(landed), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert {c["key"] for c in judged["checks"] if c["got"] == c["points"]} >= {"project", "checksums", "signed", "complete"}
    assert judged["unknown"]["sample.igsn"] == "no sample was named"
    assert command(["export", "weko", str(landed), "--index", "12", *out, "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["zip"]).exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_rdetoolkit_takes_it_and_refuses_what_lacks_the_run(landed: Path, tmp_path: Path) -> None:
    # It brings pandas, polars and pyarrow, which nobody else here wants.
    python = environment("rdetoolkit", "rdetoolkit==1.7.1") / "python"
    run = open_run(landed)
    archive, paper = export_rde(run, tmp_path / "out", INVOICE)
    for name, good in (("good", True), ("bad", False)):
        data = tmp_path / name / "data"
        template(data)
        (data / "inputdata").mkdir()
        (data / "invoice").mkdir()
        shutil.copy(archive, data / "inputdata" / archive.name)
        invoice = json.loads(paper.read_text())
        if not good:
            del invoice["custom"]["run_id"]
        (data / "invoice" / "invoice.json").write_text(json.dumps(invoice))
        code = "import rdetoolkit; print(rdetoolkit.workflows.run())"
        done = subprocess.run([python, "-c", code], cwd=tmp_path / name, capture_output=True, text=True, timeout=300)
        if not good:
            assert done.returncode != 0 or (data / "job.failed").exists()
            continue
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert not (data / "job.failed").exists()
        assert {path.name for path in (data / "nonshared_raw").iterdir()} >= {f"{run.name}.nxs"}
        assert (data / "structured" / f"{run.name}.hsc").read_bytes() == (landed / f"{run.name}.hsc").read_bytes()
        assert json.loads((data / "meta" / "metadata.json").read_text())["constant"]["received"] == {"value": "10"}
        assert list((data / "main_image").iterdir())
