"""Series of segments: what all kinds have in common (one for each frame stream of a run, one for its row streams, one for its files).

Everything here is done in turn (`Line`). A series opens a segment with its first item and rolls by size and age. When a segment's disk
fails, its durable part is recovered and the items that never became durable are written again into a new one; the writer waits for a disk
that takes it, and meanwhile the inlets push back. An item that cannot be written for any other reason is declared as missing, and the
others go on.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edge_agent.errors import DiskError
from edge_agent.model import Cause, Gap, RunContext, Stream
from edge_agent.record.items import FrameItem, GapItem, Item, RowsItem
from edge_agent.record.segment_writer import Closed, SegmentWriter
from edge_agent.record.session import Session
from edge_agent.record.table import Table
from edge_agent.seal import leaf
from edge_agent.seal.clock import Clock
from edge_agent.seal.policy import policy_digest
from edge_agent.segment import layout, nexus
from edge_agent.segment.tags import Tag
from edge_agent.storage import Storage

log = logging.getLogger(__name__)

MIB = 1 << 20
MAX_LEAVES = 1 << 17
"""Leaves of a segment are kept in memory until it closes; beyond so many it rolls."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a segment closes: at ``size`` bytes once it is ``min_age`` s old, at ``max_size`` or ``max_age`` in any case."""

    size: int = 256 * MIB
    min_age: float = 30.0
    max_size: int = 4096 * MIB
    max_age: float = 600.0

    def reached(self, stored: int, age: float) -> bool:
        """Whether it is time."""
        return (stored >= self.size and age >= self.min_age) or stored >= self.max_size or age >= self.max_age


FRAME_LIMITS = Limits()
ROW_LIMITS = Limits(min_age=0.0, max_size=256 * MIB, max_age=3600.0)


@dataclass(slots=True)
class RunState:
    """What the series of one run share. ``ordinal`` is the last one given; ``previous`` maps a series to its last segment.

    ``session`` is asked when a segment is opened: it changes between segments, in turn. ``closed`` and ``broken`` are called
    in turn, again after a `DiskError`: what they do must bear being done twice. What ``broken`` made of a segment is in ``previous``
    afterwards; where it is not, nothing is left of it. ``wait_for_disk`` returns when it is worth
    another try and raises the error when it is not.
    """

    run: RunContext
    site: str
    folder: Path
    session: Callable[[], Session]
    storage: Storage
    record: Callable[[], str]
    context: Callable[[], bytes]
    closed: Callable[[Closed], None]
    broken: Callable[[SegmentWriter], None]
    wait_for_disk: Callable[[DiskError], None]
    now_ns: Callable[[], int]
    clock: Callable[[], Clock] = Clock
    ordinal: int = 0
    previous: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    last_seq: dict[str, int] = field(default_factory=dict)
    last_time: dict[str, int] = field(default_factory=dict)
    tags: tuple[Tag, ...] = ()
    """The list of tags that the run has so far."""
    files: set[str] = field(default_factory=set)
    """Paths in the run of the vendor files that it has recorded."""
    interrupted_since: int | None = None
    """Start of the run, UTC ns, when a crash interrupted it: of streams that have nothing durable in it, all since then may be lost."""

    tails: dict[str, Stream] = field(default_factory=dict)
    """Frame streams that a crash interrupted: where no frame comes any more, the end of the run says that some may be missing."""

    @property
    def policy(self) -> bytes:
        """Digest of the run's label."""
        return policy_digest(self.run.label.access.value, self.run.label.allowed)


class Series(ABC):
    """A series named ``name`` of one run."""

    with_data = True

    def __init__(self, state: RunState, name: str, limits: Limits) -> None:
        """Open nothing yet."""
        self.state = state
        self.name = name
        self.limits = limits
        self.segment: SegmentWriter | None = None
        self._ended: DiskError | None = None

    def write(self, item: Item) -> None:
        """Write an item; moves to a new segment as often as the disk demands.

        Raises:
            Exception: whatever kept the item from being written; it was declared as missing.
        """
        self._settle(deque([item]))
        self.roll_if_due()

    def begin(self) -> None:
        """Open a segment although there is nothing to write."""
        while True:
            try:
                self._open()
            except DiskError as error:
                self.state.wait_for_disk(error)
            else:
                return

    def tick(self) -> None:
        """Close what is old, replace what failed."""
        segment = self.segment
        if segment is not None and segment.failed is not None:
            self._settle(self._give_up(segment.failed))
        elif segment is not None:
            segment.watch_clock()
            self._anchor(segment)
        self.roll_if_due()

    def _anchor(self, segment: SegmentWriter) -> None:
        """Once a minute everything is signed by a head that the file keeps, rows that fill no chunk yet included."""
        if segment.anchor_due():
            for table in self._open_tables():
                table.sign_open()
            segment.publish()
            segment.request_anchor()

    def roll_if_due(self) -> None:
        """Close the segment when its limits are reached."""
        segment = self.segment
        if segment is None:
            return
        if self.limits.reached(segment.size, segment.age) or segment.leaves >= MAX_LEAVES or self._full():
            self.roll("rolled")

    def ready_to_close(self, reason: str, outcome: str = "") -> Callable[[], Closed] | None:
        """What is left of closing the open segment when all that needs the turn is done; None when there is none.

        It touches this segment alone, so those of several series can be closed at the same time. Its outcome is for `roll`.
        """
        return None if self.segment is None else self._rest_of_close(self.segment, reason, outcome)

    def roll(self, reason: str, outcome: str = "", begun: Future[Closed] | None = None) -> None:
        """Close the open segment, if there is one, and hand it over.

        Args:
            reason: why, for the CLOSE leaf.
            outcome: of the run, where this is its end.
            begun: what `ready_to_close` left is being done already, and this is what becomes of it.

        Raises:
            DiskError: the wait for the disk was ended before; what was written is left to the next start.
        """
        if self._ended is not None:
            raise self._ended
        while (segment := self.segment) is not None:
            try:
                closed = self._rest_of_close(segment, reason, outcome)() if begun is None else begun.result()
            except DiskError as error:
                self._settle(self._give_up(error))
            except Exception as error:
                # Not again: the journal has everything, and recovery does not go this way.
                self._settle(self._give_up(_unexpected(error)))
                raise
            else:
                self.segment = None
                self.state.previous[self.name] = (closed.segment_id, closed.head)
                self.state.last_seq.update(closed.last_seq)
                self.state.last_time.update(closed.last_time)
                self._until_done(partial(self.state.closed, closed))
            begun = None

    def _rest_of_close(self, segment: SegmentWriter, reason: str, outcome: str) -> Callable[[], Closed]:
        objects = self._closing(outcome) if self.with_data else {}
        return partial(segment.close, objects, self.state.policy, outcome, reason)

    def leave(self) -> None:
        """Let go of a segment that could not be closed; the next start recovers it."""
        segment, self.segment = self.segment, None
        for item in segment.abandon() if segment is not None else ():
            item.drop()

    def _settle(self, items: deque[Item]) -> None:
        """Write the items in order, whatever the disk does in between; what cannot be written is declared, and raised at the end."""
        failure: Exception | None = None
        try:
            while items:
                mark = self._mark()
                try:
                    if self.segment is not None and self.segment.failed is not None:
                        raise self.segment.failed
                    self._prepare(items[0])
                    self._write(items[0])
                    items.popleft()
                except DiskError as error:
                    items.extendleft(reversed(self._give_up(error)))
                except Exception as error:
                    failure = error
                    bad = items.popleft()
                    bad.drop()
                    missing = _missing(bad, error)
                    if missing is not None:
                        items.appendleft(missing)
                    if self.segment is not None and self.segment.spoilt:
                        items.extendleft(reversed(self._give_up(_unexpected(error))))
                    else:
                        self._rewind(mark)
        except DiskError as error:
            # The wait for the disk was ended. They were never acknowledged, and their room is given back.
            self._ended = error
            for item in items:
                item.drop()
            raise
        if failure is not None:
            raise failure

    def _give_up(self, error: DiskError) -> deque[Item]:
        """Leave the segment to recovery, wait for the disk; returns the items that must be written again.

        Raises:
            DiskError: the wait was ended; the items are let go.
        """
        broken, self.segment = self.segment, None
        items: deque[Item] = deque()
        if broken is not None:
            items.extend(broken.abandon())
            self._rewind(broken.mark)
        try:
            self.state.wait_for_disk(error)
            if broken is not None:
                # Before anything goes on: the next segment follows what recovery makes of this one.
                self._until_done(lambda: self.state.broken(broken))
                items.extendleft(self._lost(broken))
        except DiskError as ended:
            self._ended = ended
            for item in items:
                item.drop()
            raise
        except Exception:
            log.exception("%s could not be recovered now; the next start tries again", broken.name if broken is not None else "")
        return items

    def _lost(self, broken: SegmentWriter) -> list[Item]:
        """What to declare of a segment of which nothing could be made, although it held what had been told to be durable."""
        if self.state.previous.get(self.name, (b"", b""))[0] == broken.opening.segment_id:
            return []
        arrived = {key: n for key, n in broken.live.arrived.items() if n}
        detail = f"was durable in {broken.name}, which is damaged"
        streams = self._streams().items()
        return [GapItem(stream, Gap(Cause.DISK, count=arrived[key], detail=detail)) for key, stream in streams if key in arrived]

    def _until_done(self, job: Callable[[], None]) -> None:
        while True:
            try:
                job()
            except DiskError as error:
                self.state.wait_for_disk(error)
            else:
                return

    def _open(self) -> SegmentWriter:
        if self.segment is None:
            self.segment = self._new()
        return self.segment

    def _new(self) -> SegmentWriter:
        state, session = self.state, self.state.session()
        ordinal = state.ordinal + 1
        while state.storage.exists(state.folder / self._file_name(ordinal)):
            # Nobody here knows of it. A hole in the numbers shows it; its bytes are not written over.
            log.warning("%s is there already and is left alone", self._file_name(ordinal))
            ordinal += 1
        opening = leaf.Open(
            agent_id=session.agent_id,
            run_id=state.run.run_id,
            run_no=state.run.run_no,
            ordinal=ordinal,
            previous=state.previous.get(self.name),
            policy=state.policy,
            boot_id=session.boot_id,
            segment_id=os.urandom(16),
            series=self.name,
            last_seq=self._last_seq(),
        )
        objects = layout.entry_objects(state.run, state.site, ordinal, self.name, state.record()) if self.with_data else {}
        segment = SegmentWriter(
            state.folder, self._file_name(ordinal), opening, state.context(), session, state.storage,
            with_data=self.with_data, objects=objects, mark=self._mark(),
            clock=state.clock,
        )  # fmt: skip
        state.ordinal = ordinal
        return segment

    def _file_name(self, ordinal: int) -> str:
        return f"{self.state.run.name}_{self.name.replace('/', '_')}_{ordinal:06d}.h5"

    def _closing(self, outcome: str) -> layout.Objects:
        assert self.segment is not None  # noqa: S101 - by roll
        counted = {key: stream.counted for key, stream in self._streams().items()}
        complete = nexus.segment_completeness(self.segment.written, self.segment.gaps, counted)
        # Instruments may have said of themselves since it was opened; what stood then stays.
        late = nexus.instrument_objects(self.state.record(), self.name)
        return late | complete | layout.closing_objects(self.state.now_ns(), outcome)

    def _streams(self) -> Mapping[str, Stream]:
        """Streams that it holds, by key."""
        return {}

    def _last_seq(self) -> dict[str, int]:
        return {}

    def _mark(self) -> Any:
        """Where the series stands: what `_rewind` goes back to."""
        return None

    def _rewind(self, mark: Any) -> None:  # noqa: B027 - most series stand nowhere
        """Forget what came after ``mark``."""

    def _open_tables(self) -> Iterable[Table]:
        """The tables of the open segment."""
        return ()

    def _full(self) -> bool:
        return False

    def _prepare(self, item: Item) -> None:  # noqa: B027 - most items are ready
        """Everything about an item that can fail without touching the segment."""

    @abstractmethod
    def _write(self, item: Item) -> None:
        """Write one item and settle it."""


def _unexpected(error: Exception) -> DiskError:
    """A failure that is not the disk's, for a segment that is left half-written by it."""
    return DiskError(
        "A segment was given up", why=f"{type(error).__name__}: {error}", try_="report it with the log", code="SEGMENT_GIVEN_UP"
    )


def _missing(item: Item, error: Exception) -> GapItem | None:
    """What to declare for an item that could not be written; None where the caller is told instead."""
    detail = f"could not be recorded: {type(error).__name__}"
    if isinstance(item, FrameItem):
        number, t_ns = item.number, item.t_arrival
        return GapItem(item.stream, Gap(Cause.OVERLOAD, number, number, 1, t_ns, t_ns, detail), refused=True)
    if isinstance(item, RowsItem):
        return GapItem(item.stream, Gap(Cause.OVERLOAD, None, None, item.n, item.t_arrival, item.t_arrival, detail))
    return None
