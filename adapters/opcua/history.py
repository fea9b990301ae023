"""Fills an outage from the server's history, where it keeps one.

Source: OPC 10000-11 (HistoryRead, raw). Invariants: a row of history is marked `Valid.HISTORY` and lies strictly between the last
value before the outage and the first one after it; the outage counts as filled only when the history also has that last
value, since only then it is known to begin where we left off.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from adapters.opcua.binary import Structures
from adapters.opcua.notifications import one_sample
from adapters.opcua.rows import Outlet, RowStream
from adapters.opcua.services import History, history
from adapters.opcua.values import Form, Samples
from edge_agent.model import NO_TIME, utc_now_ns

log = logging.getLogger(__name__)

MOST_VALUES = 5_000_000
"""More than that of one outage is not fetched: the variable's own stream would wait too long."""


async def fill(client: Any, node_id: Any, outlet: Outlet, t_first: int, structures: Structures | None) -> None:
    """Deliver what a variable did between its last value and ``t_first`` (UTC ns, that of the first new one)."""
    streams = [one for one in outlet.parts.values() if one.losses.since is not None]
    t_last = max((one.t_last for one in streams), default=NO_TIME)
    if t_last == NO_TIME or t_first <= t_last:
        return
    overlaps, n, more = False, 0, None
    while True:
        page: History = await history(client, node_id, t_last, t_first, structures, more)
        if page.status:
            log.info("%s: the server's history cannot be read: %s", outlet.stream.key, page.status)
            return
        overlaps = overlaps or any(value.t_source == t_last for value in page.values)
        parts: dict[str, list[Samples]] = {}
        for value in page.values:
            if t_last < value.t_source < t_first and not value.unusable:
                for path, sample in one_sample(value, utc_now_ns()):
                    parts.setdefault(path, []).append(sample)
        for path, samples in parts.items():
            for block in _blocks(samples):
                await outlet.part(path).filled(block)
        n += sum(len(samples) for samples in parts.values())
        more = page.more
        if more is None or n > MOST_VALUES:
            break
    if overlaps and more is None:
        for one in streams:
            _healed(one, n)
    elif n:
        for one in streams:
            one.losses.explain(f"{n} values of it came from the server's history, which does not show that they are all")


def _healed(stream: RowStream, n: int) -> None:
    stream.losses.explain(f"nothing is missing by the server's history, of which {n} values came")
    stream.losses.resumed(utc_now_ns(), count=0)


def _blocks(samples: list[Samples]) -> list[Samples]:
    """Successive samples of one form joined."""
    runs: list[list[Samples]] = []
    for one in samples:
        if runs and runs[-1][0].form == one.form:
            runs[-1].append(one)
        else:
            runs.append([one])
    return [_joined(run) for run in runs]


def _joined(run: list[Samples]) -> Samples:
    form: Form | None = run[0].form
    values = None if form is None else np.concatenate([one.values for one in run if one.values is not None])
    return Samples(
        form,
        values,
        np.concatenate([one.t_source for one in run]),
        np.concatenate([one.t_server for one in run]),
        np.concatenate([one.status for one in run]),
        run[-1].t_arrival,
        any(one.cut for one in run),
    )
