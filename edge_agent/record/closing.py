"""The end of a run: the segments of all its series close at the same time, because what each of them waits for is the disk.

Everything else is done in turn and in the order of the series, as if one closed after the other: what stands in a segment before its last
leaves, what follows from its being closed (`RunState.closed`), and what follows from a disk that refused it. So a segment that fails goes
the way of any other that fails, by itself, while the others close.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from edge_agent.record.frame_series import FrameSeries
from edge_agent.record.segment_writer import Closed
from edge_agent.record.series import Series

log = logging.getLogger(__name__)

Beside = Callable[[Callable[[], Closed]], Future[Closed]]
"""Does a job at the same time as others; see `Recorder.beside`."""


def close_all(everything: Sequence[Series], reason: str, outcome: str, beside: Beside) -> None:
    """Close the open segments (in turn, which is kept until all of them are closed).

    Raises:
        Exception: the last one that kept a segment from being closed; the others are.
    """
    failure: Exception | None = None
    begun: list[tuple[Series, Future[Closed] | None]] = []
    for series in everything:
        try:
            begun.append((series, _begin(series, reason, outcome, beside)))
        except Exception as error:
            failure = _left(series, error)
    for series, closing in begun:
        try:
            series.roll(reason, outcome, closing)
        except Exception as error:
            failure = _left(series, error)
    if failure is not None:
        raise failure


def _begin(series: Series, reason: str, outcome: str, beside: Beside) -> Future[Closed] | None:
    """Everything that needs the turn, then the rest beside it; None where no segment is open."""
    if isinstance(series, FrameSeries):
        series.declare_tail()
    try:
        close = series.ready_to_close(reason, outcome)
    except Exception as error:
        failed: Future[Closed] = Future()
        failed.set_exception(error)
        return failed
    return None if close is None else beside(close)


def _left(series: Series, error: Exception) -> Exception:
    log.error("%s of run %s could not be closed", series.name, series.state.run.name, exc_info=error)
    series.leave()
    return error
