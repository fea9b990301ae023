"""An agent without instruments that records, closes runs and says what is durable; the power goes while it works. Run as a program.

    python -m tests.torture.power_child SPOOL KEYS ROUNDS
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path

from edge_agent.enrolment import open_identity
from edge_agent.record.series import Limits
from edge_agent.storage import DISK
from tests.runs.conftest import House
from tests.torture.power_truth import CAMERA, TAG, RealClock, block, frame

SMALL = Limits(size=30_000, min_age=0.0)


def say(*words: object) -> None:
    """One line in one write, with the time at which it was true."""
    os.write(1, (" ".join(map(str, (time.monotonic_ns(), *words))) + "\n").encode())


async def main() -> None:
    chance = random.Random(1)
    house = House(Path(sys.argv[1]), open_identity(Path(sys.argv[2])), DISK, RealClock())
    await house.open("bl")
    house.keeper.frame_limits = SMALL
    house.desk.start("bl", project="p")
    say("begun")
    frames = rows = 0
    for turn in range(int(sys.argv[3])):
        for _ in range(chance.randint(1, 5)):
            frames += 1
            assert house.groups["bl"].offer(CAMERA, frame(frames))
        n = chance.choice([1, 3, 400])
        house.groups["bl"].take(TAG, block(rows, n))
        rows += n
        if turn % 3:
            await house.durable(CAMERA, frames)
            await house.durable(TAG, rows)
            say("durable", frames, rows)
        if turn % 15 == 14:
            await house.desk.stop("bl")
            say("closed")
            house.desk.start("bl", project="p")
    await house.stop()
    say("ended")


if __name__ == "__main__":
    asyncio.run(main())
