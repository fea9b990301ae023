"""A landed run in a SciCat catalogue: once, with every file's digest, and only where its label lets it go. The catalogue is a fake, see there."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from edge_agent.cli.app import run as command
from edge_agent.errors import IntegrityError, PermissionRefused, PolicyRefused, TargetUnreachable
from edge_agent.export.run_folder import RunFile, RunFolder, open_run
from edge_agent.export.scicat import Place, block, dataset, register
from edge_agent.model import Access, Block, Kind, Label, Stream
from tests.agent.scicat import GROUP, TOKEN, SciCat


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """What `open_run` gives of a closed run, as far as the catalogue is told of it."""
    folder = tmp_path / "p" / "balance" / "2026-11-26" / "000007"
    folder.mkdir(parents=True)
    files = []
    for name, data in (("000007.nxs", b"segment" * 100), ("manifest-sha256.txt", b"lines")):
        (folder / name).write_bytes(data)
        files.append(RunFile(folder / name, name, len(data), hashlib.sha256(data).digest()))
    record = {"runId": "00" * 16, "project": {"name": "p"}, "title": {"value": None, "reason": "nobody said"}}
    crate = {"@graph": [{"@id": "./", "license": {"@id": "https://creativecommons.org/licenses/by/4.0/"}}]}
    times = ("2026-11-26T01:02:03.000000004Z", "2026-11-26T01:02:13.123456789Z")
    return RunFolder(folder, crate, record, Label(Access.CLOSED), tuple(files), *times, "complete", 3, 0)


@pytest.fixture
async def scicat() -> AsyncIterator[tuple[SciCat, Place]]:
    made = SciCat()
    async with TestServer(made.app()) as server:
        yield made, Place(str(server.make_url("/api/v4")), GROUP, "a@example.ac.jp", "/data/", "/KEK/PF/BL05", ("p",))


def opened(run: RunFolder) -> RunFolder:
    return replace(run, label=Label(Access.OPEN))


async def test_a_run_is_registered_once_with_every_file_and_what_a_broken_attempt_left_out(
    run: RunFolder, scicat: tuple[SciCat, Place]
) -> None:
    catalogue, place = scicat
    run = opened(run)
    catalogue.trouble = 503
    with pytest.raises(TargetUnreachable):
        await register(run, place, TOKEN)
    assert (len(catalogue.datasets), len(catalogue.blocks)) == (1, 0)
    made = await register(run, place, TOKEN)
    again = await register(run, place, TOKEN)
    assert (made.made, again) == (False, made)
    (there,), (files,) = catalogue.datasets, catalogue.blocks
    assert (there["sourceFolder"], there["datasetName"], there["endTime"]) == ("/data/p/balance/2026-11-26/000007", "p 000007", "2026-11-26T01:02:13.123Z")
    assert there["isPublished"] is False
    assert there["scientificMetadata"]["received"]["value"] == 3
    assert {file["path"]: (file["size"], file["chk"]) for file in files["dataFileList"]} == {
        file.name: (file.path.stat().st_size, file.sha256.hex()) for file in run.files
    }
    assert files["size"] == there["size"]


async def test_a_closed_run_leaves_no_trace_unless_its_label_names_the_catalogue(run: RunFolder, scicat: tuple[SciCat, Place]) -> None:
    catalogue, place = scicat
    with pytest.raises(PolicyRefused):
        await register(run, place, TOKEN)
    assert catalogue.datasets == []
    named = replace(run, label=Label(Access.CLOSED, frozenset({place.api})))
    assert (await register(named, place, TOKEN)).made


async def test_refusals_say_what_to_do(run: RunFolder, scicat: tuple[SciCat, Place]) -> None:
    _, place = scicat
    run = opened(run)
    for token, where, cure in ((TOKEN, replace(place, owner_group="others"), "right"), ("wrong", place, "token")):
        with pytest.raises(PermissionRefused) as refused:
            await register(run, where, token)
        assert (refused.value.code, cure in refused.value.try_) == ("SCICAT_REFUSED", True)
    with pytest.raises(PermissionRefused, match="catalogue refuses") as bad:
        await register(run, replace(place, contact="nobody"), TOKEN)
    assert "contactEmail must be an email" in bad.value.why
    with pytest.raises(TargetUnreachable):
        await register(run, replace(place, api="http://127.0.0.1:9/api/v4"), TOKEN)


async def test_a_run_of_a_daemon_is_registered_and_the_verb_asks_the_policy_first(
    configure: Callable[..., Path], start: Any, until: Any, adapters: ModuleType, scicat: tuple[SciCat, Place], tmp_path: Path
) -> None:
    agent = await start(configure('[instrument.balance]\nadapter = "driven"\n'))
    inlet = (await until(lambda: adapters.SINKS.get("balance"))).open(Stream("balance", "weight", Kind.ROWS, "<f8", unit="g"))
    context = agent.desk.start("balance", project="p")
    now = np.full(3, time.time_ns(), np.int64)
    await inlet.put(Block(np.array([1.0, 2.0, 3.0]), now, now))
    await agent.desk.stop("balance")
    folder = tmp_path / "space" / context.folder
    await until(lambda: (folder / "ro-crate-metadata.json").exists() and (folder / f"{context.name}.hsc").exists())
    catalogue, place = scicat
    (tmp_path / "token").write_text(TOKEN + "\n")
    words = [
        "export", "scicat", str(folder), "--api", place.api, "--token", str(tmp_path / "token"), "--owner-group", GROUP,
        "--contact", place.contact, "--source", place.source, "--location", place.location,
    ]  # fmt: skip
    assert await asyncio.to_thread(command, words) != 0
    assert catalogue.datasets == []
    assert (await register(opened(open_run(folder)), place, TOKEN)).made
    (there,) = catalogue.datasets
    assert (there["sourceFolder"], there["scientificMetadata"]["received"]["value"]) == (f"/data/{context.folder}", 3)


async def test_all_runs_below_a_folder_are_registered_once_and_one_that_fails_stops_no_other(
    configure: Callable[..., Path], start: Any, until: Any, adapters: ModuleType, scicat: tuple[SciCat, Place], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    agent = await start(configure('access = "open"\n[instrument.balance]\nadapter = "driven"\n'))
    inlet = (await until(lambda: adapters.SINKS.get("balance"))).open(Stream("balance", "weight", Kind.ROWS, "<f8", unit="g"))
    folders = []
    for access in (None, Access.CLOSED, None, None):
        context = agent.desk.start("balance", project="p", access=access)
        now = np.full(1, time.time_ns(), np.int64)
        await inlet.put(Block(np.array([1.0]), now, now))
        await agent.desk.stop("balance")
        folders.append(tmp_path / "space" / context.folder)
    await until(lambda: all((f / "ro-crate-metadata.json").exists() and (f / f"{f.name}.hsc").exists() for f in folders))
    catalogue, place = scicat
    (tmp_path / "token").write_text(TOKEN + "\n")
    words = [
        "export", "scicat", str(tmp_path / "space"), "--below", "--api", place.api, "--token", str(tmp_path / "token"),
        "--owner-group", GROUP, "--contact", place.contact, "--source", place.source, "--location", place.location, "--json",
    ]  # fmt: skip
    preview = folders[2] / "preview.png"
    good = preview.read_bytes()
    preview.write_bytes(b"spoilt")

    async def said() -> tuple[int, dict[str, Any]]:
        code = await asyncio.to_thread(command, words)
        return code, json.loads(capsys.readouterr().out)

    code, first = await said()
    assert (code, first["ok"], len(first["made"]), first["kept"], first["failed"]) == (IntegrityError.exit_code, False, 2, 1, 1)
    preview.write_bytes(good)
    code, second = await said()
    assert (code, second["ok"], len(second["made"]), second["there"], second["failed"]) == (0, True, 1, 2, 0)
    assert (await said())[1]["there"] == 3
    assert len({block["datasetId"] for block in catalogue.blocks}) == len(catalogue.datasets) == 3
    (folders[0] / "preview.png").write_bytes(b"spoilt, and registered before: not read again")
    assert (await said())[0] == 0


async def test_the_fake_refuses_what_the_real_one_refuses(run: RunFolder, scicat: tuple[SciCat, Place]) -> None:
    _, place = scicat
    good = dataset(opened(run), place)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        async def post(what: str, body: Any) -> int:
            async with session.post(f"{place.api}/{what}", json=body) as response:
                return response.status

        for key in ("ownerGroup", "contactEmail", "sourceFolder", "creationTime", "datasetName", "type", "creationLocation"):
            assert await post("datasets", {k: v for k, v in good.items() if k != key}) == 400, key
        for change in ({"owners": "x"}, {"size": "1"}, {"creationTime": "yesterday"}, {"type": "cooked"}, {"isPublished": 1}):
            assert await post("datasets", good | change) == 400, change
        assert await post("datasets", good | {"pid": "mine"}) == 403
        assert await post("datasets", good) == 201
        files = block(opened(run), place, "unknown")
        assert await post("origdatablocks", files) == 404
        assert await post("origdatablocks", files | {"dataFileList": []}) == 400
        spoilt = copy.deepcopy(files)
        spoilt["dataFileList"][0]["chk"] = 1
        assert await post("origdatablocks", spoilt) == 400
