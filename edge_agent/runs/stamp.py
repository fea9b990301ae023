"""Has closed runs time-stamped (RFC 3161), when a service is configured and the run's label lets a digest go there.

Two digests a run: that of its sidecar, and, once it is witnessed, the hash of the head of the agent log that the witness saw. What is
wanted is kept in the spool's state until both are there, so a service that is away, refuses or answers nonsense costs nothing but time:
landing never waits for it, and it is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from edge_agent.errors import EdgeAgentError
from edge_agent.model import Label
from edge_agent.provenance.policy import Decision
from edge_agent.runs.book import RunEntry, Stage
from edge_agent.runs.papers import SIDECAR, TOKEN, WITNESSED, Papers
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.receipt import parse_receipts, parse_witness
from edge_agent.seal.timestamp import request, token_of

log = logging.getLogger(__name__)

EVERY = 30.0
RETRY_FIRST, RETRY_MOST = 30.0, 3600.0
WANTED = "stamp/"


@dataclass(slots=True)
class Stamping:
    """``ask`` sends a request to the service; ``allowed`` is the policy; ``roots`` are the service's, when they are configured."""

    papers: Papers
    ask: Callable[[bytes], Awaitable[bytes]]
    allowed: Callable[[Label], Decision]
    roots: Sequence[x509.Certificate] = ()
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    error: str = ""
    _refused: set[str] = field(default_factory=set)

    def signed(self, entry: RunEntry, sidecar: bytes) -> None:
        """A run was closed; from any thread."""
        self.papers.keeper.spool.state.put(f"{WANTED}{entry.run.name}", sidecar)
        self.loop.call_soon_threadsafe(self.wake.set)

    def waiting(self) -> int:
        """Closed runs that want a time-stamp and may have one; worker thread."""
        keeper = self.papers.keeper
        entries = [keeper.book.find(key.removeprefix(WANTED)) for key in keeper.spool.state.under(WANTED)]
        return sum(entry is not None and self.allowed(entry.run.label).allowed for entry in entries)

    async def run(self) -> None:
        """For ever: when a run is closed, and twice a minute while a token is missing; less often while the service fails."""
        pause = RETRY_FIRST
        if self.papers.keeper.spool.fresh:
            await asyncio.to_thread(self._remember)
        while True:
            self.wake.clear()
            good = await self.round()
            pause = RETRY_FIRST if good else min(2 * pause, RETRY_MOST)
            # Not wait_for: until Python 3.12 it swallows a cancellation that meets the wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY if good else pause):
                    await self.wake.wait()

    async def round(self) -> bool:
        """Ask for every token that is wanted; whether the service gave all of them. Ends with its first failure."""
        wanted = await asyncio.to_thread(self.papers.keeper.spool.state.under, WANTED)
        for key, sidecar in wanted.items():
            entry = await asyncio.to_thread(self.papers.keeper.book.find, key.removeprefix(WANTED))
            if entry is None or not self._may(entry):
                continue
            try:
                await self._stamp(entry, key, sidecar)
            except (EdgeAgentError, SealError) as error:
                self._failed(entry, error)
                return False
        self.error = ""
        return True

    async def _stamp(self, entry: RunEntry, key: str, sidecar: bytes) -> None:
        late = await asyncio.to_thread(self.papers.keeper.book.late, entry.run)
        head = _witnessed_head(late.get(WITNESSED))
        for digest in (sidecar, *(() if head is None else (head,))):
            name = f"{TOKEN}{digest.hex()}"
            if name not in late:
                nonce = int.from_bytes(os.urandom(8), "big")
                token = token_of(await self.ask(request(digest, nonce)), digest, nonce, self.roots)
                await asyncio.to_thread(self.papers.keep_late, entry, name, token)
        if head is not None or entry.stage is Stage.DONE:
            await asyncio.to_thread(self.papers.keeper.spool.state.delete, key)

    def _remember(self) -> None:
        """The database is new, made from copies that do not say what was wanted: all that has no token."""
        keeper = self.papers.keeper
        for entry in (*keeper.book.entries(), *keeper.book.past()):
            sidecar = keeper.book.late(entry.run).get(SIDECAR)
            if sidecar is not None and f"{TOKEN}{sidecar.hex()}" not in keeper.book.late(entry.run):
                keeper.spool.state.put(f"{WANTED}{entry.run.name}", sidecar)

    def _may(self, entry: RunEntry) -> bool:
        decision = self.allowed(entry.run.label)
        if not decision.allowed and entry.run.name not in self._refused:
            self._refused.add(entry.run.name)
            log.info("run %s is not time-stamped: %s", entry.run.name, decision.reason)
        return decision.allowed

    def _failed(self, entry: RunEntry, error: Exception) -> None:
        text = str(error)
        if text != self.error:
            code = error.code if isinstance(error, EdgeAgentError) else "TSA_ANSWER"
            log.warning("run %s has no time-stamp yet, it is tried again: %s", entry.run.name, text, extra={"code": code})
        self.error = text


def _witnessed_head(receipts: bytes | None) -> bytes | None:
    """The head of the agent log that the first witness of a run saw."""
    if receipts is None:
        return None
    for data in parse_receipts(receipts).receipts:
        signed = cose.parse(data)
        if signed.content_type == cose.WITNESS:
            return parse_witness(signed.payload).head
    return None
