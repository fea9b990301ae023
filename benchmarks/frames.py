"""Detector frames to measure with: seeded, EIGER-1M-shaped (1065 x 1030 uint16), from a file where one is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Impossible

SHAPE = (1065, 1030)
COUNT = 16
SEED = 7
MEANS = {"eiger": 1.6, "sparse": 0.02, "strong": 60.0}
"""Data sets by name: the mean of the Poisson counts of a pixel."""
NOISE = "noise"
"""The data set that no codec can shrink."""
NAMES = (*MEANS, NOISE)

Frames = npt.NDArray[Any]


def make(name: str) -> Frames:
    """A data set: ``[COUNT, 1065, 1030]`` uint16."""
    random = np.random.default_rng(SEED)
    if name == NOISE:
        return random.integers(0, 1 << 16, (COUNT, *SHAPE), np.uint16)
    return random.poisson(MEANS[name], (COUNT, *SHAPE)).astype("<u2")


def load(where: str) -> Frames:
    """A data set by name, or the frames of a ``.npy`` file: three-dimensional, the frame number first.

    Raises:
        Impossible: no such data set, or not frames.
    """
    if where in NAMES:
        return make(where)
    if not Path(where).is_file():
        raise Impossible(f"{where} is neither a file nor one of {', '.join(NAMES)}")
    frames: Frames = np.load(where)
    if frames.ndim != 3 or frames.dtype.kind not in "uif":
        raise Impossible(f"{where} holds {frames.ndim} dimensions of {frames.dtype}: frames have three, of numbers")
    return np.ascontiguousarray(frames)
