from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from edge_agent.model import NO_TIME
from edge_agent.provenance.preview import Series, frame_preview, rows_preview

START = 1_795_000_000 * 10**9


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    assert max(image.size) <= 1024
    return image.convert("RGB")


def colors(image: Image.Image) -> int:
    return len(image.getcolors(1 << 24) or [])


def rings() -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:512, :512]
    r = np.hypot(x - 256, y - 240)
    return rng.poisson(3 + 400 * np.exp(-r / 40) + 60 * np.exp(-(((r - 90) / 4) ** 2))).astype("<u2")


def test_a_diffraction_image_shows_its_dynamic_range() -> None:
    image = opened(frame_preview(rings(), "Run 000123", "camera"))
    assert colors(image) > 100
    center, corner = image.getpixel((24 + 256, 58 + 240)), image.getpixel((30, 64))
    assert sum(center) > 2 * sum(corner)  # type: ignore[arg-type]


def test_the_same_frame_gives_the_same_bytes() -> None:
    assert frame_preview(rings()) == frame_preview(rings())


def test_one_hot_pixel_does_not_darken_the_image() -> None:
    frame = rings().astype("<u4")
    calm = opened(frame_preview(frame))
    frame[3, 3] = 2**32 - 1
    hot = opened(frame_preview(frame))
    assert abs(sum(calm.getpixel((200, 200))) - sum(hot.getpixel((200, 200)))) < 60  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((0, 0)), np.zeros((0, 5), "<u2"), np.zeros((1, 1)), np.full((4, 4), np.nan), np.full((4, 4), np.inf), np.zeros((3, 4, 5)),
        np.zeros((0, 4, 4)), np.array(7.0), np.zeros(0), np.arange(5), np.array([[np.nan, 1.5], [2, -np.inf]]), np.eye(3, dtype=bool),
        np.full((2, 2), 2**64 - 1, "<u8"), np.full((2, 2), -(2**63), "<i8"), np.array([[1e308, -1e308]]), np.ones((2, 2), ">c16"),
        np.zeros((10_000, 2), "<u1"), np.zeros((2, 10_000), "<u1"), np.zeros((8, 8, 3), np.uint8), np.zeros((900, 1300, 3), np.uint8),
        np.array([[5e-324, 0]]), np.zeros((4, 4, 3), "<f4"),
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)  # fmt: skip
def test_any_frame_gives_a_picture(frame: npt.NDArray[Any]) -> None:
    opened(frame_preview(frame))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(hnp.scalar_dtypes().filter(lambda d: d.kind in "buif"), hnp.array_shapes(max_dims=3, max_side=20)))
def test_no_numeric_array_whatever_breaks_it(frame: npt.NDArray[Any]) -> None:
    opened(frame_preview(frame, "t" * 300, "caption\n" * 50))


def test_a_large_frame_takes_bounded_time() -> None:
    frame = np.zeros((16_000, 16_000), "<u2")
    began = time.monotonic()
    opened(frame_preview(frame))
    assert time.monotonic() - began < 20


def series(n: int = 1000, **changes: Any) -> Series:
    values = {"name": "furnace/temperature", "unit": "degC", "t_ns": START + np.arange(n) * 10**6, "values": np.sin(np.arange(n) / 50)}
    return Series(**(values | changes))


def test_curves_are_drawn_in_their_colours() -> None:
    image = opened(rows_preview([series(), series(values=np.arange(1000))], "Run 000124", "two"))
    present = {color for _, color in image.getcolors(1 << 24) or []}
    assert (31, 97, 172) in present
    assert (198, 88, 22) in present


def test_a_gap_stays_a_gap() -> None:
    values = np.ones(1000)
    values[:2] = (0, 2)
    values[400:600] = np.nan
    image = opened(rows_preview([series(values=values)]))
    middle = [image.getpixel((475, y)) for y in range(30, 90)]
    assert (31, 97, 172) not in middle


@pytest.mark.parametrize(
    "one",
    [
        series(0), series(1), series(values=np.full(1000, np.nan)), series(values=np.full(1000, 5)), series(values=np.zeros(1000, bool)),
        series(values=np.array(["a"] * 1000)), series(t_ns=np.full(1000, NO_TIME)), series(t_ns=np.full(1000, START)),
        series(t_ns=START - np.arange(1000) * 10**9), series(t_ns=np.arange(1000) * 2**50 - 2**62), series(values=np.full(1000, 1e308)),
        series(values=np.resize([-1e308, 1e308], 1000)), series(values=np.arange(2000).reshape(1000, 2)),
        series(name="n" * 500, unit="u" * 99),
        series(values=np.full(1000, 2**64 - 1, "<u8")),
    ],
)  # fmt: skip
def test_any_series_gives_a_picture(one: Series) -> None:
    opened(rows_preview([one, series()], "title " * 100, "caption"))


def test_no_series_gives_a_picture_that_says_so() -> None:
    opened(rows_preview([]))


def test_only_eight_series_are_drawn_however_many_there_are() -> None:
    assert rows_preview([series()] * 8) != rows_preview([series()] * 300)
    assert opened(rows_preview([series()] * 8)).size == opened(rows_preview([series()] * 300)).size


def test_long_series_take_bounded_time() -> None:
    n = 2_000_000
    began = time.monotonic()
    opened(rows_preview([series(n, values=np.random.default_rng(1).normal(size=n))]))
    assert time.monotonic() - began < 20


def test_times_out_of_order_are_drawn_in_order() -> None:
    order = np.random.default_rng(3).permutation(1000)
    one = series()
    assert rows_preview([one]) == rows_preview([series(t_ns=one.t_ns[order], values=one.values[order])])
