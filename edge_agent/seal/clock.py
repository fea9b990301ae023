"""What an agent knew of its wall clock, as heads and CLOCK leaves say it (docs/signed-chunks.md, Clocks)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.seal.cbor import SealError


@dataclass(frozen=True, slots=True)
class Clock:
    """Who keeps the clock (``unknown`` when nobody told), how far it is ahead of its reference, and how far that may be wrong.

    Offset and uncertainty in ns, None when unknown; ``synced`` as the keeper says.
    """

    source: str = "unknown"
    offset_ns: int | None = None
    uncertainty_ns: int | None = None
    synced: bool = False

    def value(self) -> list[Any]:
        """As it stands in a map."""
        return [self.source, self.offset_ns, self.uncertainty_ns, self.synced]


def parse_clock(value: Sequence[Any]) -> Clock:
    """The inverse of `Clock.value`.

    Raises:
        SealError: not such a value.
    """
    if len(value) == 4:
        source, offset, uncertainty, synced = value
        numbers = all(n is None or (isinstance(n, int) and not isinstance(n, bool)) for n in (offset, uncertainty))
        if isinstance(source, str) and numbers and isinstance(synced, bool):
            return Clock(source, offset, uncertainty, synced)
    raise SealError("the clock field is not [source, offset, uncertainty, synced]")
