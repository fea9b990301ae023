"""Stands for a landing service as long as this agent is not enrolled there: capture goes on, everything waits, the status says why.

It refuses as a service does that does not know the agent, so the lane asks again by itself and tells of it once.
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.deliver.target import Capabilities, Progress
from edge_agent.enrolment import load_enrolment
from edge_agent.errors import PermissionRefused
from edge_agent.model import OutboxItem, Receipt


class Unenrolled:
    """See `Target`."""

    def __init__(self, name: str, keys: Path) -> None:
        """Stand for target ``name``; ``keys`` is the folder that an enrolment is written to."""
        self.name = name
        self._keys = keys

    async def probe(self) -> Capabilities:
        """Refuse."""
        raise self._refusal()

    async def send(self, item: OutboxItem, progress: Progress) -> Receipt:
        """Refuse."""
        raise self._refusal()

    async def close(self) -> None:
        """Nothing to close."""

    def _refusal(self) -> PermissionRefused:
        what = f"target.{self.name}: this agent is not enrolled at a landing service; everything waits in the spool"
        if load_enrolment(self._keys) is None:
            why = f"no enrolment in {self._keys}"
            try_ = "get a token there (python -m landing token DIR --project P), run: edge-agent enroll TOKEN, and restart the agent"
        else:
            why, try_ = "it was enrolled after it started", "restart the agent"
        return PermissionRefused(what, why=why, try_=try_, code="NOT_ENROLLED")
