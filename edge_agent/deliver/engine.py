"""The engine: one lane a target, each emptying the outbox in order at its own pace.

Invariants: nothing is sent before the policy allowed it; a receipt is durable before an item counts as proved; what
is not proved stays in the outbox. A target that is down, slow or refusing stops only its own lane, and never the
capture. `Engine.stop` takes at most a second and leaves unfinished items where they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.lane import Lane, Proved, Refused
from edge_agent.deliver.pace import Hours
from edge_agent.deliver.queue import Gate, Queue
from edge_agent.deliver.target import Target
from edge_agent.deliver.transfer import LaneStatus

log = logging.getLogger(__name__)
STOP_SECONDS = 1.0


class Engine:
    """Owns the targets from `start` to `stop`. All methods but `wake` belong to the event loop."""

    def __init__(
        self,
        queue: Queue,
        targets: Sequence[Target],
        gate: Gate,
        clock: Callable[[], float] = time.monotonic,
        *,
        in_flight: int = 2,
        backoff: Backoff | None = None,
        proved: Proved | None = None,
        refused: Refused | None = None,
        hours: Mapping[str, Hours] | None = None,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            queue: ``spool.outbox``.
            targets: one a name.
            gate: the policy, see `PolicyGate`.
            clock: seconds, monotonic.
            in_flight: items at once, for each target.
            backoff: delays after failures.
            refused: told of each item that a target has put into quarantine, in a worker thread; its failure is logged.
            hours: when items are sent to a target, by its name; always to the others.
            proved: told of each proof after it is durable, on the loop; must not block or raise.
        """
        names = [target.name for target in targets]
        if len(set(names)) != len(names):
            raise ValueError(f"two targets have the same name: {sorted(names)}")
        self._queue = queue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lanes = {
            target.name: Lane(
                target, queue, gate, proved or _nobody, refused or _nobody, in_flight=in_flight, backoff=backoff or Backoff(), clock=clock,
                hours=(hours or {}).get(target.name),
            )
            for target in targets
        }  # fmt: skip

    async def start(self) -> None:
        """Start all lanes. What was parked is tried again: a restart may have changed the configuration."""
        self._loop = asyncio.get_running_loop()
        for name in self._lanes:
            await asyncio.to_thread(self._queue.unpark, name)
        self._tasks = [asyncio.create_task(lane.run(), name=f"lane {name}") for name, lane in self._lanes.items()]

    def wake(self) -> None:
        """Something was added to the outbox. May be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_all)

    async def kick(self, target: str | None = None) -> int:
        """Something changed (token, certificate, label, network): try everything now. Returns how many items were parked."""
        count = await asyncio.to_thread(self._queue.unpark, target)
        for name, lane in self._lanes.items():
            if target in (None, name):
                lane.kick()
        return count

    def status(self) -> tuple[LaneStatus, ...]:
        """What each lane does now."""
        return tuple(lane.status() for lane in self._lanes.values())

    async def stop(self) -> None:
        """Stop all lanes and close the targets; callable twice."""
        for task in self._tasks:
            task.cancel()
        await self._within(self._tasks, "a lane")
        closing = [asyncio.create_task(lane.target.close(), name=f"close {name}") for name, lane in self._lanes.items()]
        await self._within(closing, "a target")
        self._tasks, self._loop = [], None

    def _wake_all(self) -> None:
        for lane in self._lanes.values():
            lane.wake()

    async def _within(self, tasks: Sequence[asyncio.Task[None]], what: str) -> None:
        if not tasks:
            return
        done, pending = await asyncio.wait(tasks, timeout=STOP_SECONDS / 2)
        for task in pending:
            log.warning("%s did not stop in time and is left behind: %s", what, task.get_name())
            task.cancel()
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                log.error("%s failed while stopping: %s", what, task.get_name(), exc_info=task.exception())


def _nobody(*_: object) -> None:
    """Nobody wants to be told."""
