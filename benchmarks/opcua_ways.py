"""One way of `benchmarks.opcua`, in a process of its own: ``python -m benchmarks.opcua_ways WAY ENDPOINT ITEMS SECONDS FOLDER``."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PUBLISH_MS = 50
QUEUE = 1000
NAMESPACE = "urn:peer:node-opcua"
LOSSY_PUBLISH_MS, LOSSY_QUEUE = 500, 10
"""What the server keeps of a fast counter until it is asked: nearly nothing."""
CONFIG = """\
site = "bench"
spool = {{ dir = "{folder}/spool", keep_free = "1 MB" }}

[instrument.plc]
adapter = "opcua"
endpoint = "{endpoint}"
nodes = [{nodes}]
publish = "{publish} ms"
sampling = "1 ms"
queue = {queue}
group = "bench"
"""


async def bare(endpoint: str, items: int, seconds: float, folder: Path) -> dict[str, float]:
    """Asyncua's iterator mode; of each value nothing is kept but the counter's last."""
    from asyncua import Client, ua

    async with Client(endpoint) as client:
        index = await client.get_namespace_index(NAMESPACE)
        parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=PUBLISH_MS, RequestedLifetimeCount=10_000, RequestedMaxKeepAliveCount=100,
            MaxNotificationsPerPublish=0, PublishingEnabled=True,
        )  # fmt: skip
        subscription = await client.create_subscription(parameters, None, queue_maxsize=1_000_000)
        nodes = [client.get_node(ua.NodeId(name, index)) for name in names(items)]
        await subscription.subscribe_data_change(nodes, queuesize=QUEUE, sampling_interval=1)
        last: dict[Any, float] = {}
        count = holes = 0
        began, cpu = 0.0, 0.0
        async for event in subscription:
            now = time.monotonic()
            if not began:
                began, cpu = now, time.process_time()
            elif now - began > seconds:
                break
            node_id, value = event.node.nodeid, event.value
            holes += int(value - last.get(node_id, value - 1) - 1)
            last[node_id] = value
            count += 1
        return {"per_s": count / (now - began), "holes": holes, "declared": 0, "cores": (time.process_time() - cpu) / (now - began)}


async def agent(
    endpoint: str, items: int, seconds: float, folder: Path, publish: int = PUBLISH_MS, queue: int = QUEUE
) -> dict[str, float]:
    """The daemon with one session; what its segments hold, over the time from the first value's arrival to the last one's."""
    from edge_agent.agent.agent import Agent
    from edge_agent.config.loading import load

    configuration = folder / "agent.toml"
    nodes = ",".join(f'{{ id = "nsu={NAMESPACE};s={name}", name = "{name}", counts_by = 1 }}' for name in names(items))
    configuration.write_text(CONFIG.format(folder=folder, endpoint=endpoint, nodes=nodes, publish=publish, queue=queue))
    running = Agent(load(configuration))
    await running.start()
    try:
        running.desk.graces = {"bench": 0.0}
        while len(running.instruments["plc"].streams) < items:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)
        began, cpu = time.monotonic(), time.process_time()
        running.desk.start("bench", project="bench")
        await asyncio.sleep(seconds)
        run = await running.desk.stop("bench")
        cores = (time.process_time() - cpu) / (time.monotonic() - began)
        landed = running.keeper.folder(run)
    finally:
        await running.stop()
    # Only now: reading the files registers filters, which HDF5 must not meet while it still writes.
    return measured(landed) | {"cores": cores}


async def lossy(endpoint: str, items: int, seconds: float, folder: Path) -> dict[str, float]:
    """The daemon, made to lose: what its record says of it is compared with what its counters say."""
    return await agent(endpoint, items, seconds, folder, LOSSY_PUBLISH_MS, LOSSY_QUEUE)


def measured(folder: Path) -> dict[str, float]:
    """Rows a second that the segments of a run hold, values that its counters skip in it and before it, and how many are in its gaps."""
    import h5py
    import hdf5plugin  # noqa: F401 - its filters

    rows: dict[str, list[Any]] = {}
    arrivals: list[Any] = []
    declared = 0

    def visit(name: str, thing: Any) -> None:
        nonlocal declared
        if name.endswith("gaps") and isinstance(thing, h5py.Group) and "count" in thing:
            counts = thing["count"][:]
            declared += int(counts[counts > 0].sum())
        if not isinstance(thing, h5py.Group) or not {"value", "valid"} <= set(thing):
            return
        event = (thing["valid"][:] & 1) == 1
        arrivals.append(thing["time_arrival"][:][event])
        usable = thing["valid"][:] != 0
        tags = thing["tag"][:][usable] if "tag" in thing else np.zeros(int(usable.sum()), np.uint32)
        values = np.stack([thing["value"][:][usable].astype(np.int64), event[usable]])
        for tag in np.unique(tags):
            rows.setdefault(f"{name}/{tag}" if "tag" in thing else name, []).append(values[:, tags == tag])

    for path in sorted(folder.rglob("*")):
        if path.suffix in (".nxs", ".h5"):
            with h5py.File(path) as file:
                if file["entry"].attrs.get("series") != "master":
                    file.visititems(visit)
    times = np.concatenate(arrivals)
    holes = early = 0
    for parts in rows.values():
        values, inside = np.concatenate(parts, axis=1)
        skipped = np.diff(values) - 1
        # The first row is the value known as the run began: what was sampled after it and before the run belongs to no run.
        holes += int(skipped[inside[:-1] == 1].sum())
        early += int(skipped[inside[:-1] == 0].sum())
    return {"per_s": (len(times) - 1) / (int(times.max() - times.min()) / 1e9), "holes": holes, "early": early, "declared": declared}


def names(items: int) -> list[str]:
    """The server's counters."""
    return [f"Load{n:04d}" for n in range(items)]


def main() -> None:
    """Print the figures of one way as one JSON line."""
    way, endpoint, items, seconds, scratch = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        ways = {"bare": bare, "agent": agent, "lossy": lossy}
        print(json.dumps(asyncio.run(ways[way](endpoint, int(items), float(seconds), Path(folder)))))


if __name__ == "__main__":
    main()
