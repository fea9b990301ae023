"""What the product is to reach, and what a measurement says of it: reached, missed, or out of reach on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.capture import Result


@dataclass(frozen=True, slots=True)
class Target:
    """At least ``least`` times what ``other`` does; ``name`` is how `Result` calls it."""

    name: str
    least: float
    other: str


TARGETS = (
    Target("limit", 0.85, "the limit"),
    Target("codec", 0.6, "the codec"),
    Target("h5py", 2.0, "h5py Bitshuffle"),
    Target("zstd", 5.0, "h5py zstd"),
)
MOST_MB = 400


def verdict(result: Result, target: Target) -> str:
    """The ratio, and where it is not what it should be, how near to the limit that would be: beyond it, no recorder can be."""
    reached = getattr(result, f"ratio_{target.name}")
    if reached >= target.least:
        return f"**{reached:.2f}**"
    if target.name == "limit":
        return f"{reached:.2f}, missed"
    needed = target.least / getattr(result, f"limit_{target.name}")
    return f"{reached:.2f}, {'out of reach' if needed > 1 else 'missed'}: {target.least:g} would be {needed:.2f} of the limit"


def sound(result: Result) -> str:
    """Whether nothing was missed and memory stayed in its bounds."""
    fine = not result.missed and result.rss_peak_mb <= MOST_MB
    text = f"{result.missed} missed, {result.rss_peak_mb:.0f} MB"
    return f"**{text}**" if fine else text


def at_least(value: float, least: float) -> str:
    """What to say of a figure that should be at least ``least``."""
    return f"at least {least:g} is wanted: {'reached' if value >= least else 'missed'}"


def at_most(value: float, most: float) -> str:
    """What to say of a figure that should be at most ``most``."""
    return f"at most {most:g} is allowed: {'reached' if value <= most else 'missed'}"
