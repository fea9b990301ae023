"""Has the agent log countersigned by every target that witnesses, and completes the runs that are covered.

The last receipt of each target is kept; a proof of consistency always begins there. An unreachable witness delays only the
receipts, never the data.
"""

from __future__ import annotations

import asyncio
import logging
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
from edge_agent.wire.refusal import LogSizeDiffers

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

    async def run(self) -> None:
        """For ever: on wake, and every minute while the log grows."""
        while True:
            self.wake.clear()
            complete = await self.round()
            try:
                await asyncio.wait_for(self.wake.wait(), EVERY if complete else RETRY)
            except TimeoutError:
                continue

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
        return parse_witness(cose.parse(receipt).payload), receipt

    async def _witness(self, name: str, target: Witnesses) -> bool:
        before = self.witnessed(name)
        first = before[0].size if before is not None else 0
        return first == self.keeper.agent_log.size or await self._ask(name, target, first)

    async def _ask(self, name: str, target: Witnesses, first: int, *, again: bool = True) -> bool:
        try:
            head = await asyncio.to_thread(self.keeper.agent_log.head)
            proof = self.keeper.agent_log.consistency(first, head.head.size)
            receipt = await target.witness(head.cose, self.keeper.session.chain.encode(), proof, first)
            witness = parse_witness(cose.parse(receipt).payload)
            if (witness.size, witness.root) != (head.head.size, head.head.root):
                raise TargetUnreachable(f"{name} witnessed another log", why=f"{witness.size} leaves instead of {head.head.size}")
            await asyncio.to_thread(self.keeper.spool.state.put, f"witness/{name}", dumps(receipt))
        except LogSizeDiffers as error:
            if again and 0 <= error.size <= self.keeper.agent_log.size:
                return await self._ask(name, target, error.size, again=False)
            return self._refused(name, error)
        except EdgeAgentError as error:
            return self._refused(name, error)
        self.errors.pop(name, None)
        return True

    def _refused(self, name: str, error: EdgeAgentError) -> bool:
        if self.errors.get(name) != error.what:
            log.warning("%s does not witness: %s", name, error, extra={"code": error.code})
        self.errors[name] = error.what
        return False

    def _complete(self) -> None:
        """Runs at stage closed whose segments are all in a witnessed log; without witnesses, all of them."""
        receipts = [found for name in self.targets if (found := self.witnessed(name)) is not None]
        for entry in self.keeper.book.entries():
            if entry.stage is not Stage.CLOSED:
                continue
            if not self.targets:
                self.papers.complete(entry, (), (), ())
                continue
            covered = [(w, r, proofs) for w, r in receipts if (proofs := self._proofs(entry, w)) is not None]
            if covered:
                inclusions = dict.fromkeys(proof for _, _, proofs in covered for proof in proofs)
                self.papers.complete(entry, self.certificates(), [receipt for _, receipt, _ in covered], list(inclusions))

    def _proofs(self, entry: RunEntry, witness: Witness) -> list[Inclusion] | None:
        proofs = []
        for closed in self.keeper.book.segments(entry.run, self.keeper.folder(entry.run)):
            index = self.keeper.agent_log.segment_close(closed.segment_id, closed.head)
            if index is None or index >= witness.size:
                return None
            proofs.append(self.keeper.agent_log.inclusion(index, witness.size))
        return proofs
