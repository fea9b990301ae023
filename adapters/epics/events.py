"""What a follower of one PV reports, in the order in which it happened: joined, samples, lost, joined again.

Invariants: an event holds nothing of an EPICS library; times are UTC ns. Of updates that are not decoded yet (`Raw`) and of `Numbers`,
`decoded` makes `Samples` of many at once, since a single one costs as much as a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

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
    """What the IOC says of a PV; ``uri`` names it with its protocol."""

    source_type: str
    unit: str = ""
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    uri: str = ""


@dataclass(slots=True, eq=False)
class Sample:
    """One value of one PV. ``value`` fits ``form``; ``status`` is ``severity << 16 | status``; ``cut``: longer than the form holds.

    Never changed; not frozen, since there are many and that would treble their cost.
    """

    value: Any
    form: Form
    t_source: int
    t_arrival: int
    bad: bool = False
    status: int = 0
    cut: bool = False


@dataclass(slots=True, eq=False)
class Samples:
    """``n`` values of one PV: ``values`` is ``(n, *form.shape)``, the others have length ``n`` and mean what they do in `Sample`.

    ``cut``: arrival times of those that were longer than the form holds.
    """

    values: npt.NDArray[Any]
    form: Form
    t_source: npt.NDArray[np.int64]
    t_arrival: npt.NDArray[np.int64]
    bad: npt.NDArray[np.bool_]
    status: npt.NDArray[np.uint32]
    cut: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Behind:
    """The server may have merged values in this time, since so much waited in the connection: nobody knows how many."""

    t_from: int
    t_to: int
    late_ns: int


class Decoder(Protocol):
    """Knows how the updates of one subscription are to be read."""

    def decode(self, updates: Sequence[Raw]) -> Iterable[Samples | Alarm | Behind]:
        """Values, alarms and what may be missing, in their order."""
        ...


@dataclass(slots=True, eq=False)
class Raw:
    """One update as bytes, which ``decoder`` understands."""

    data: bytes
    t_arrival: int
    decoder: Decoder


@dataclass(slots=True, eq=False)
class Numbers:
    """Single numbers of one PV that came together, with source times in two parts since 1970, and one alarm for all."""

    values: list[int | float]
    form: Form
    seconds: list[int]
    nanoseconds: list[int]
    t_arrival: int
    bad: bool
    status: int


@dataclass(frozen=True, slots=True)
class Joined:
    """The PV answers (again), or describes itself anew. ``news``: its first value is an event and not what was there before."""

    description: Description
    t: int
    news: bool = False


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


@dataclass(frozen=True, slots=True)
class Alarm:
    """The alarm of the PV changed: ``MAJOR HIHI``. Times in UTC ns."""

    text: str
    status: int
    t_source: int
    t_arrival: int


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One update of an NTTable: columns of one length by name, as numbers or texts (list of str), with the numpy dtype of an element."""

    columns: Mapping[str, tuple[Any, str]]
    t_source: int
    t_arrival: int
    bad: bool
    status: int


Decoded: TypeAlias = Sample | Samples | Alarm | Behind | Table | Joined | Lost | Spoiled
Event: TypeAlias = Decoded | Raw | Numbers
Emit: TypeAlias = Callable[[Event], None]


def decoded(events: Iterable[Event]) -> Iterator[Decoded]:
    """The same events in their order; updates and numbers that stand next to each other are decoded together."""
    for key, run in groupby(events, _together_with):
        if key is None:
            yield from (event for event in run if not isinstance(event, (Raw, Numbers)))
        elif isinstance(key, Form):
            yield _samples(key, [event for event in run if isinstance(event, Numbers)])
        else:
            yield from key.decode([event for event in run if isinstance(event, Raw)])


def _together_with(event: Event) -> Decoder | Form | None:
    if isinstance(event, Raw):
        return event.decoder
    return event.form if isinstance(event, Numbers) else None


def _samples(form: Form, runs: Sequence[Numbers]) -> Samples:
    values = np.array([value for run in runs for value in run.values], form.dtype)
    seconds = np.array([second for run in runs for second in run.seconds], np.int64)
    nanoseconds = np.array([nanosecond for run in runs for nanosecond in run.nanoseconds], np.int64)
    told = (seconds > 0) & (seconds < 2**63 // NS) & ((seconds != EPICS_EPOCH) | (nanoseconds != 0))
    lengths = [len(run.values) for run in runs]
    t_arrival, bad, status = (
        np.repeat(np.array(one, dtype), lengths)
        for one, dtype in (
            ([run.t_arrival for run in runs], np.int64), ([run.bad for run in runs], np.bool_), ([run.status for run in runs], np.uint32)
        )
    )  # fmt: skip
    if values.dtype.kind == "f":
        bad |= np.isnan(values)
    return Samples(values, form, np.where(told, np.where(told, seconds, 0) * NS + nanoseconds, NO_TIME), t_arrival, bad, status)


def samples_of(event: Event) -> Iterator[Sample]:
    """The values in one event, one by one: for whoever wants each change of a slow PV."""
    for one in decoded((event,)):
        if isinstance(one, Sample):
            yield one
        elif isinstance(one, Samples):
            columns = (column.tolist() for column in (one.t_source, one.t_arrival, one.bad, one.status))
            plain = one.values.tolist() if not one.form.shape else one.values
            for value, t_source, t_arrival, bad, status in zip(plain, *columns, strict=True):
                yield Sample(value, one.form, t_source, t_arrival, bad, status)


def time_ns(seconds: int, nanoseconds: int) -> int:
    """UTC ns of an EPICS time stamp counted from 1970; `NO_TIME` when the source gave none (0, or the EPICS epoch)."""
    if seconds <= 0 or (seconds == EPICS_EPOCH and nanoseconds == 0) or seconds >= 2**63 // NS:
        return NO_TIME
    return seconds * NS + nanoseconds


_SEVERITIES = ("NO_ALARM", "MINOR", "MAJOR", "INVALID")
_SCALARS = {dtype: Form(dtype) for dtype in ("|u1", "|i1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8")}


def scalar_form(dtype: str) -> Form | None:
    """Of a single number; None for texts. The same object each time."""
    return _SCALARS.get(dtype)


class Alarms:
    """Tells when the alarm of one PV changed; a PV that is not in alarm when it is first seen says nothing."""

    def __init__(self) -> None:
        self._last: tuple[int, str] = (0, "")

    def changed(self, severity: int, status: int, message: str, t_source: int, t_arrival: int) -> Alarm | None:
        """The alarm, if it is another than the last one."""
        if (coded := code(severity, status)) == self._last[0] and message == self._last[1]:
            return None
        self._last = coded, message
        word = _SEVERITIES[severity] if 0 <= severity < len(_SEVERITIES) else str(severity)
        return Alarm(f"{word} {message}".strip() if severity else word, coded, t_source, t_arrival)


def code(severity: int, status: int) -> int:
    """Both as one number: ``severity << 16 | status``."""
    return (severity & 0xFFFF) << 16 | status & 0xFFFF


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
    form = _SCALARS.get(dtype)
    if form is not None and isinstance(value, (int, float)):
        bad = severity >= INVALID or value != value
        return Sample(value, form, time_ns(seconds, nanoseconds), utc_now_ns(), bad, code(severity, status))
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
    return Sample(converted, form, stamp, utc_now_ns(), bad, code(severity, status), cut)


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
