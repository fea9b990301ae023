"""From complete bytes to a signed CUSTODY: hash again, judge, place, catalogue, sign.

Invariants: the receipt is signed only when the bytes are under their final name and known to be held; repeated after a crash at
any step it comes to the same end; what is refused for good is moved to ``refused/`` with the reason, and nothing is
deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edge_agent.model import ItemKind, Proof, utc_now_ns
from edge_agent.seal import cose
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.receipt import Custody
from edge_agent.wire.item import ItemHeader
from edge_agent.wire.refusal import Code, Refused
from landing.catalogue import Catalogue, StoredItem
from landing.judge import Judge, Verdict
from landing.room import Room
from landing.store import Store, Whole

SIGNED_LEVEL = 2
RECEIPTS_SUFFIX = ".receipts"
WORKERS = 2
_FINAL = frozenset({Code.DIGEST, Code.SEGMENT, Code.FACTS, Code.CLASH})
_LOG = logging.getLogger(__name__)


class CheckIn:
    """Checks at most `WORKERS` items at a time. ``name`` is that of the service, as it stands in receipts."""

    def __init__(
        self,
        name: str,
        catalogue: Catalogue,
        store: Store,
        room: Room,
        judge: Judge,
        signer: cose.Signer,
        clock: Callable[[], int] = utc_now_ns,
    ) -> None:
        self._name = name
        self._catalogue = catalogue
        self._store = store
        self._room = room
        self._judge = judge
        self._signer = signer
        self._clock = clock
        self._slots = asyncio.Semaphore(WORKERS)

    async def run(self, header: ItemHeader) -> bytes:
        """The CUSTODY (COSE) of an upload whose bytes are all here and whose digest was said.

        Raises:
            Refused: DIGEST, SEGMENT, FACTS, CLASH for good; NOT_FOUND, FULL, QUOTA, TROUBLE for now.
        """
        async with self._slots:
            try:
                whole = await asyncio.to_thread(self._store.whole, header)
            except FileNotFoundError as error:
                await asyncio.to_thread(self._store.forget, header)
                raise Refused(Code.NOT_FOUND, f"The bytes of upload {header.item_id} are gone", try_="send them again") from error
            try:
                return await self._check(header, whole)
            finally:
                await asyncio.to_thread(self._store.let_go, whole)

    async def _check(self, header: ItemHeader, whole: Whole) -> bytes:
        try:
            _check_digest(header, whole.sha256, whole.size)
            level = _check_facts(header, await self._judge.judge(whole.path)) if header.kind is ItemKind.SEGMENT else None
            await asyncio.to_thread(self._room.check_quota, header)
            replace = await asyncio.to_thread(self._may_replace, header)
            proof = await asyncio.to_thread(self._store.place, header, whole, replace=replace)
        except Refused as refused:
            if refused.refusal.code in _FINAL and not whole.placed:
                await self._keep(header, refused, whole)
            raise
        return await self._sign(header, whole.sha256, level, proof)

    def _may_replace(self, header: ItemHeader) -> bool:
        """Receipts take the place of what the same agent put there as receipts of the same run, and of nothing else."""
        if header.kind is not ItemKind.RECEIPTS or not header.path.endswith(RECEIPTS_SUFFIX):
            return False
        found = self._catalogue.at(header.path)
        there = None if found is None else found[0]
        return there is None or (there.agent_id, there.run_id, there.kind) == (header.agent_id, header.run_id, header.kind)

    async def _sign(self, header: ItemHeader, sha256: bytes, level: int | None, proof: Proof) -> bytes:
        now = self._clock()
        custody = Custody(
            header.agent_id, header.segment_id, header.head_hash, sha256, header.size, self._name, str(proof), now, header.path
        )
        signed = cose.sign(self._signer, cose.CUSTODY, custody.payload())
        stored = StoredItem(
            header.agent_id, header.item_id, header.kind, header.project, header.path, header.size, sha256, header.run_id, header.run_no,
            level, signed, now,
        )  # fmt: skip
        await asyncio.to_thread(self._catalogue.store, stored, header.label)
        await asyncio.to_thread(self._store.forget, header)
        return signed

    async def _keep(self, header: ItemHeader, refused: Refused, whole: Whole) -> None:
        kept = await asyncio.to_thread(self._store.refuse, header, refused.refusal, whole)
        said = refused.refusal.to_json()
        await asyncio.to_thread(self._catalogue.refuse, header.agent_id, header.item_id, said, self._clock())
        _LOG.warning("refused %s of agent %s, kept as %s: %s", header.path, header.agent_id.hex(), kept, refused.refusal)


def _check_digest(header: ItemHeader, sha256: bytes, size: int) -> None:
    if (sha256, size) != (header.sha256, header.size):
        said = "" if header.sha256 is None else header.sha256.hex()
        why = f"stored: {size} bytes, SHA-256 {sha256.hex()}; announced: {header.size} bytes, {said}"
        raise Refused(Code.DIGEST, "The stored bytes are not the announced ones", why=why, try_="send the item again")


def _check_facts(header: ItemHeader, verdict: Verdict) -> int:
    if verdict.level < SIGNED_LEVEL:
        why = f"level {verdict.level}: {verdict.reason}"
        try_ = "the bytes are kept at the landing service; compare both copies"
        raise Refused(Code.SEGMENT, "The segment does not verify", why=why, try_=try_)
    facts = (
        ("segment id", verdict.segment_id, header.segment_id),
        ("head", verdict.head, header.head_hash),
        ("agent", verdict.agent_id, header.agent_id),
        ("run", verdict.run_id, header.run_id),
        ("policy", verdict.policy, policy_digest(str(header.access), header.allowed)),
    )
    for what, inside, announced in facts:
        if inside != announced:
            why = f"{what} in the file {inside.hex()}, announced {announced.hex()}"
            raise Refused(Code.FACTS, "The segment is not the one that was announced", why=why, try_="look at who sends it")
    return verdict.level
