"""What plays back one protocol: a server that shows the first values, then each item when it is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from firmware_sim.replay.landed import Landed
from firmware_sim.truth import TruthWriter


class Part(Protocol):
    """Streams of one protocol. All methods run on one event loop."""

    def __init__(self, streams: Sequence[Landed], truth: TruthWriter) -> None:
        """Keep the streams; serve nothing yet."""

    async def open(self) -> Mapping[str, Any]:
        """Serve the values from before the first item; returns the addresses for the ready line."""

    async def show(self, stream: Landed, row: int) -> None:
        """Note and send one item."""

    async def settle(self) -> None:
        """Return when all that was shown can be seen by clients."""

    async def close(self) -> None:
        """Stop serving."""


def plain(value: Any) -> Any:
    """A scalar of a numpy column as Python has it; texts without their padding."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def noted(value: Any) -> dict[str, Any]:
    """What the truth says of a value: itself, or of an array its digest."""
    if getattr(value, "ndim", 0) == 0:
        return {"v": plain(value)}
    import hashlib

    return {"sha256": hashlib.sha256(value.tobytes()).hexdigest(), "shape": value.shape, "dtype": value.dtype.name}
