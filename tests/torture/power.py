"""Power failures of a real file system: records every block write and flush of an agent at work, then makes disks as a failure leaves them.

    unshare --mount python -m tests.torture.power FOLDER --images 1000 [--seed N]

An agent works on ext4 on a loop device on a recorder (`block_recorder`). A *disk after a power failure* is everything that was written up
to a flush, and of what was written after it, until a random moment, any part: whole writes, torn ones, in any order. Each is mounted (the
file system repairs itself), an agent starts on it, recovers, ends the runs that were open, and what is there is compared with what was
said to be durable before that moment. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import logging
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from edge_agent.enrolment import Identity, open_identity
from edge_agent.model import Valid
from edge_agent.seal import leaf
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from edge_agent.storage import DISK
from tests.record.bench import read_segment
from tests.runs.conftest import House
from tests.torture.block_recorder import Event, read_log
from tests.torture.power_truth import RealClock, image

SIZE = 16 << 20
"""Six times what the agent fills: each disk is copied as a whole."""
SECTOR = 512
SUPERBLOCK = 1024
"""Where ext4 has it. Its two sectors are written or not, never one of them: of a torn one ext4 says that its checksum is wrong, and no
file system is there at all before somebody repairs it by hand. Disks keep their 4096 bytes together."""
KEPT = (0.0, 0.5, 1.0)
WHOLE = 10
"""On every so many disks the agent also ends its runs in order; on the others it only starts and recovers."""


@dataclass(frozen=True, slots=True)
class Word:
    """Something that the agent said, and when."""

    t_ns: int
    what: str
    frames: int = 0
    rows: int = 0


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr or done.stdout}")
    return done.stdout.strip()


def record(folder: Path, rounds: int) -> tuple[list[Event], list[Word]]:
    """Let the agent work; what was done to its disk, and what it said."""
    disk, log, mount = folder / "disk", folder / "log", folder / "mount"
    mount.mkdir(parents=True)
    recorder = subprocess.Popen([sys.executable, "-m", "tests.torture.block_recorder", disk, str(SIZE), log], stdout=subprocess.PIPE)
    assert recorder.stdout is not None
    assert recorder.stdout.readline() == b"ready\n"
    try:
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", disk)
        device = run("losetup", "--find", "--show", disk)
        try:
            run("mount", device, mount)
            try:
                command = [sys.executable, "-m", "tests.torture.power_child", mount / "spool", folder / "keys", str(rounds)]
                said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
            finally:
                run("umount", mount)
        finally:
            run("losetup", "--detach", device)
    finally:
        run("umount", disk)
        recorder.wait()
        recorder.stdout.close()
    words = [Word(int(t), what, *map(int, rest)) for t, what, *rest in (line.split() for line in said)]
    return list(read_log(log)), words


def disks(events: list[Event], begun: int, n: int, chance: random.Random) -> Iterator[tuple[int, bytearray]]:
    """``n`` disks after power failures, with the event that did not happen any more, in the order of time."""
    first = next(number for number, event in enumerate(events) if event.t_ns > begun)
    cuts = sorted(chance.choices(range(first, len(events)), k=n))
    flushed, position = bytearray(SIZE), 0
    for cut in cuts:
        flush = max(number for number in range(cut) if events[number].data is None) if cut else 0
        while position < flush:
            apply(flushed, events[position])
            position += 1
        left, kept, torn = bytearray(flushed), chance.choice(KEPT), chance.random() < 0.5
        for event in events[position:cut]:
            if chance.random() < kept:
                apply(left, event)
            elif torn and event.data is not None and not event.offset <= SUPERBLOCK < event.offset + len(event.data):
                for at in range(0, len(event.data), SECTOR):
                    if chance.random() < 0.5:
                        apply(left, Event(0, event.offset + at, event.data[at : at + SECTOR]))
        yield cut, left


def apply(disk: bytearray, event: Event) -> None:
    if event.data is not None:
        disk[event.offset : event.offset + len(event.data)] = event.data


@dataclass
class Found:
    """What stands in one or more segments; ``open_ends`` are the sources of which something is missing and nobody knows how much."""

    frames: dict[int, bool] = field(default_factory=dict)
    accounted: set[int] = field(default_factory=set)
    open_ends: set[str] = field(default_factory=set)
    values: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.problems += [f"frame {n} twice" for n in other.frames if n in self.frames] + other.problems
        self.frames |= other.frames
        self.accounted |= other.accounted
        self.open_ends |= other.open_ends
        self.values += other.values


SEEN: dict[bytes, Found] = {}
"""Most segments stand on many disks, byte for byte: one look is enough."""


def look(spool: Path) -> Found:
    """Read and verify every segment in a spool."""
    found = Found()
    for folder in sorted((spool / "runs").iterdir()):
        segments = sorted(folder.glob("*.h5")) or sorted(folder.glob("*.nxs"))
        for path in segments:
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest not in SEEN:
                SEEN[digest] = look_at(path)
            found.add(SEEN[digest])
    return found


def look_at(path: Path) -> Found:
    report = verify_segment(path, None)
    if report.level < 1:
        return Found(problems=[f"{path.name}: {report.reason}"])
    return contents(path)


def contents(path: Path) -> Found:
    """What stands in a segment that is verified."""
    found = Found()
    leaves, data = read_segment(SimpleNamespace(path=path, size=1), DISK)  # type: ignore[arg-type]
    camera, oven = "/entry/instrument/camera/image", "/entry/instrument/oven/temperature"
    for number, picture in zip(data.get(f"{camera}/frame_number", ()), data.get(f"{camera}/data", ()), strict=True):
        found.frames[int(number)] = np.array_equal(picture, image(int(number)))
    if f"{oven}/value" in data:
        # The last value that was known before a run began is repeated in it.
        found.values = data[f"{oven}/value"][data[f"{oven}/valid"] != Valid.INITIAL].tolist()
    for each in leaves:
        if isinstance(each, leaf.GapLeaf) and each.first is not None and each.last is not None:
            found.accounted |= set(range(each.first, each.last + 1))
        elif isinstance(each, leaf.GapLeaf):
            found.open_ends.add(each.source_id)
    return found


async def start(spool: Path, identity: Identity, *, whole: bool) -> list[str]:
    """An agent's start after the failure; ``whole``: and its orderly end, with the papers of every run. What is wrong."""
    house = House(spool, identity, DISK, RealClock())  # type: ignore[arg-type]
    await house.open("bl")
    problems = [entry.why for entry in house.spool.quarantine.entries()] + house.recovered.damaged
    if not whole:
        await house.crash()
        return problems
    await house.stop()
    for folder in sorted((spool / "runs").iterdir()):
        reason = verify_run(folder, None, judge=verify_segment).reason  # its own files: no workers
        if reason != "signed by an unknown key":
            problems.append(f"run {folder.name}: {reason}")
    return problems


def judge(mount: Path, identity: Identity, said: list[Word], *, whole: bool) -> list[str]:
    """What is wrong with a disk on which an agent has started again."""
    spool = mount / "spool"
    try:
        problems = asyncio.run(start(spool, identity, whole=whole))
    except Exception as error:
        return [f"the agent does not start: {type(error).__name__}: {error}"]
    found = look(spool)
    problems += found.problems
    frames = max((word.frames for word in said), default=0)
    rows = max((word.rows for word in said), default=0)
    problems += [f"frame {n} was durable and is lost" for n in range(1, frames + 1) if n not in found.frames][:3]
    problems += [f"frame {n} has other bytes" for n, same in found.frames.items() if not same][:3]
    silent = set(range(1, max(found.frames, default=0))) - set(found.frames) - found.accounted
    problems += [f"frame {n} is missing and no gap says so" for n in sorted(silent)][:3]
    values = sorted(found.values)
    if values[:rows] != [k * 0.5 for k in range(rows)]:
        problems.append(f"{rows} rows were durable, and not all of them are there once")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    chance = random.Random(seed)
    events, words = record(options.folder, options.rounds)
    identity = open_identity(options.folder / "keys")
    begun = next(word.t_ns for word in words if word.what == "begun")
    mount, after = options.folder / "after-mount", options.folder / "after"
    mount.mkdir()
    gc.freeze()  # or the collector goes through all that was recorded on every disk
    failures = {}
    for number, (cut, disk) in enumerate(disks(events, begun, options.images, chance)):
        after.write_bytes(disk)
        run("mount", "-o", "loop", after, mount)
        try:
            problems = judge(mount, identity, [word for word in words if word.t_ns < events[cut].t_ns], whole=number % WHOLE == 0)
        finally:
            # Lazily: an agent that did not start may hold files.
            run("umount", "--lazy", mount)
        if problems:
            failures[cut] = problems
            shutil.copy(after, options.folder / f"failed-{cut}")
    flushes = sum(event.data is None for event in events)
    print(json.dumps({"seed": seed, "images": options.images, "writes": len(events) - flushes, "flushes": flushes, "failures": failures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
