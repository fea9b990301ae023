"""The tus side against programs that nobody here wrote: npm's tus-js-client sends to our service, our client sends to npm's @tus/server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import TargetUnreachable
from edge_agent.model import Proof
from edge_agent.seal import cose
from edge_agent.seal.receipt import Custody
from edge_agent.wire.item import header_of
from landing import authority
from tests.node import node_with

pytestmark = [pytest.mark.peers, pytest.mark.slow(6)]
HERE = Path(__file__).parent
MIB = 1 << 20
PACKAGES = {"tus-js-client": "4.3.1", "@tus/server": "2.4.5", "@tus/file-store": "2.1.1"}


class Node:
    """Runs our scripts; modules of npm are found from the folder that a script lies in."""

    def __init__(self, folder: Path) -> None:
        self.program, modules = node_with("node-tus", PACKAGES)
        self.folder = folder / "node"
        self.folder.mkdir()
        (self.folder / "node_modules").symlink_to(modules)
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, script: str, **asked: Any) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
        """The process and the first line that it says."""
        path = Path(shutil.copy(HERE / script, self.folder))
        process = await asyncio.create_subprocess_exec(
            str(self.program), str(path), json.dumps(asked), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line, (await process.stderr.read()).decode()
        return process, json.loads(line)

    async def ask(self, script: str, **asked: Any) -> dict[str, Any]:
        """What a script says that ends by itself."""
        process, said = await self.start(script, **asked)
        await process.communicate()
        return said

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def node(tmp_path: Path, stack: contextlib.AsyncExitStack) -> Node:
    made = await asyncio.to_thread(Node, tmp_path)
    stack.push_async_callback(made.close)
    return made


async def test_npms_client_sends_to_our_service_and_goes_on_where_it_was(
    site: Any, enrolled: Any, make_item: Any, node: Node, tmp_path: Path, progress: Any
) -> None:
    await site.open()
    agent = await enrolled()
    data = os.urandom(5 * MIB + 11)
    item = make_item(data)
    header = header_of(item, agent.agent_id).with_digest(hashlib.sha256(data).digest())
    tls = tmp_path / "client.pem"
    tls.write_bytes(agent.enrolment.tls.read_bytes())
    asked = {
        "endpoint": f"{site.url}/files/", "file": str(item.path), "item": base64.b64encode(header.encode()).decode(),
        "cert": str(tls), "ca": str(site.home.root), "chunk": MIB,
    }  # fmt: skip
    first = await node.ask("tus_client.mjs", **asked, stop=2 * MIB)
    assert first == {"from": 0, "offsets": [MIB, 2 * MIB], "url": f"{site.url}/files/item-1", "done": False}
    wrong = await node.ask("tus_client.mjs", **asked)  # it begins anew by itself, and is told where the upload ends
    assert "unexpected response" in wrong["error"]
    assert "409" in wrong["error"]
    second = await node.ask("tus_client.mjs", **asked, upload=first["url"])
    assert second["from"] == 2 * MIB
    assert second["done"]
    receipt = await agent.https().send(item, progress.append)  # nothing is left to send; only the receipt is fetched
    assert progress == [len(data)]
    assert receipt.proof is Proof.FSYNCED
    assert (site.home.space / item.remote).read_bytes() == data


@pytest.mark.parametrize("named", [True, False], ids=["ids from the item", "ids of its own"])
async def test_our_client_sends_to_npms_server_which_is_killed_in_the_middle(
    site: Any, enrolled: Any, make_item: Any, node: Node, tmp_path: Path, progress: Any, named: bool
) -> None:
    await site.open()
    agent = await enrolled()
    await site.runner.cleanup()
    folder = tmp_path / "tus"
    folder.mkdir()
    keys = site.home.keys
    asked = {
        "folder": str(folder), "key": str(keys / "tls.key"), "cert": str(keys / "tls.pem"), "ca": str(site.home.root), "named": named,
    }  # fmt: skip
    process, ready = await node.start("tus_server.mjs", **asked, port=0)
    data = os.urandom(5 * MIB + 11)
    item = make_item(data)
    url = f"https://127.0.0.1:{ready['port']}"

    def kill(offset: int) -> None:
        if offset >= 2 * MIB and process.returncode is None:
            process.kill()

    with pytest.raises(TargetUnreachable):
        await agent.https(url, piece=MIB).send(item, kill)
    await process.communicate()
    await node.start("tus_server.mjs", **asked, port=ready["port"])
    target = agent.https(url, piece=MIB)
    sending = asyncio.create_task(target.send(item, progress.append))
    signer, _ = authority.receipt_signer(site.home)
    async with asyncio.timeout(60):
        while not sending.done():
            await asyncio.sleep(0.05)
            for stored in [path for path in folder.iterdir() if not path.suffix and path.stat().st_size == len(data)]:
                # A service that hashed what the peer stored; without its word our client waits.
                digest = hashlib.sha256(stored.read_bytes()).digest()
                header = header_of(item, agent.agent_id)
                custody = Custody(
                    agent.agent_id, header.segment_id, header.head_hash, digest, len(data), "peer", "fsynced", 1, item.remote
                )
                part = stored.with_name(stored.name + ".part")
                part.write_bytes(cose.sign(signer, cose.CUSTODY, custody.payload()))
                part.replace(stored.with_name(stored.name + ".receipt"))
    receipt = await sending
    assert receipt.sha256 == hashlib.sha256(data).digest()
    # The kill may meet a piece that is on its way; an id of its own is not known any more after the cut.
    assert progress[0] >= 2 * MIB if named else progress[0] == 0
    assert (await target.probe()).resumable
