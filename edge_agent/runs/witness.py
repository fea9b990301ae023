"""Has the agent log countersigned by every target that witnesses, and completes the runs that are covered.

The last receipt of each target is kept; a proof of consistency always begins there. An unreachable witness delays only its own
receipts, never the data and never another target's: a run that one target covers is completed, and its receipts are written again
when the others follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge_agent.deliver.target import Witnesses
from edge_agent.errors import EdgeAgentError, TargetUnreachable
from edge_agent.runs.book import RunEntry, Stage
from edge_agent.runs.keeper import Keeper
from edge_agent.runs.papers import Papers
from edge_agent.seal import cose
from edge_agent.seal.cbor import dumps, loads
from edge_agent.seal.receipt import Inclusion, Witness, parse_witness
from edge_agent.wire.refusal import LogRestartApproved, LogSizeDiffers

log = logging.getLogger(__name__)

EVERY = 60.0
RETRY = 5.0


@dataclass(slots=True)
class Witnessing:
    """``certificates`` gives the receipt certificates (DER) to put beside the receipts."""

    keeper: Keeper
    papers: Papers
    targets: Mapping[str, Witnesses]
    certificates: Callable[[], Sequence[bytes]]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    errors: dict[str, str] = field(default_factory=dict)
    _completing: threading.Lock = field(default_factory=threading.Lock)
    _covered: dict[bytes, frozenset[str]] = field(default_factory=dict)

    async def run(self) -> None:
        """For ever: on wake, and every minute while the log grows."""
        while True:
            self.wake.clear()
            complete = await self.round()
            # Not wait_for: until Python 3.12 it swallows a cancellation that meets the wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY if complete else RETRY):
                    await self.wake.wait()

    async def round(self) -> bool:
        """Witness what is new, complete what is covered; whether every target agreed."""
        agreed = True
        for name, target in self.targets.items():
            agreed &= await self._witness(name, target)
        await asyncio.to_thread(self._complete)
        return agreed

    def witnessed(self, name: str) -> tuple[Witness, bytes] | None:
        """The last receipt of a target."""
        data = self.keeper.spool.state.get(f"witness/{name}")
        if data is None:
            return None
        receipt = bytes(loads(data, "witness state"))
        witness = parse_witness(cose.parse(receipt).payload)
        # One of a log that was restarted since proves nothing of this one.
        return (witness, receipt) if witness.log_id == self.keeper.agent_log.log_id else None

    async def _witness(self, name: str, target: Witnesses) -> bool:
        before = self.witnessed(name)
        first = before[0].size if before is not None else 0
        return first == self.keeper.agent_log.size or await self._ask(name, target, first)

    async def _ask(self, name: str, target: Witnesses, first: int, *, again: bool = True) -> bool:
        try:
            head = await asyncio.to_thread(self.keeper.agent_log.head)
            proof = self.keeper.agent_log.consistency(first, head.head.size)
            chain = self.keeper.session.chain if head.chain is None else head.chain
            receipt = await target.witness(head.cose, chain.encode(), proof, first)
            witness = parse_witness(cose.parse(receipt).payload)
            if (witness.size, witness.root) != (head.head.size, head.head.root):
                raise TargetUnreachable(f"{name} witnessed another log", why=f"{witness.size} leaves instead of {head.head.size}")
            await asyncio.to_thread(self._keep, name, receipt)
        except LogSizeDiffers as error:
            if again and 0 <= error.size <= self.keeper.agent_log.size:
                return await self._ask(name, target, error.size, again=False)
            return self._refused(name, error)
        except LogRestartApproved as error:
            if not again:
                return self._refused(name, error)
            log.warning("%s: the agent log is begun anew, as its owner approved: %s", name, error, extra={"code": error.code})
            await asyncio.to_thread(self.keeper.logbook.restart_log)
            return await self._ask(name, target, 0, again=False)
        except EdgeAgentError as error:
            return self._refused(name, error)
        self.errors.pop(name, None)
        return True

    def _keep(self, name: str, receipt: bytes) -> None:
        self.keeper.spool.state.put(f"witness/{name}", dumps(receipt))
        self.keeper.held.take(receipt)

    def _refused(self, name: str, error: EdgeAgentError) -> bool:
        if self.errors.get(name) != error.what:
            log.warning("%s does not witness: %s", name, error, extra={"code": error.code})
        self.errors[name] = error.what
        return False

    def _complete(self) -> None:
        """Runs at stage closed whose segments are all in a witnessed log; without witnesses, all of them."""
        with self._completing:
            receipts = {name: found for name in self.targets if (found := self.witnessed(name)) is not None}
            for entry in self.keeper.book.entries():
                if entry.stage is Stage.CLOSED:
                    self._complete_one(entry, receipts)

    def _complete_one(self, entry: RunEntry, receipts: Mapping[str, tuple[Witness, bytes]]) -> None:
        wanted = [name for name in self.keeper.routes(entry.run.group).targets if name in self.targets] or list(self.targets)
        if not wanted:
            self.papers.complete(entry, (), (), ())
            return
        proofs = {name: found for name in wanted if name in receipts and (found := self._proofs(entry, receipts[name][0])) is not None}
        if not proofs or self._covered.get(entry.run.run_id) == frozenset(proofs):
            return
        inclusions = dict.fromkeys(proof for found in proofs.values() for proof in found)
        final = len(proofs) == len(wanted)
        self.papers.complete(entry, self.certificates(), [receipts[name][1] for name in proofs], list(inclusions), final=final)
        if final:
            self._covered.pop(entry.run.run_id, None)
        else:
            self._covered[entry.run.run_id] = frozenset(proofs)

    def _proofs(self, entry: RunEntry, witness: Witness) -> list[Inclusion] | None:
        proofs = []
        for closed in self.keeper.book.segments(entry.run, self.keeper.folder(entry.run)):
            index = self.keeper.agent_log.segment_close(closed.segment_id, closed.head)
            if index is None or index >= witness.size:
                return None
            kid = cose.parse_all(closed.head_cose).signatures[0].kid
            places = [*self.keeper.agent_log.key_leaves(kid), index]
            proofs += [self.keeper.agent_log.inclusion(place, witness.size) for place in places if place < witness.size]
        return list(dict.fromkeys(proofs))
