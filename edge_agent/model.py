"""Value types that travel between the rooms. Floor 0: imports nothing of the project but the errors.

Invariants: values are frozen; every time is UTC nanoseconds since 1970 as a Python int or an ``int64`` array and
says where it was read (source, server, arrival); `NO_TIME` stands for "the source gave none". Arrays are C-ordered and
are never changed after they were handed over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NO_TIME = -(2**63)
"""Marks a time that the source did not give (numpy's NaT)."""

NO_SEQ = 2**64 - 1
"""Marks a counter that the source does not have (serial lines, OPC-UA items, Channel Access)."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""Instrument, stream, project and group names: ASCII, safe in paths, topics and on Windows."""

Int64Array = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]


def utc_now_ns() -> int:
    """Arrival time: this machine's clock, UTC nanoseconds."""
    return time.time_ns()


class Kind(StrEnum):
    """What a stream is made of."""

    FRAMES = "frames"
    ROWS = "rows"
    FILES = "files"


class Valid(IntEnum):
    """The ``valid`` dataset beside each value: 0 is unusable, anything else is usable."""

    BAD = 0
    GOOD = 1
    INITIAL = 2
    """Good, but not an event: the last known value, read at connect or written at the start of a run."""
    HISTORY = 3
    """Good, and fetched later from the source's own history, because it was missed at its time."""


class Cause(StrEnum):
    """Why something is missing; the ``cause`` of a GAP or SEQ_RESET leaf."""

    SOURCE = "source"  # the source's counter jumped: lost before the adapter
    OVERLOAD = "overload"  # refused here because the machine could not keep up
    OVERFLOW = "overflow"  # a queue at the server or driver said that it overflowed
    DISCONNECT = "disconnect"  # the connection was down
    CRASH = "crash"  # the agent was not running
    GARBAGE = "garbage"  # bytes arrived that are no item
    RESTART = "restart"  # the source began counting again
    DISK = "disk"  # the disk did not take it


class Priority(StrEnum):
    """Whose frames are thinned out first when the machine is too slow."""

    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Stream:
    """One channel of one instrument, as the adapter discovered it.

    ``shape`` and ``dtype`` are of one item: a frame ``(h, w)`` ``<u2``, a scalar ``()`` ``<f8``, a text ``()`` ``|S64``.
    ``counted`` says that every item carries the source's own counter, which rises by ``step``. ``packed`` says that the frames come
    compressed in ``codec`` (`Packed`), which the configuration then does not change.
    """

    instrument: str
    name: str
    kind: Kind
    dtype: str = "<f8"
    shape: tuple[int, ...] = ()
    unit: str = ""
    source_uri: str = ""
    source_type: str = ""
    counted: bool = False
    step: int = 1
    codec: str | None = None
    packed: bool = False
    priority: Priority = Priority.NORMAL
    transport: str = "unauthenticated"
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    """What the source says of itself: description, limits, precision, enum states, serial number."""
    key: str = field(init=False, repr=False, compare=False)
    """``instrument/name``: the name of the stream on every screen and in the ledger."""

    def __post_init__(self) -> None:
        """Refuse names that would not survive as a path, and types that HDF5 chunks cannot hold."""
        # Made once: every item is looked up by it several times.
        object.__setattr__(self, "key", f"{self.instrument}/{self.name}")
        for name in (self.instrument, self.name):
            if not NAME.fullmatch(name):
                raise ValueError(f"name {name!r}: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit")
        if self.kind is not Kind.FILES and np.dtype(self.dtype).hasobject:
            raise ValueError(f"dtype {self.dtype!r}: object types cannot be recorded")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of one stream: ``n`` values with their times, all arrays of length ``n``.

    ``values`` has shape ``(n, *stream.shape)`` and the stream's dtype. ``t_source``, ``t_server``, ``t_arrival`` are int64
    UTC ns (`NO_TIME` where unknown). ``valid`` is uint8 (`Valid`), ``status`` uint32 (the protocol's own code). ``seq`` is the source's
    counter as uint64, or None for a stream without one.
    """

    values: npt.NDArray[Any]
    t_source: Int64Array
    t_arrival: Int64Array
    t_server: Int64Array | None = None
    valid: npt.NDArray[np.uint8] | None = None
    status: npt.NDArray[np.uint32] | None = None
    seq: UInt64Array | None = None

    def __post_init__(self) -> None:
        """All columns have the same length."""
        n = len(self.values)
        for column in (self.t_source, self.t_arrival, self.t_server, self.valid, self.status, self.seq):
            if column is not None and len(column) != n:
                raise ValueError(f"a block of {n} values has a column of {len(column)}")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An image that its source compressed: the bytes that HDF5 stores for it under the filter of the stream's ``codec``.

    ``stored`` has the filter's own framing; ``shape`` and ``dtype`` are those of the pixels that a reader gets.
    """

    stored: npt.NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, packed."""
        return self.stored.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image (or spectrum) of the stream's shape and dtype, C-contiguous or as its source packed it, with the source's ``number``."""

    data: npt.NDArray[Any] | Packed
    number: int
    t_source: int
    t_arrival: int
    t_server: int = NO_TIME
    valid: Valid = Valid.GOOD
    status: int = 0


@dataclass(frozen=True, slots=True)
class FileItem:
    """A finished file of a vendor's program: carried byte for byte.

    ``path`` is where it is now; ``name`` is its path below the watched folder with ``/``, in NFC. Times are UTC ns. ``project`` is the one
    that its path names; empty where the run decides.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    t_arrival: int
    project: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is missing and is said to be. Numbers are inclusive; None where the source does not count.

    ``count`` None means unknown, printed ``? (4.2 s)`` and never 0.

    Invariant: it does not end before it begins. Where a clock was set back in between, or the two times are of two clocks, when it
    began is not known by the clock that gave ``t_to``: ``t_from`` becomes `NO_TIME`, and ``detail`` says what was told.
    """

    cause: Cause
    first: int | None = None
    last: int | None = None
    count: int | None = None
    t_from: int = NO_TIME
    t_to: int = NO_TIME
    detail: str = ""

    def __post_init__(self) -> None:
        """Keep the invariant, for whoever took two times of a clock."""
        if NO_TIME < self.t_to < self.t_from:
            began, after = np.datetime64(self.t_from, "ns"), (self.t_from - self.t_to) / 1e9
            told = f"told to begin at {began}Z, {after:.9g} s after its end: a clock was set back in between, or there are two"
            object.__setattr__(self, "detail", f"{self.detail}; {told}" if self.detail else told)
            object.__setattr__(self, "t_from", NO_TIME)


@dataclass(frozen=True, slots=True)
class Reset:
    """The source's counter began again: an IOC restarted, a counter wrapped."""

    cause: Cause
    last: int | None
    first: int


class Access(StrEnum):
    """The label of a run; the stricter of two wins."""

    OPEN = "open"
    SHARED = "shared"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Label:
    """Who may have the data.

    ``allowed`` names the targets that may hold data that is not open; empty means the project's own space. ``jurisdictions`` are the
    countries (ISO 3166-1, as "JP") that it may not leave; None: it may.
    """

    access: Access = Access.CLOSED
    allowed: frozenset[str] = frozenset()
    jurisdictions: frozenset[str] | None = None


class Outcome(StrEnum):
    """How a run ended; all land alike."""

    COMPLETE = "complete"
    ABORTED = "aborted"
    FAILED = "failed"
    CALIBRATION = "calibration"


@dataclass(frozen=True, slots=True)
class RunContext:
    """What every piece of a run knows of it. ``started_ns`` is UTC ns; ``folder`` is the path in the project space.

    ``rule`` gave it its project, as ``rule_source`` told; ``refused``: why that project takes no new data, so that none is sent.
    """

    run_id: bytes
    run_no: int
    project: str
    group: str
    started_ns: int
    folder: str
    label: Label = field(default_factory=Label)
    title: str = ""
    user: str = ""
    sample: str = ""
    trigger: str = "session"
    role: str = ""
    rule: str = ""
    rule_source: str = ""
    refused: str = ""

    @property
    def name(self) -> str:
        """``000123``: the run's number as it stands in paths."""
        return f"{self.run_no:06d}"


class ItemKind(StrEnum):
    """What an item in the outbox is; the order is the order of sending within a run."""

    SEGMENT = "segment"
    FILE = "file"
    MASTER = "master"
    SIDECAR = "sidecar"
    PREVIEW = "preview"
    MANIFEST = "manifest"
    RECEIPTS = "receipts"
    CRATE = "crate"


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """One file that waits in the spool for its targets.

    ``path`` is local; ``remote`` is the path in the project space (``project/group/date/run/name``, ``/``). ``segment_id`` and
    ``head_hash`` (SHA-256 of the close head's payload) are set for segments. ``sha256`` is None until the first sending.
    ``counts`` maps stream keys to the number of frames, rows or files that the item carries.
    """

    item_id: str
    kind: ItemKind
    path: Path
    remote: str
    size: int
    run_id: bytes
    run_no: int
    project: str
    label: Label
    segment_id: bytes = b"\0" * 16
    head_hash: bytes = b"\0" * 32
    sha256: bytes | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


class Proof(StrEnum):
    """What the other side proved (custody's ``durable``), strongest first."""

    FSYNCED = "fsynced"
    STORE_DIGEST = "store-digest"
    READ_BACK = "read-back"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a target holds instead of an item: the item encrypted, as an object of this name, size and SHA-256.

    ``keys`` are the public keys that open it; an agent that did not keep them yet wrote none.
    """

    name: str
    size: int
    sha256: bytes
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Receipt:
    """A target's proof that it holds an item: the custody statement and, where the target signs, its COSE bytes.

    ``sha256`` and ``size`` are of the item as it lies in the spool. Where the target holds it encrypted, what it proved is ``envelope``.
    """

    target: str
    item_id: str
    sha256: bytes
    size: int
    proof: Proof
    t_ns: int
    cose: bytes = b""
    envelope: Envelope | None = None

    @property
    def statement(self) -> bytes:
        """What was proved, as the agent log hashes it: the signed statement, else the SHA-256 of the bytes that the target holds."""
        return self.cose or (self.sha256 if self.envelope is None else self.envelope.sha256)
