"""Cuts bytes into frames and finds the next good one after noise. Pure, no clock.

Invariants: the bytes of all lines (`Line.whole`) and all junk, one after the other, are the bytes that came, but for flags between
which nothing stands; a frame that its check or its end disproves is junk up to the next start, so that a bad byte costs the frame
it is in; a length that is nonsense holds back no later frame for longer than a silence.
"""

from __future__ import annotations

import re
from collections import deque

from adapters.serial.frame import BadFrame, Frame
from adapters.serial.splitter import CUT_OFF, SILENCE_SECONDS, Junk, Line, Piece
from adapters.serial.why import Why


class FrameSplitter:
    """Frames of one connection; at most ``max_length`` bytes each."""

    patience = SILENCE_SECONDS

    def __init__(self, frame: Frame, max_length: int) -> None:
        self._frame = frame
        self._max_length = max(max_length, frame.size or 0)
        # Where one flag both ends and begins (HDLC, SLIP), a frame is what stands between two of them.
        self._flag = bool(frame.start) and frame.start == frame.stop
        self._start = b"" if self._flag else frame.start
        self._stop = _stop_pattern(frame)
        self._waiting = b""
        self._at = 0
        """Where in what waits the next frame is looked for."""
        self._arrivals = _Arrivals()
        self._found: list[Piece] = []
        self._junk: Junk | None = None
        """Junk that begins at `_junk_at`; its bytes are taken when it has ended."""
        self._junk_at = 0
        self._noise = False
        """The last thing was junk."""
        self._lost = False
        """Until the next silence nothing can be told from noise."""
        self._tail = False
        """What comes before the next stop is the rest of junk."""

    def feed(self, data: bytes, t: int) -> list[Piece]:
        """See `Splitter`."""
        self._waiting += data
        self._arrivals.add(len(data), t)
        self._scan()
        return self._take()

    def silence(self) -> list[Piece]:
        """Frames whose end is known from their beginning do not become whole after a silence."""
        if self._frame.counted:
            self._give_up(None)
        return self._take()

    def end(self) -> list[Piece]:
        """What was cut off, if anything."""
        self._give_up(CUT_OFF)
        return self._take()

    @property
    def _left(self) -> int:
        return len(self._waiting) - self._at

    def _give_up(self, cut_off: str | None) -> None:
        """Nothing more comes for the frame that waits; what stands behind its beginning may be whole frames."""
        while self._left:
            before = self._left
            why = cut_off or Why("{got} bytes of a frame and then silence", got=before)
            self._bad(why, 0)
            if self._left == before:  # what waits looks like a beginning, and will not go on
                self._drop(before, why, more=self._noise)
            self._scan()
        self._lost = self._tail = False

    def _take(self) -> list[Piece]:
        self._end_junk()
        self._waiting, self._at = self._waiting[self._at :], 0
        found, self._found = self._found, []
        return found

    def _scan(self) -> None:
        while self._left and not self._lost and self._at_start():
            end = 0
            try:
                found = self._end()
                if found is None:
                    if self._left <= self._max_length:
                        return
                    raise BadFrame(Why("does not end within {most} bytes", most=self._max_length))
                end = found
                if self._tail:
                    self._tail = False
                    self._drop(end, "", more=True)
                    continue
                self._good(end, self._decode(self._waiting[self._at : self._at + end]))
            except BadFrame as e:
                self._bad(e.why, end)
        if self._lost and self._left:
            self._drop(self._left, "", more=True)

    def _at_start(self) -> bool:
        """Whether what waits begins with a start; what stands before it is noise."""
        at = self._waiting.find(self._start, self._at)
        if at < 0:
            at = len(self._waiting) - _overlap(self._waiting[self._at :], self._start)
        if at > self._at:
            self._drop(at - self._at, Why("no frame begins here"), more=self._noise)
        return self._left > 0 and self._waiting.startswith(self._start, self._at)

    def _end(self) -> int | None:
        """Bytes of the frame that what waits begins with; None while that is not known. Raises BadFrame."""
        frame = self._frame
        if frame.counted:
            head = self._waiting[self._at : self._at + 80]
            total = frame.size if frame.length is None else frame.length.total(frame, head)
            if total is not None and total > self._max_length:
                raise BadFrame(Why("says that it is {total} bytes long, which is more than {most}", total=total, most=self._max_length))
            return total if total is not None and self._left >= total else None
        begin = self._at + len(self._start)
        if self._stop is not None:
            found = self._stop.match(self._waiting, begin)
            end = found.end() if found else -1
        else:
            at = self._waiting.find(frame.stop, begin)
            end = at + len(frame.stop) if at >= 0 else -1
            last = self._waiting.rfind(self._start, begin, at) if self._start and at >= 0 and frame.check is None else -1
            if last > 0:
                # Nothing proves the frame, so a start inside it means that a stop was lost.
                self._drop(last - self._at, Why("does not end before the next one begins"), more=False)
        end += frame.after_stop
        return None if end < begin or end > len(self._waiting) else end - self._at

    def _decode(self, whole: bytes) -> bytes | None:
        if not self._flag:
            return self._frame.decode(whole)
        return None if whole == self._frame.stop else self._frame.decode(self._frame.start + whole)

    def _good(self, end: int, payload: bytes | None) -> None:
        whole, t = self._waiting[self._at : self._at + end], self._arrivals.first
        self._end_junk()
        self._shift(end)
        self._noise = False
        if payload is not None:
            self._found.append(Line(payload, t, whole=whole))

    def _bad(self, why: str, end: int) -> None:
        """What waits begins no frame: go on at the next place where one may begin. ``end`` 0: its end is not known."""
        frame, at = self._frame, -1
        limit = self._at + end if end and not frame.counted else len(self._waiting)
        if self._start:
            at = self._waiting.find(self._start, self._at + 1, limit)
            if at < 0 and limit == len(self._waiting):
                at = limit - _overlap(self._waiting[self._at + 1 :], self._start)
        elif frame.check is not None and frame.counted:
            at = self._at + 1
        elif frame.counted:
            self._lost = True
        elif not end:
            self._tail = True
        self._drop((at if at >= 0 else limit) - self._at, why, more=not end and self._noise)

    def _drop(self, count: int, why: str, *, more: bool) -> None:
        if not count:
            return
        if self._junk is None or not more:
            self._end_junk()
            self._junk, self._junk_at = Junk(b"", why, self._arrivals.first, more), self._at
        self._shift(count)
        self._noise = True

    def _end_junk(self) -> None:
        if self._junk is not None:
            self._found.append(self._junk._replace(raw=self._waiting[self._junk_at : self._at]))
            self._junk = None

    def _shift(self, count: int) -> None:
        self._at += count
        self._arrivals.drop(count)


class _Arrivals:
    """When the bytes came that wait."""

    def __init__(self) -> None:
        self._parts: deque[list[int]] = deque()

    @property
    def first(self) -> int:
        return self._parts[0][1]

    def add(self, count: int, t: int) -> None:
        if count:
            self._parts.append([count, t])

    def drop(self, count: int) -> None:
        while count:
            part = self._parts[0]
            if part[0] > count:
                part[0] -= count
                return
            count -= part[0]
            self._parts.popleft()


def _overlap(data: bytes, start: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of ``start``."""
    return next((n for n in range(min(len(start) - 1, len(data)), 0, -1) if data.endswith(start[:n])), 0)


def _stop_pattern(frame: Frame) -> re.Pattern[bytes] | None:
    """Finds the stop where an escaped byte can look like it; None where looking for the stop alone is right."""
    if frame.escape is None or not frame.escape.literal:
        return None
    mark, stop = re.escape(bytes((frame.escape.byte,))), re.escape(frame.stop)
    return re.compile(b"(?:(?!%b)(?:%b.|[^%b]))*+%b" % (stop, mark, mark, stop), re.DOTALL)
