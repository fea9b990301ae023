"""From complete bytes to a signed CUSTODY: hash again, judge, place, catalogue, sign.

Invariants: the receipt is signed only when the bytes are under their final name and synced; repeated after a crash at
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
from landing.incoming import Incoming, hash_file
from landing.judge import Judge, Verdict
from landing.room import Room
from landing.space import Space

SIGNED_LEVEL = 2
WORKERS = 2
_FINAL = frozenset({Code.DIGEST, Code.SEGMENT, Code.FACTS, Code.CLASH})
_LOG = logging.getLogger(__name__)


class CheckIn:
    """Checks at most `WORKERS` items at a time. ``store`` is the name of the service, as it stands in receipts."""

    def __init__(
        self,
        store: str,
        catalogue: Catalogue,
        incoming: Incoming,
        space: Space,
        room: Room,
        judge: Judge,
        signer: cose.Signer,
        clock: Callable[[], int] = utc_now_ns,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._incoming = incoming
        self._space = space
        self._room = room
        self._judge = judge
        self._signer = signer
        self._clock = clock
        self._slots = asyncio.Semaphore(WORKERS)
        self._placing = asyncio.Lock()

    async def run(self, header: ItemHeader) -> bytes:
        """The CUSTODY (COSE) of an upload whose bytes are all here and whose digest was said.

        Raises:
            Refused: DIGEST, SEGMENT, FACTS, CLASH for good; NOT_FOUND, FULL, QUOTA, TROUBLE for now.
        """
        async with self._slots:
            part = self._incoming.part(header)
            placed = not part.exists()
            path = self._space.target(header.path) if placed else part
            try:
                sha256, size = await asyncio.to_thread(hash_file, path)
            except (FileNotFoundError, NotADirectoryError) as error:
                await asyncio.to_thread(self._incoming.forget, header)
                raise Refused(Code.NOT_FOUND, f"The bytes of upload {header.item_id} are gone", try_="send them again") from error
            try:
                _check_digest(header, sha256, size)
                level = _check_facts(header, await self._judge.judge(path)) if header.kind is ItemKind.SEGMENT else None
                self._room.check_quota(header)
                if not placed:
                    await self._place(header, sha256)
            except Refused as refused:
                if refused.refusal.code in _FINAL and not placed:
                    await self._keep(header, refused, sha256)
                raise
            return await self._sign(header, sha256, level)

    async def _place(self, header: ItemHeader, sha256: bytes) -> None:
        replace = header.kind is ItemKind.RECEIPTS
        async with self._placing:
            await asyncio.to_thread(self._space.place, self._incoming.part(header), header.path, sha256, replace=replace)

    async def _sign(self, header: ItemHeader, sha256: bytes, level: int | None) -> bytes:
        now = self._clock()
        custody = Custody(
            header.agent_id, header.segment_id, header.head_hash, sha256, header.size, self._store, str(Proof.FSYNCED), now, header.path
        )
        signed = cose.sign(self._signer, cose.CUSTODY, custody.payload())
        stored = StoredItem(
            header.agent_id, header.item_id, header.kind, header.project, header.path, header.size, sha256, header.run_id, header.run_no,
            level, signed, now,
        )  # fmt: skip
        await asyncio.to_thread(self._catalogue.store, stored)
        await asyncio.to_thread(self._incoming.forget, header)
        return signed

    async def _keep(self, header: ItemHeader, refused: Refused, sha256: bytes) -> None:
        kept = await asyncio.to_thread(self._incoming.refuse, header, refused.refusal, sha256)
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
