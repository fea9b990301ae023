from __future__ import annotations

import numpy as np

from firmware_sim.frames import FrameSource


def source(seed: int, shape: tuple[int, int] = (64, 48)) -> FrameSource:
    return FrameSource(np.random.default_rng(seed), shape, pool=4)


def test_frames_are_poisson_counts_of_the_asked_shape_and_mean() -> None:
    frame = source(1, (512, 512)).frame(0)
    assert frame.shape == (512, 512)
    assert frame.dtype == np.dtype("<u2")
    assert frame.flags.c_contiguous
    assert 1.4 < frame.mean() < 1.8
    assert frame.max() > 20


def test_every_frame_carries_its_number_and_is_unique() -> None:
    frames = source(1)
    number = 70_001
    pixels = frames.frame(number).ravel()
    assert int(pixels[0]) | int(pixels[1]) << 16 == number
    assert len({frames.frame(n).tobytes() for n in range(100)}) == 100


def test_the_same_seed_gives_the_same_frames() -> None:
    assert np.array_equal(source(7).frame(5), source(7).frame(5))
    assert not np.array_equal(source(7).frame(5), source(8).frame(5))


def test_a_frame_is_a_copy_that_may_be_changed() -> None:
    frames = source(1)
    frames.frame(3)[:] = 0
    assert frames.frame(3).any()
