"""Diffraction frames: powder rings and single-crystal spots with Poisson noise, made once, then numbered cheaply.

Invariants: the same seed and shape give the same frames; no two frames of a run are equal, since the first two pixels
of each carry its number (low 16 bits, then high 16 bits).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MEAN_COUNTS: Final = 1.6
POOL: Final = 32
RING_RADII: Final = (0.18, 0.27, 0.33, 0.45, 0.58, 0.71)  # of half the smaller side
SPOTS: Final = 60

Frame = npt.NDArray[np.uint16]


class FrameSource:
    """A pool of base frames, `pool` of them, each (rows, columns) uint16 with a mean of about 1.6 counts."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], pool: int = POOL) -> None:
        pattern = _pattern(rng, shape)
        self._pool = [np.minimum(rng.poisson(pattern), 65535).astype("<u2") for _ in range(pool)]

    def frame(self, number: int) -> Frame:
        """Return frame `number` as a new C-contiguous little-endian array."""
        frame: Frame = self._pool[number % len(self._pool)].copy()
        frame.flat[0] = number & 0xFFFF
        frame.flat[1] = number >> 16 & 0xFFFF
        return frame


def _pattern(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    rows, columns = shape
    y, x = np.ogrid[:rows, :columns]
    half = min(shape) / 2
    radius = np.hypot(y - rows / 2, x - columns / 2) / half
    pattern = 1.5 * np.exp(-3 * radius)
    for ring in RING_RADII:
        pattern = pattern + rng.uniform(0.5, 2.0) * np.exp(-(((radius - ring) / 0.008) ** 2))
    for spot_y, spot_x in zip(rng.uniform(0, rows, SPOTS), rng.uniform(0, columns, SPOTS), strict=True):
        pattern = pattern + rng.uniform(5, 200) * np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / 2.5)
    return np.asarray(pattern * (MEAN_COUNTS / pattern.mean()))
