"""Plays back a serial line from the bytes that were kept: what the instrument sent, when it sent it.

Where the run also holds what the agent sent, what came after a question is the answer to it: it is sent when the same bytes are asked
again, and not before its time. A client asks what it likes: the n-th answer to a question goes to whoever asks it for the n-th time, and a
question that another one followed before anything was answered is void, as after a time-out. If nobody asks for `PATIENCE` seconds, the
answer is sent all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from firmware_sim.links import Link, TcpLink
from firmware_sim.replay.landed import Landed, RunError
from firmware_sim.truth import TruthWriter

BYTES: Final = "serial bytes"
SENT: Final = 0x100
COUNT: Final = 0xFF
PATIENCE: Final = 5.0


def raw_of(streams: Sequence[Landed], instrument: str) -> Landed:
    """The stream that holds an instrument's bytes.

    Raises:
        RunError: they were not kept.
    """
    for stream in streams:
        if stream.source_type == BYTES:
            return stream
    raise RunError(
        f"{instrument} cannot be played back: only its values were kept, not the bytes of its line; "
        f"record it with raw = true in [instrument.{instrument}], or leave it out with --instrument"
    )


@dataclass(slots=True, eq=False)
class _Answer:
    """What came after one question. ``due``: of that, what should have been sent already, had it been asked."""

    question: bytes
    begun: bool = False
    due: list[bytes] = field(default_factory=list)


class LinePart:
    """One instrument on a TCP port, as a serial device server gives it."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        (self._stream,) = streams
        self._truth = truth
        self._link: Link = TcpLink(whole=True)
        self._answers: dict[int, _Answer] = {}
        """The answer that each row is part of."""
        self._to_come: dict[bytes, deque[_Answer]] = {}
        """By question, the answers of which nothing was sent."""
        self._lay_out()
        self._longest = max(map(len, self._to_come), default=0)
        self._heard = b""
        self._open: _Answer | None = None
        """The answer to what was asked last."""
        self._asked = asyncio.Event()

    async def open(self) -> Mapping[str, Any]:
        """See `Part`."""
        return {**await self._link.open(self._hear, lambda: None)}

    async def show(self, stream: Landed, row: int) -> None:
        """See `Part`. What the agent sent is not shown: the client of the playback sends its own."""
        data, sent = _bytes_of(stream, row)
        if sent:
            return
        answer = self._answers.get(row)
        if answer is not None and not answer.begun and not await self._is_asked(answer):
            answer.due.append(data)
            return
        self._send(data)

    async def settle(self) -> None:
        """What was sent is on its way."""

    async def close(self) -> None:
        """See `Part`."""
        await self._link.close()

    def _lay_out(self) -> None:
        """Rows hold 32 bytes at most: those of one time are one question."""
        last: tuple[int, _Answer] | None = None
        times = self._stream.columns["time_arrival"]
        was_sent = False
        for row in range(len(times)):
            data, sent = _bytes_of(self._stream, row)
            if sent and was_sent and last is not None and last[0] == times[row]:
                last[1].question += data
            elif sent:
                last = (int(times[row]), _Answer(data))
            elif last is not None:
                self._answers[row] = last[1]
            was_sent = sent
        for answer in dict.fromkeys(self._answers.values()):
            self._to_come.setdefault(answer.question, deque()).append(answer)

    def _hear(self, text: str) -> None:
        self._heard = (self._heard + text.encode("latin-1"))[-self._longest :] if self._longest else b""
        known = max((question for question in self._to_come if self._heard.endswith(question)), key=len, default=None)
        if known is None:
            return
        self._heard = b""
        self._open = next(iter(self._to_come[known]), None)
        if self._open is not None and self._open.due:
            self._begin(self._open)
        self._asked.set()

    async def _is_asked(self, answer: _Answer) -> bool:
        """Wait until somebody asks for it, or for another one; begins it, or tells that the client waits for something else."""
        try:
            async with asyncio.timeout(PATIENCE):
                while self._open is None or self._open.begun:
                    self._asked.clear()
                    await self._asked.wait()
        except TimeoutError:
            self._open = answer
        if self._open is answer:
            self._begin(answer)
        return answer.begun

    def _begin(self, answer: _Answer) -> None:
        answer.begun = True
        self._to_come[answer.question].remove(answer)
        for data in answer.due:
            self._send(data)
        answer.due.clear()

    def _send(self, data: bytes) -> None:
        self._truth.item(self._stream.key, self._truth.now(), v=data.hex())
        self._link.send(data)


def _bytes_of(stream: Landed, row: int) -> tuple[bytes, bool]:
    """The bytes of a row, and whether the agent sent them."""
    status = int(stream.columns["status"][row])
    return stream.columns["value"][row][: status & COUNT].tobytes(), bool(status & SENT)
