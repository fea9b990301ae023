"""One way of `benchmarks.capture`, in a process of its own: ``python -m benchmarks.capture_ways WAY DATA SECONDS FOLDER STREAMS``."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import frames
from benchmarks.harness import Impossible, peak_mb

SYNC_PAUSE = 0.02
CONFIG = """\
site = "bench"
spool = {{ dir = "{folder}", keep_free = "1 MB" }}
{instruments}
"""
INSTRUMENT = """\
[instrument.detector{n}]
adapter = "files"
folder = "{folder}"
idle = "ignore"
group = "bench"
"""


def h5py_way(data: frames.Frames, seconds: float, folder: Path, streams: int, filters: Callable[[], Any]) -> dict[str, float]:
    """One call a frame and stream into a dataset that grows; flushed and synced at the end."""
    import h5py

    path = folder / "h5py.h5"
    with h5py.File(path, "w", libver="latest") as file:
        shape = data.shape[1:]
        sets = [
            file.create_dataset(f"data{n}", (0, *shape), data.dtype, maxshape=(None, *shape), chunks=(1, *shape), **filters())
            for n in range(streams)
        ]
        watch, n = Watch(), 0
        while watch() < seconds:
            target = sets[n % streams]
            row = n // streams
            target.resize(row + 1, axis=0)
            target[row] = data[n % len(data)]
            n += 1
        file.flush()
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return watch.figures(n, data, path.stat().st_size)


def h5py_bslz4(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    """What a user would write."""
    import hdf5plugin

    return h5py_way(data, seconds, folder, streams, lambda: dict(hdf5plugin.Bitshuffle(cname="lz4")))


def h5py_zstd1(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    """The same with Zstandard, level 1, behind the byte shuffle."""
    import hdf5plugin

    return h5py_way(data, seconds, folder, streams, lambda: {**dict(hdf5plugin.Zstd(clevel=1)), "shuffle": True})


def packed(codec: Any, frame: frames.Frames, out: Any) -> Any:
    """Encode into ``out``; the part of it that was filled."""
    size, _ = codec.encode(frame, out, frame.dtype.itemsize)
    return out[:size].data


def hashed(block: Any) -> bytes:
    """SHA-256."""
    return hashlib.sha256(block).digest()


def written(fd: int, block: Any, at: int) -> None:
    """``pwrite``."""
    os.pwrite(fd, block, at)


def synced(fd: int) -> None:
    """``fdatasync``."""
    os.fdatasync(fd)


def _threads(data: frames.Frames, seconds: float, folder: Path, *, files: int, encode: bool = True) -> dict[str, float]:
    """One thread a core: encode and hash into a buffer that is used again, ``pwrite`` behind each other; one more a file that syncs.

    Each stream has a file, as it has with the agent and for the same reason: it is a data set of its own. ``files`` 0: nothing is written.
    """
    from edge_agent.codec import encoder

    codec = encoder("bitshuffle-lz4")
    bound = codec.bound(data[0].nbytes, data.dtype.itemsize)
    fds = [os.open(folder / f"limit{n}.bin", os.O_RDWR | os.O_CREAT) for n in range(files)]
    numbers, ends, lock, over = itertools.count(), [0] * files, threading.Lock(), threading.Event()
    totals = [(0, 0)] * (os.cpu_count() or 1)

    def work(mine: int) -> None:
        out = np.empty(bound, np.uint8)
        done = stored = 0
        while watch() < seconds:
            number = next(numbers)
            frame = data[number % len(data)]
            if encode:
                block = packed(codec, frame, out)
                hashed(block)
            else:
                block = frame.reshape(-1).view(np.uint8).data
            if files:
                file = number % files
                with lock:
                    at = ends[file]
                    ends[file] += len(block)
                written(fds[file], block, at)
            done, stored = done + 1, stored + len(block)
        totals[mine] = (done, stored)

    def sync(fd: int) -> None:
        while not over.wait(SYNC_PAUSE):
            synced(fd)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(len(totals))]
    syncing = [threading.Thread(target=sync, args=(fd,)) for fd in fds]
    watch = Watch()
    for thread in (*threads, *syncing):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    for thread, fd in zip(syncing, fds, strict=True):
        thread.join()
        synced(fd)
        os.close(fd)
    return watch.figures(sum(n for n, _ in totals), data, sum(size for _, size in totals))


def limit(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    """Encode + SHA-256 on all cores, the bytes by ``pwrite``, ``fdatasync`` each 20 ms."""
    return _threads(data, seconds, folder, files=streams)


def codec(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    """Encode + SHA-256 on all cores, nothing else."""
    return _threads(data, seconds, folder, files=0)


def plain(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    """The raw bytes by ``pwrite``, ``fdatasync`` each 20 ms."""
    return _threads(data, seconds, folder, files=streams, encode=False)


def agent(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    """The daemon with one session; from the first `Inlet.offer` to the last segment in its place. It has no target."""
    return asyncio.run(_agent(data, seconds, folder, streams))


@asynccontextmanager
async def daemon(data: frames.Frames, folder: Path, streams: int) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A daemon with one session open, and an inlet for each stream."""
    from edge_agent.agent.agent import Agent
    from edge_agent.agent.sink import AgentSink
    from edge_agent.config.loading import load
    from edge_agent.model import Kind, Stream

    (folder / "watched").mkdir()
    configuration = folder / "agent.toml"
    instruments = "".join(INSTRUMENT.format(n=n, folder=folder / "watched") for n in range(streams))
    configuration.write_text(CONFIG.format(folder=folder / "spool", instruments=instruments))
    running = Agent(load(configuration))
    await running.start()
    # As `edge-agent run` does.
    gc.collect()
    gc.freeze()
    try:
        group = running.desk.groups["bench"]
        running.desk.graces = {"bench": 0.0}
        inlets = []
        for name, state in running.instruments.items():
            stream = Stream(name, "image", Kind.FRAMES, data.dtype.str, data.shape[1:], counted=True)
            inlets.append(AgentSink(state, group, running.keeper, None).open(stream))
        running.desk.start("bench", project="bench")
        yield running, inlets
    finally:
        await running.stop()


async def _agent(data: frames.Frames, seconds: float, folder: Path, streams: int) -> dict[str, float]:
    async with daemon(data, folder, streams) as (running, inlets):
        recording = running.desk.groups["bench"].foreground.recording
        watch = Watch()
        offered, missed = await asyncio.to_thread(feed, running.recorder.room, inlets, data, lambda _: watch() < seconds)
        latencies = sorted(running.recorder.latencies)
        await asyncio.wrap_future(recording.close("complete"))
        stored = sum(path.stat().st_size for path in running.keeper.folder(recording.state.run).iterdir())
        found = watch.figures(offered - missed, data, stored)
    return found | {"missed": missed, "durable_p99_ms": 1000 * latencies[int(len(latencies) * 0.99)]}


async def record(data: frames.Frames, mb: float, folder: Path) -> tuple[Path, int]:
    """Record one segment of about ``mb`` MB; where it is, and its chunks of frames."""
    async with daemon(data, folder, 1) as (running, inlets):
        live = running.desk.groups["bench"].foreground

        def small(_: int) -> bool:
            segment = next((series.segment for series in live.recording.series()), None)
            return segment is None or segment.stored_bytes < mb * 1e6

        offered, missed = await asyncio.to_thread(feed, running.recorder.room, inlets, data, small)
        run = await running.desk.stop("bench")
        (segment,) = running.keeper.folder(run).glob("*.nxs")
        return segment, offered - missed


def feed(room: Any, inlets: Any, data: frames.Frames, going: Callable[[int], bool], first: int = 0) -> tuple[int, int]:
    """A source that can wait: it offers the next frame, from number ``first``, when there is room. How many it offered, and lost."""
    from edge_agent.model import Frame

    size = 2 * data[0].nbytes
    offered = missed = 0
    while going(offered):
        if room.used + size > room.limit:
            time.sleep(0.004)
            continue
        now = time.time_ns()
        taken = inlets[offered % len(inlets)].offer(Frame(data[offered % len(data)], first + offered // len(inlets), now, now))
        offered += 1
        missed += not taken
    return offered, missed


class Watch:
    """Seconds, of the clock and of the processor."""

    def __init__(self) -> None:
        """Begin."""
        self.began, self._cpu = time.monotonic(), time.process_time()

    def __call__(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.began

    def figures(self, n: int, data: frames.Frames, stored: int) -> dict[str, float]:
        """What a way prints: it ends now, after ``n`` frames."""
        taken, cpu, raw = self(), time.process_time() - self._cpu, n * data[0].nbytes
        rates = {"mb_per_s": raw / 1e6 / taken, "cpu_s_per_gb": cpu / raw * 1e9}
        return {"frames": n, "raw": raw, "stored": stored, "rss_peak_mb": peak_mb()} | rates


def main() -> None:
    """Print the figures of one way as one JSON line."""
    way, data, seconds, folder, streams = sys.argv[1:]
    ways = {f.__name__: f for f in (agent, h5py_bslz4, h5py_zstd1, limit, codec, plain)}
    if way not in ways:
        raise Impossible(f"there is no way {way}")
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        found = ways[way](frames.load(data), float(seconds), scratch, int(streams))
    finally:
        shutil.rmtree(scratch)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
