"""Removes uploads that were abandoned: begun, and then nothing came for longer than the site allows; and what killed servers left of any.

An agent whose upload was removed, and who comes back after all, is told that there is none, and sends the item from the beginning: it frees
its own copy only against a receipt.
"""

from __future__ import annotations

import asyncio
import logging

from edge_agent.model import utc_now_ns
from edge_agent.wire.refusal import Refused
from landing.receiver import Receiver

EVERY = 3600.0
"""Seconds between two looks."""
_LOG = logging.getLogger(__name__)


async def sweep(receiver: Receiver, age: float, every: float = EVERY) -> None:
    """Look now and then, until cancelled. ``age``: s without a byte after which an upload is abandoned."""
    while True:
        try:
            before_ns = utc_now_ns() - int(age * 1e9)
            if gone := await receiver.abandon(before_ns):
                _LOG.info("removed %d uploads that had taken nothing for %g days", gone, age / 86_400)
            if left := await receiver.sweep(before_ns):
                _LOG.info("removed %d pieces older than %g days that no upload has: a server was killed over them", left, age / 86_400)
        except Refused as refused:
            _LOG.warning("abandoned uploads are looked for later: %s", refused)
        await asyncio.sleep(every)
