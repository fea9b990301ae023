"""Sparklines of rows for ``preview.png``: an envelope of one minimum and maximum a pixel, however long the series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edge_agent.model import NO_TIME
from edge_agent.provenance.drawing import INK, LINE, PAPER, SOFT, Color, clip, number, png, write

COLORS = [(31, 97, 172), (198, 88, 22), (24, 132, 98), (150, 62, 150), (176, 132, 10), (190, 48, 72), (62, 124, 190), (96, 104, 118)]
MOST_SERIES = 8
LARGEST = 1e150
"""Larger values are drawn as this, so that no sum overflows."""
SCALE = 2
"""Plots are drawn this much larger and shrunk, which smooths the lines."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One line of `rows_preview`: ``values`` (n,) of a numeric dtype at ``t_ns`` (n,) int64 UTC ns."""

    name: str
    unit: str
    t_ns: npt.NDArray[np.int64]
    values: npt.NDArray[Any]


def rows_preview(series: Sequence[Series], title: str = "", caption: str = "", *, time_axis: bool = True) -> bytes:
    """A PNG with one small plot a series, on one time axis.

    Args:
        series: the first eight that have values with a time are drawn, numbers only.
        title: one line above.
        caption: one line below; how many series were left out is added.
        time_axis: whether ``t_ns`` are times; else the axis is a number.
    """
    shown = [s for s in map(_usable, series) if len(s.values)][:MOST_SERIES]
    height, top, width, left, right = 92, 54 if title else 20, 900, 200, 150
    page = Image.new("RGB", (width * SCALE, (top + height * max(1, len(shown)) + 62) * SCALE), PAPER)
    draw = ImageDraw.Draw(page)
    if title:
        write(draw, (24, 18), clip(title, 80), 20, INK, SCALE)
    bounds = [(int(s.t_ns.min()), int(s.t_ns.max())) for s in shown]
    start, end = min((b[0] for b in bounds), default=0), max((b[1] for b in bounds), default=0)
    for row, one in enumerate(shown):
        box = (left, top + row * height + 10, width - right, top + (row + 1) * height - 14)
        _plot(draw, one, box, start, end, COLORS[row % len(COLORS)])
    bottom = top + height * max(1, len(shown))
    if not shown:
        write(draw, (left, top + 30), "no values", 16, SOFT, SCALE)
    else:
        first, last = (_clock(start, end - start), _clock(end, end - start)) if time_axis else (str(start), str(end))
        write(draw, (left, bottom), first, 13, SOFT, SCALE)
        write(draw, (width - right, bottom), last, 13, SOFT, SCALE, anchor="ra")
    missing = len(series) - len(shown)
    more = f"{missing} more series not shown" if missing and shown else ""
    write(draw, (24, bottom + 30), clip("; ".join(filter(None, (caption, more))), 110), 13, SOFT, SCALE)
    return png(page.resize((page.width // SCALE, page.height // SCALE), Image.Resampling.LANCZOS))


def _usable(one: Series) -> Series:
    """In order of time, without values that have none; empty if they are no numbers."""
    values = np.asarray(one.values)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        return Series(one.name, one.unit, np.empty(0, np.int64), np.empty(0))
    known = one.t_ns != NO_TIME
    t_ns, numbers = one.t_ns[known], np.clip(values[known].astype(np.float64), -LARGEST, LARGEST)
    numbers[~np.isfinite(values[known].astype(np.float64))] = np.nan
    order = np.argsort(t_ns, kind="stable") if np.any(t_ns[1:] < t_ns[:-1]) else slice(None)
    return Series(one.name, one.unit, t_ns[order], numbers[order])


def _plot(draw: ImageDraw.ImageDraw, one: Series, box: tuple[int, int, int, int], start: int, end: int, color: Color) -> None:
    x0, y0, x1, y1 = box
    values = one.values
    finite = np.isfinite(values)
    draw.line([(x0 * SCALE, (y1 + 5) * SCALE), (x1 * SCALE, (y1 + 5) * SCALE)], fill=LINE, width=SCALE)
    write(draw, (24, y0 + 6), clip(one.name, 22), 15, INK, SCALE)
    write(draw, (24, y0 + 28), f"{len(values):,} value{'s' if len(values) > 1 else ''}", 12, SOFT, SCALE)
    if not finite.any():
        write(draw, (x0, (y0 + y1) // 2 - 8), "no usable value", 13, SOFT, SCALE)
        return
    low, high = float(values[finite].min()), float(values[finite].max())
    last = values[finite][-1]
    write(draw, (x1 + 14, (y0 + y1) // 2 - 9), clip(f"{number(last)} {one.unit}".strip(), 16), 15, color, SCALE)
    span, pixels = max(end - start, 1), (x1 - x0) * SCALE
    flat = high == low
    if not flat:
        write(draw, (x1 + 14, y0 - 2), number(high), 11, SOFT, SCALE)
        write(draw, (x1 + 14, y1 - 10), number(low), 11, SOFT, SCALE)
    columns = ((one.t_ns.astype(np.float64) - start) / span * (pixels - 1)).clip(0, pixels - 1).astype(np.int64)

    def y_of(value: float) -> float:
        part = 0.5 if flat else value / (high - low) - low / (high - low)
        return (y1 - part * (y1 - y0)) * SCALE

    before: tuple[float, float] | None = None
    edges = np.flatnonzero(np.diff(columns)) + 1
    for part in zip(np.concatenate(([0], edges)), np.concatenate((edges, [len(columns)])), strict=True):
        some = values[part[0] : part[1]]
        good = some[np.isfinite(some)]
        if not len(good):
            before = None
            continue
        x = x0 * SCALE + float(columns[part[0]])
        top, bottom = y_of(float(good.max())), y_of(float(good.min()))
        if before is not None:
            draw.line([before, (x, y_of(float(good[0])))], fill=color, width=int(1.5 * SCALE))
        draw.line([(x, top), (x, max(bottom, top + 1))], fill=color, width=int(1.5 * SCALE))
        before = (x, y_of(float(good[-1])))
    if before is not None:
        x, y = before
        draw.ellipse([x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE], fill=color)


def _clock(ns: int, span: int) -> str:
    seconds, rest = divmod(ns, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    fraction = f".{rest // 10**6:03d}" if span < 10**10 else ""
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} UTC"
