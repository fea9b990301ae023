"""The crash: SIGKILL at random moments of a process that records at speed, and of the recovery after it."""

from __future__ import annotations

import itertools
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.seal import leaf
from edge_agent.seal.head import State

CHILD = Path(__file__).with_name("crash_child.py")
KILLS = 10
STEP = 100_000


def record_and_kill(home: Path, facility: Any, boot: int, words: int) -> list[list[str]]:
    """Let the child say so many lines, kill it, and return all that it said."""
    key = facility.key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()).hex()
    command = [sys.executable, str(CHILD), str(home), facility.agent_id.hex(), key, str(boot * STEP + 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path.cwd()) as child:
        assert child.stdout is not None
        said = []
        for line in child.stdout:
            said.append(line.decode().split())
            if len(said) > words:
                break
        child.kill()
        said += [line.decode().split() for line in child.stdout]
    assert said[0] == ["ready"], "the child did not start"
    return said


def test_kill_9_at_random_moments_loses_nothing_that_was_said_to_be_durable(facility: Any, kit: Any, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    print("seed", seed)
    said: list[list[str]] = []
    kills = [0, *(int(2 ** chance.uniform(1, 11)) for _ in range(KILLS - 2)), 600]
    for boot, words in enumerate(kills):
        said += record_and_kill(tmp_path, facility, boot, words)
    # The last start only recovers; killed when it said so.
    said += record_and_kill(tmp_path, facility, KILLS, 1)

    folder = tmp_path / "000001"
    segments = [pickle.loads(path.read_bytes()) for path in sorted((tmp_path / "book").glob("*.closed"))]
    known = {closed.path.name for closed in segments if closed.size}
    assert len(list(folder.glob("*.journal"))) <= 3, "only the segments that the last start opened"
    kit.check_chain(segments)
    kit.check_signed(segments, facility)
    paths = [closed.path for closed in segments if closed.size]
    kit.independent_verifier(paths, facility.pem(tmp_path))
    assert {path.name for path in folder.glob("*.h5")} == known

    frames = kit.recorded_frames(segments)
    for number, picture in frames.items():
        assert np.array_equal(picture, kit.image(number)), f"frame {number} has other bytes"
    durable = {int(line[1]) for line in said if line[0] == "frame" and int(line[1]) < KILLS * STEP}
    assert durable
    assert durable <= set(frames), f"lost: {sorted(durable - set(frames))[:5]}"

    values = kit.recorded_rows(segments)
    wanted = {int(line[1]) + k for line in said if line[0] == "rows" and int(line[1]) < KILLS * STEP for k in range(int(line[2]))}
    got = [int(value * 2) for value in values]
    assert wanted <= set(got), f"lost: {sorted(wanted - set(got))[:5]}"

    files = {each.path: each for closed in segments for each in kit.leaves_of(closed) if isinstance(each, leaf.FileLeaf)}
    for line in said:
        if line[0] == "file" and int(Path(line[1]).name.split(".")[0]) < KILLS * STEP:
            assert files[line[1]].digest == kit.sha256((folder / line[1]).read_bytes())

    # Every number from the first frame on is a frame or in exactly one gap, across all the crashes.
    missing: list[tuple[int, int]] = []
    causes = set()
    for closed in segments:
        for gap in closed.gaps.get("camera/image", []):
            causes.add(gap.cause)
            if gap.first is not None:
                missing.append((gap.first, gap.last))
    spans = sorted([*missing, *((n, n) for n in frames)])
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(spans))
    assert "crash" in causes
    recovered = [closed for closed in segments if closed.state is State.RECOVERED]
    assert len(recovered) >= KILLS / 2
    for closed in segments:
        assert closed.counts.get("camera/image", 0) == len(kit.recorded_frames([closed]))
        assert closed.counts.get("balance/mass", 0) == len(kit.recorded_rows([closed]))
