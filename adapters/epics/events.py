"""What a follower of one PV reports, in the order in which it happened: joined, samples, lost, joined again.

Invariants: values are converted when they arrive, so an event holds nothing of an EPICS library; times are UTC ns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from edge_agent.model import NO_TIME, utc_now_ns

NS = 1_000_000_000
EPICS_EPOCH = 631_152_000
"""1990-01-01 in seconds since 1970: the time stamp of a record that was never processed."""

INVALID = 3
"""Alarm severity of a value that must not be used (EPICS alarm.h)."""

TEXT_BYTES = 256
TEXT = f"|S{TEXT_BYTES}"


@dataclass(frozen=True, slots=True)
class Form:
    """What one item of a stream is: numpy dtype and shape."""

    dtype: str
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What the IOC says of a PV."""

    source_type: str
    unit: str = ""
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One value of one PV. ``value`` fits ``form``; ``status`` is ``severity << 16 | status``; ``cut``: longer than the form holds."""

    value: Any
    form: Form
    t_source: int
    t_arrival: int
    bad: bool = False
    status: int = 0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """The PV answers (again), or describes itself anew."""

    description: Description
    t: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The PV stopped answering, or says what nobody can use."""

    why: str
    t: int


@dataclass(frozen=True, slots=True)
class Spoiled:
    """One update could not be understood."""

    why: str
    t: int


Event: TypeAlias = Sample | Joined | Lost | Spoiled
Emit: TypeAlias = Callable[[Event], None]


def time_ns(seconds: int, nanoseconds: int) -> int:
    """UTC ns of an EPICS time stamp counted from 1970; `NO_TIME` when the source gave none (0, or the EPICS epoch)."""
    if seconds <= 0 or (seconds == EPICS_EPOCH and nanoseconds == 0) or seconds >= 2**63 // NS:
        return NO_TIME
    return seconds * NS + nanoseconds


def sample(value: Any, dtype: str, seconds: int, nanoseconds: int, severity: int, status: int) -> Sample:
    """Convert a number, a text, or an array of either.

    Args:
        value: what the library gave; texts as str or list of str.
        dtype: numpy dtype of one element; `TEXT` for texts, which are cut after 256 bytes of UTF-8.
        seconds: source time, since 1970.
        nanoseconds: its fraction.
        severity: alarm severity.
        status: alarm status.
    """
    cut = False
    if dtype == TEXT:
        texts = [value] if isinstance(value, str) else list(value)
        coded = [encode_text(text) for text in texts]
        cut = any(long for _, long in coded)
        converted: Any = np.array([data for data, _ in coded], TEXT)
        if isinstance(value, str):
            converted = converted[0]
        form = Form(TEXT, () if isinstance(value, str) else (len(texts),))
    elif isinstance(value, np.ndarray):
        # A copy: the library's array may be a view into its own buffers.
        converted = np.array(value, dtype, copy=True)
        form = Form(dtype, converted.shape)
    else:
        converted = value
        form = Form(dtype)
    bad = severity >= INVALID or not_a_number(converted)
    stamp = time_ns(seconds, nanoseconds)
    return Sample(converted, form, stamp, utc_now_ns(), bad, (severity & 0xFFFF) << 16 | status & 0xFFFF, cut)


def encode_text(text: str) -> tuple[bytes, bool]:
    """UTF-8 of a text, cut between two characters to fit; True when it was cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= TEXT_BYTES:
        return data, False
    return data[:TEXT_BYTES].decode("utf-8", "ignore").encode(), True


def not_a_number(value: Any) -> bool:
    """Whether a number is NaN, or an array is nothing but NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
        return bool(np.isnan(value).all())
    return False
