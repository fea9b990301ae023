"""Proofs on their way into the outbox: those that came while it was busy go in together, with one sync.

Invariant: whoever brings a proof goes on only after it is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edge_agent.errors import IntegrityError
from edge_agent.model import Receipt

Take = Callable[[Sequence[Receipt]], Sequence[bool | IntegrityError]]
"""`Queue.take_proofs`."""


class Proofs:
    """Of one lane; belongs to its event loop."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._waiting: list[tuple[Receipt, asyncio.Future[bool]]] = []
        self._work: asyncio.Task[None] | None = None

    async def put(self, receipt: Receipt) -> bool:
        """Return when it is durable; False when it is of no use any more.

        Raises:
            IntegrityError: it is for other bytes.
            Exception: what kept the outbox from taking it.
        """
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((receipt, taken))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._bring(), name="proofs")
        return await taken

    async def close(self) -> None:
        """Nobody waits any more."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _bring(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                verdicts = await asyncio.to_thread(self._take, [receipt for receipt, _ in together])
            except Exception as error:
                for _, taken in together:
                    if not taken.done():
                        taken.set_exception(error)
                continue
            for (_, taken), verdict in zip(together, verdicts, strict=True):
                if taken.done():
                    continue
                if isinstance(verdict, IntegrityError):
                    taken.set_exception(verdict)
                else:
                    taken.set_result(verdict)
