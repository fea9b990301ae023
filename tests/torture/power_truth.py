"""What the two instruments of the power tests give: known from their number alone."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from edge_agent.model import Block, Frame, Kind, Stream

CAMERA = Stream("camera", "image", Kind.FRAMES, "<u2", (32, 32), counted=True, codec="none")
TAG = Stream("oven", "temperature", Kind.ROWS, "<f8", unit="K")



def image(number: int) -> npt.NDArray[np.uint16]:
    return (np.arange(1024, dtype="<u4").reshape(32, 32) * 31 + number * 7).astype("<u2")


def frame(number: int) -> Frame:
    now = time.time_ns()
    return Frame(image(number), number, now, now)


def block(first: int, n: int) -> Block:
    numbers = np.arange(first, first + n)
    times = (time.time_ns() + numbers).astype("<i8")
    return Block(numbers * 0.5, times, times)


class RealClock:
    """The clocks of the machine, for a house."""

    def __call__(self) -> int:
        return time.time_ns()

    def boot(self) -> int:
        return time.monotonic_ns()
