"""``preview.png``: what a run looks like at a glance, from one frame or from up to eight series of rows.

Work and size are bounded whatever comes in: large frames are thinned before anything is computed, long series are
drawn as an envelope of one minimum and maximum a pixel. Values that are not finite are left out and never change the
scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edge_agent.provenance.drawing import INK, LINE, NO_DATA, PAPER, SOFT, clip, number, png, write
from edge_agent.provenance.sparkline import LARGEST, Series, rows_preview

__all__ = ["Series", "frame_preview", "rows_preview"]

INFERNO = np.array(
    [(0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84), (221, 81, 58), (243, 120, 25), (252, 165, 10),
     (246, 215, 70), (252, 255, 164)], dtype=np.float64,
)  # fmt: skip
IMAGE_SIDE = 640
LONGEST = 4096
"""Frames are thinned to at most this many pixels a side before they are averaged."""


def frame_preview(frame: npt.NDArray[Any], title: str = "", caption: str = "") -> bytes:
    """A PNG of one frame on a logarithmic scale with its colour bar.

    Args:
        frame: ``(h, w)`` numeric; ``(n,)`` is drawn as a curve, ``(h, w, 3)`` uint8 shown as it is; else the first slice.
        title: one line above.
        caption: one line below.
    """
    data = np.asarray(frame)
    while data.ndim > 2 and not (data.ndim == 3 and data.shape[2] == 3 and data.dtype == np.uint8):
        data = data[0] if len(data) else np.zeros((1, 1))
    if data.ndim < 2:
        flat = _real(np.atleast_1d(data))
        return rows_preview([Series(title or "spectrum", "", np.arange(len(flat), dtype=np.int64), flat)], "", caption, time_axis=False)
    if data.size == 0:
        data = np.zeros((1, 1))
    thin = data[:: max(1, -(-data.shape[0] // LONGEST)), :: max(1, -(-data.shape[1] // LONGEST))]
    if thin.ndim == 3:
        picture, low, high = Image.fromarray(np.ascontiguousarray(thin)), None, None
        picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    else:
        colored, low, high = _log_colors(_shrink(_real(thin)))
        picture = Image.fromarray(colored)
    factor = max(1, min(IMAGE_SIDE // picture.width, IMAGE_SIDE // picture.height))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    shape = " x ".join(str(n) for n in data.shape[:2])
    return _frame_page(picture, low, high, title, caption or f"{shape} pixels, {data.dtype}, logarithmic scale")


def _real(data: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """As float64 that no sum overflows; the magnitude of complex numbers; not finite is NaN."""
    real = np.asarray(np.abs(data) if data.dtype.kind == "c" else data).astype(np.float64)
    return np.where(np.isfinite(real), real.clip(-LARGEST, LARGEST), np.nan)


def _shrink(data: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Average blocks so that the longer side is at most `IMAGE_SIDE`; not finite pixels do not count."""
    step = max(1, -(-max(data.shape) // IMAGE_SIDE))
    if step == 1:
        return data
    h, w = -(-data.shape[0] // step), -(-data.shape[1] // step)
    padded = np.full((h * step, w * step), np.nan)
    padded[: data.shape[0], : data.shape[1]] = data
    blocks = padded.reshape(h, step, w, step)
    good = np.isfinite(blocks)
    number = good.sum(axis=(1, 3))
    total = np.where(good, blocks, 0.0).sum(axis=(1, 3))
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _log_colors(data: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint8], float, float]:
    """RGB of each pixel, and the values at both ends of the scale (1st and 99.9th percentile)."""
    finite = np.isfinite(data)
    if not finite.any():
        return np.full((*data.shape, 3), NO_DATA, dtype=np.uint8), 0.0, 0.0
    low, high = (float(v) for v in np.percentile(data[finite], (1.0, 99.9)))
    unit = max((high - low) / 1e4, 1.0 if high - low > 100 else (high - low) / 100, 1e-300)
    lifted = np.log1p(np.clip(np.where(finite, data, low) - low, 0, max(high - low, 0)) / unit)
    part = lifted / max(math.log1p((high - low) / unit), 1e-300)
    where = np.clip(part, 0, 1) * (len(INFERNO) - 1)
    index = np.minimum(where.astype(np.int64), len(INFERNO) - 2)
    fraction = (where - index)[..., None]
    rgb = INFERNO[index] * (1 - fraction) + INFERNO[index + 1] * fraction
    rgb[~finite] = NO_DATA
    return rgb.round().astype(np.uint8), low, high


def _frame_page(picture: Image.Image, low: float | None, high: float | None, title: str, caption: str) -> bytes:
    left, top, right, bottom = 24, 58 if title else 24, 120 if low is not None else 24, 48
    width = max(left + picture.width + right, 420)
    page = Image.new("RGB", (width, top + picture.height + bottom), PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        write(draw, (left, 18), clip(title, (width - left) // 12), 20, INK)
    page.paste(picture, (left, top))
    draw.rectangle([left - 1, top - 1, left + picture.width, top + picture.height], outline=LINE)
    if low is not None and high is not None:
        x = left + picture.width + 18
        steps = np.linspace(len(INFERNO) - 1, 0, picture.height)
        bar = np.stack([np.interp(steps, np.arange(len(INFERNO)), INFERNO[:, c]) for c in range(3)], axis=-1)
        page.paste(Image.fromarray(np.repeat(bar[:, None].round().astype(np.uint8), 14, axis=1)), (x, top))
        draw.rectangle([x - 1, top - 1, x + 14, top + picture.height], outline=LINE)
        write(draw, (x + 22, top - 3), number(high), 13, SOFT)
        write(draw, (x + 22, top + picture.height - 13), number(low), 13, SOFT)
    write(draw, (left, top + picture.height + 16), clip(caption, (width - left) // 7), 13, SOFT)
    return png(page)
