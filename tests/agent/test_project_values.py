"""A run whose project a value of the facility's control system says: a real PV Access server and a real OPC-UA server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from asyncua import Server, ua
from p4p.nt import NTScalar
from p4p.server import Server as PvaServer
from p4p.server.thread import SharedPV

from edge_agent.export.run_folder import open_run
from edge_agent.model import Frame, Kind, Stream
from firmware_sim.loopback import hold_port

IMAGE = Stream("camera", "image", Kind.FRAMES, "<u2", (8, 8), counted=True)


@contextmanager
def served(port: int, pv: SharedPV) -> Iterator[None]:
    only_here = {
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_SERVER_PORT": str(port), "EPICS_PVAS_BROADCAST_PORT": str(port),
    }  # fmt: skip
    server = PvaServer(providers=[{"BL05:PROPOSAL": pv}], conf=only_here, useenv=False)
    try:
        yield
    finally:
        server.stop()


async def project_of_a_run(agent: Any, adapters: ModuleType, until: Any, space: Path, number: int) -> dict[str, Any]:
    """Some data that nobody has a session for; what the run's record says of its project."""
    inlet = (await until(lambda: adapters.SINKS.get("camera"))).open(IMAGE)
    agent.desk.trigger("bl", True, 1, "the test")
    live = agent.desk.groups["bl"].foreground
    t_ns = live.entry.run.started_ns + 1
    assert inlet.offer(Frame(np.full((8, 8), number, "<u2"), number, t_ns, t_ns))
    agent.desk.trigger("bl", False, t_ns + 1, "the test")
    folder = space / live.entry.run.folder
    await until(lambda: (folder / "ro-crate-metadata.json").exists())
    assert folder.relative_to(space).parts[0] == live.entry.run.project
    found: dict[str, Any] = open_run(folder).record["project"]
    return found


async def test_a_pv_gives_the_project_and_what_is_no_name_leaves_the_last_one(
    configure: Callable[..., Path], start: Any, until: Any, adapters: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, pv = hold_port(), SharedPV(nt=NTScalar("s"), initial="2026B1234")
    monkeypatch.setenv("EPICS_PVA_NAME_SERVERS", f"127.0.0.1:{port}")
    monkeypatch.setenv("EPICS_PVA_AUTO_ADDR_LIST", "NO")
    camera = '[instrument.camera]\nadapter = "driven"\ngroup = "bl"\nlook_back = "0 s"\nproject_pv = "pva://BL05:PROPOSAL"\n'
    with served(port, pv):
        agent = await start(configure(camera))
        await until(lambda: agent.desk.routing.values.said.get("bl", ("",))[0] == "2026B1234")
        record = await project_of_a_run(agent, adapters, until, tmp_path / "space", 1)
        assert (record["name"], record["proposal"], record["rule"], record["ruleSource"]) == (
            "2026B1234", "2026B1234", "value", "pva://BL05:PROPOSAL",
        )  # fmt: skip
        pv.post("../no name")
        pv.post("2026B0007")
        await until(lambda: agent.desk.routing.values.said["bl"][0] == "2026B0007")
    record = await project_of_a_run(agent, adapters, until, tmp_path / "space", 2)
    assert record["name"] == "2026B0007", "a server that is away leaves the last word"


@pytest.mark.slow
async def test_a_node_gives_the_project_and_a_session_comes_before_it(
    configure: Callable[..., Path], start: Any, until: Any, adapters: ModuleType, tmp_path: Path
) -> None:
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{hold_port()}/")
    space = await server.register_namespace("urn:facility:beam")
    node = await server.nodes.objects.add_variable(ua.NodeId("Proposal", space), "Proposal", "2026A0815")
    async with server:
        address = f"{server.endpoint.geturl()}#nsu=urn:facility:beam;s=Proposal"
        camera = f'[instrument.camera]\nadapter = "driven"\ngroup = "bl"\nlook_back = "0 s"\nproject_pv = "{address}"\n'
        agent = await start(configure(camera))
        await until(lambda: agent.desk.routing.values.said.get("bl", ("",))[0] == "2026A0815")
        record = await project_of_a_run(agent, adapters, until, tmp_path / "space", 1)
        assert (record["name"], record["rule"], record["ruleSource"]) == ("2026A0815", "value", address)
        await node.write_value("2026A0816")
        await until(lambda: agent.desk.routing.values.said["bl"][0] == "2026A0816")
        run = agent.desk.start("bl", project="mine")
        assert run.project == "mine"
        await agent.desk.stop("bl")
