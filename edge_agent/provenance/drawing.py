"""What both kinds of preview are drawn with: ink, one-line texts, numbers, PNG bytes."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
INK, SOFT, LINE, PAPER, NO_DATA = (28, 32, 40), (108, 116, 130), (222, 226, 232), (255, 255, 255), (176, 180, 188)


def write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, color: Color, scale: int = 1, anchor: str = "la"
) -> None:
    """One line of text; ``at`` and ``size`` in pixels before scaling."""
    draw.text((at[0] * scale, at[1] * scale), text, fill=color, font=ImageFont.load_default(size * scale), anchor=anchor)


def clip(text: str, length: int) -> str:
    """On one line and at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: max(1, length - 1)] + "\u2026"


def number(value: float) -> str:
    """A value for people: four digits, thousands separated."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def png(image: Image.Image) -> bytes:
    """The image as PNG; the same image gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
