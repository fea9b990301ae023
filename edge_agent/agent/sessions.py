"""Changes the session keys each day, retires those that sign nothing any more, and replaces them at once when they may be stolen.

A key in memory lives for at most a day, so a copy of the memory is worth a day. A change that the disk refuses is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.agent.identity import Credentials
from edge_agent.record.clock import boot_time_ns
from edge_agent.record.session import LIFETIME_NS, new_session
from edge_agent.runs.keeper import Keeper

log = logging.getLogger(__name__)

LOOK = 30.0


@dataclass(slots=True)
class Sessions:
    """``clock`` runs on through suspension and is not set by anybody, in ns."""

    credentials: Credentials
    keeper: Keeper
    lifetime_ns: int = LIFETIME_NS
    clock: Callable[[], int] = boot_time_ns
    _since: int = field(init=False)

    def __post_init__(self) -> None:
        """The keeper's session was made just now."""
        self._since = self.clock()

    async def run(self, every: float = LOOK) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(every)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Change what is due, retire what is over (worker thread).

        Raises:
            DiskError: the disk refused.
        """
        if self.clock() - self._since >= self.lifetime_ns:
            self.change()
        self.keeper.logbook.retire_sessions()

    def change(self, compromised: str = "") -> None:
        """Make new keys and use them from the next segment on; ``compromised`` says why the old ones are not trusted any more.

        Raises:
            DiskError: the disk refused; the old keys go on.
        """
        old = self.keeper.session
        session = new_session(old.agent_id, self.credentials.key, self.credentials.certificates, self.keeper.now_ns(), old.boot_id)
        self.keeper.logbook.change_session(session, compromised)
        self._since = self.clock()
        log.info("new session keys%s", f": {compromised}" if compromised else "")
