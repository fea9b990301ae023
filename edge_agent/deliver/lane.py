"""One lane: everything that goes to one target.

A lane first probes its target, then keeps a few items in flight. A target that is unreachable or refuses the agent
makes the whole lane wait and probe again; an item that fails while others pass waits alone. The policy is asked
before each sending; the local file is compared with its row; then the target's proof is made durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from edge_agent.deliver.backoff import Backoff
from edge_agent.deliver.pace import Hours
from edge_agent.deliver.proofs import Proofs
from edge_agent.deliver.queue import Gate, Queue
from edge_agent.deliver.target import Capabilities, Target
from edge_agent.deliver.transfer import LaneStatus, Transfer, TransferStatus, check_local
from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, PolicyRefused
from edge_agent.model import OutboxItem, Receipt, utc_now_ns

log = logging.getLogger(__name__)
POLL = 10.0
"""Seconds after which a lane looks again even if nobody woke it."""
PATIENT = 3
"""Failures in a row before another item is tried."""
AFTER = 0.001
SMALL = 1 << 20
"""Bytes up to which an item is small."""

Proved = Callable[[OutboxItem, Receipt], None]
Refused = Callable[[OutboxItem, str, str], None]
"""Item, target, why."""


class Lane:
    """Runs until cancelled."""

    def __init__(
        self, target: Target, queue: Queue, gate: Gate, proved: Proved, refused: Refused, *, in_flight: int, backoff: Backoff,
        clock: Callable[[], float], hours: Hours | None = None,
    ) -> None:  # fmt: skip
        self.target = target
        self._queue = queue
        self._gate = gate
        self._proved = proved
        self._refused = refused
        self._limit = in_flight
        self._backoff = backoff
        self._clock = clock
        self._hours = hours
        self._wake = asyncio.Event()
        self._busy: dict[str, Transfer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._proofs = Proofs(queue.take_proofs)
        self._later: dict[str, float] = {}
        self._tries: dict[str, int] = {}
        self._failures = 0
        self._until = self._opens = 0.0
        self._capabilities: Capabilities | None = None
        self._alerts: set[str] = set()
        self._error = ""
        self._state = "stopped"
        self._items = self._bytes = 0

    def wake(self) -> None:
        """Something may have been added."""
        self._wake.set()

    def kick(self) -> None:
        """Try everything now."""
        self._later.clear()
        self._tries.clear()
        self._alerts.clear()
        self._failures, self._until = 0, 0.0
        self._wake.set()

    def status(self) -> LaneStatus:
        """What it does now."""
        now = self._clock()
        flights = tuple(
            TransferStatus(t.item.item_id, t.item.remote, t.item.size, t.sent, t.sent / max(now - t.started, 1e-3))
            for t in self._busy.values()
        )
        until = {"waiting": self._until, "refused": self._until, "scheduled": self._opens}.get(self._state)
        retry_in = None if until is None else max(0.0, until - now)
        detail = self._capabilities.detail if self._capabilities else ""
        return LaneStatus(self.target.name, self._state, flights, self._items, self._bytes, self._error, retry_in, detail)

    async def run(self) -> None:
        """Probe, send, wait, for ever."""
        self._state = "idle"
        try:
            while True:
                self._wake.clear()
                since = self._clock()
                try:
                    started = await self._step()
                except Exception as error:
                    # The lane must outlive a fault of the outbox (disk full, I/O error): nothing is lost, only late.
                    log.exception("lane %s: the outbox failed", self.target.name)
                    self._hold(error)
                    started = False
                if not started:
                    await self._rest(since)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._proofs.close()
            self._state = "stopped"

    async def _step(self) -> bool:
        """Start one item if that is possible now."""
        if self._clock() < self._until or self._is_full():
            return False
        if self._hours is not None and (wait := self._hours.wait(datetime.now(UTC))):
            # What is on its way goes on.
            self._opens = self._clock() + wait
            self._state = "sending" if self._busy else "scheduled"
            return False
        if self._capabilities is None and not await self._probe():
            return False
        now = self._clock()
        self._later = {item_id: at for item_id, at in self._later.items() if at > now}
        item = await asyncio.to_thread(self._queue.next_for, self.target.name, [*self._busy, *self._later])
        if item is None:
            self._state = "sending" if self._busy else "idle"
            return False
        self._state = "sending"
        transfer = Transfer(item, now)
        self._busy[item.item_id] = transfer
        task = asyncio.create_task(self._deliver(transfer), name=f"send {item.item_id} to {self.target.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _is_full(self) -> bool:
        """Small items wait for syncs more than for bytes, so more of them may be on their way where the target says so."""
        more = self._capabilities.small_at_once if self._capabilities else 0
        few = len(self._busy) < more and all(transfer.item.size <= SMALL for transfer in self._busy.values())
        return len(self._busy) >= self._limit and not few

    async def _rest(self, since: float) -> None:
        """Wait for what the last step, which began at ``since``, did not wait for: that may have become due while the outbox was asked."""
        now = self._clock()
        moments = [max(at, now) for at in (self._until, *self._later.values()) if at > since]
        # Not wait_for: until Python 3.12 it swallows a cancellation that meets the wake-up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min([POLL, *(at - now for at in moments)])):
                await self._wake.wait()

    async def _probe(self) -> bool:
        try:
            self._capabilities = await self.target.probe()
            if self._state == "refused":
                await asyncio.to_thread(self._queue.unpark, self.target.name)
        except PermissionRefused as error:
            self._hold(error, "refused")
            self._alert(error.code, error)
        except Exception as error:
            first = self._failures == 0
            self._hold(error)
            if first:
                log.warning("target %s is not there, trying on: %s", self.target.name, error)
        return self._capabilities is not None

    def _hold(self, error: Exception, state: str = "waiting") -> float:
        """The lane waits; what is in flight goes on."""
        self._failures += 1
        self._error = str(error)
        delay = self._backoff.delay(self._failures)
        self._until = self._clock() + delay
        self._state = state
        return delay

    async def _deliver(self, transfer: Transfer) -> None:
        item, name = transfer.item, self.target.name
        try:
            if not await asyncio.to_thread(self._queue.begin, item.item_id, name, item):
                return
            try:
                await self._send(transfer)
            except PermissionRefused as error:
                self._error = str(error)
                self._alert(error.code, error)
                await asyncio.to_thread(self._queue.park, item.item_id, name, str(error))
                if not isinstance(error, PolicyRefused):
                    self._capabilities = None  # perhaps it refuses us altogether: the probe tells, before more is parked
            except IntegrityError as error:
                # A newer revision that took the place of the file while it was read is no fault.
                if await asyncio.to_thread(self._queue.quarantine, item.item_id, name, str(error)):
                    self._error = str(error)
                    log.error("%s is quarantined at %s: %s", item.remote, name, error)
                    await asyncio.to_thread(self._refused, item, name, str(error))
            except Exception as error:
                await self._failed(item, error)
        except Exception as error:
            log.exception("lane %s: the outbox failed for %s", name, item.item_id)
            self._later[item.item_id] = self._clock() + self._hold(error)
        finally:
            del self._busy[item.item_id]
            self._wake.set()

    async def _failed(self, item: OutboxItem, error: Exception) -> None:
        if not isinstance(error, EdgeAgentError):
            log.error("target %s failed in an unforeseen way with %s", self.target.name, item.remote, exc_info=error)
        elif self._failures == 0:
            log.warning("target %s is not there, trying on: %s", self.target.name, error)
        # What fails while nothing passes fails for the target's sake: it keeps its place and waits as long as the lane. After a few
        # times the next one may try before it: perhaps it is the item after all.
        tries = self._tries[item.item_id] = self._tries.get(item.item_id, 0) + (self._failures == 0)
        self._hold(error)
        alone = self._clock() + self._backoff.delay(tries) if tries > 1 else 0.0
        at = max(self._until if self._failures <= PATIENT else self._until + AFTER, alone)
        self._later[item.item_id] = at
        delay = at - self._clock()
        self._capabilities = None
        await asyncio.to_thread(self._queue.failed, item.item_id, self.target.name, str(error), utc_now_ns() + int(delay * 1e9))

    async def _send(self, transfer: Transfer) -> None:
        item, name = transfer.item, self.target.name
        decision = self._gate(item.label, item.kind, name)
        if not decision.allowed:
            raise PolicyRefused(
                f"{item.remote} may not go to {name}.",
                why=decision.reason,
                try_="have the project's owner change the label, or remove the target from the route; then edge-agent kick",
            )
        await asyncio.to_thread(check_local, item.path, item.size)
        largest = self._capabilities.max_size if self._capabilities else None
        if largest is not None and item.size > largest:
            raise PermissionRefused(
                f"{item.remote} is too large for {name}.",
                why=f"it has {item.size} bytes, the target takes {largest}",
                try_="raise the limit at the target, or set a smaller segment size for the next runs; then edge-agent kick",
                code="TARGET_TOO_LARGE",
            )
        receipt = await self.target.send(item, transfer.progress)
        if receipt.target != name or receipt.item_id != item.item_id:
            raise IntegrityError(
                f"{name} gave a proof for something else.",
                why=f"asked for {item.item_id}, got one of {receipt.target} for {receipt.item_id}",
                try_="report this: the target's code is wrong; nothing was freed",
                code="PROOF_MISMATCH",
            )
        useful = await self._proofs.put(receipt)
        if self._failures:
            log.info("target %s is back", name)
        self._failures, self._until, self._error = 0, 0.0, ""
        self._alerts.clear()
        self._tries.pop(item.item_id, None)
        if useful:
            self._items += 1
            self._bytes += item.size
            self._proved(item, receipt)

    def _alert(self, key: str, error: EdgeAgentError) -> None:
        """Tell somebody once, until it works again or is kicked."""
        level = logging.INFO if key in self._alerts else logging.WARNING if isinstance(error, PolicyRefused) else logging.ERROR
        self._alerts.add(key)
        log.log(level, "target %s: %s", self.target.name, error)
