"""What one stream misses: kept while the stream is not open, then declared on it.

An outage is a loss from the moment on in which the variable was monitored, also when no value had come yet: it may have changed meanwhile,
and nobody knows how often. It is declared before the first value. See ``docs/decisions/0015-an-outage-before-the-first-value.md``.
"""

from __future__ import annotations

from edge_agent.adapter import Inlet
from edge_agent.model import Cause, Gap


class Losses:
    """Gaps and the present outage of one stream. It outlives connections."""

    def __init__(self) -> None:
        self._inlet: Inlet | None = None
        self._kept: list[Gap] = []
        self._outage: tuple[int, str] | None = None

    @property
    def since(self) -> int | None:
        """Since when nothing is heard (UTC ns), while that is not declared yet."""
        return None if self._outage is None else self._outage[0]

    @property
    def kept(self) -> tuple[Gap, ...]:
        """What waits for the stream to be opened."""
        return tuple(self._kept)

    def opened(self, inlet: Inlet) -> None:
        """The stream is open now, or open anew: what was kept is declared."""
        self._inlet = inlet
        for gap in self._kept:
            inlet.gap(gap)
        self._kept.clear()

    def declare(self, gap: Gap) -> None:
        """Something is missing: declared now, or when the stream is opened."""
        if self._inlet is None:
            self._kept.append(gap)
        else:
            self._inlet.gap(gap)

    def interrupted(self, t_from: int, why: str) -> None:
        """Nothing was heard since ``t_from`` (UTC ns)."""
        if self._outage is None:
            self._outage = (t_from, why)

    def explain(self, detail: str) -> None:
        """Say more of the outage when it is declared."""
        if self._outage is not None:
            self._outage = (self._outage[0], f"{self._outage[1]}; {detail}")

    def resumed(self, t_to: int, count: int | None = None) -> None:
        """Declare the outage, if there was one, as a gap until ``t_to`` (UTC ns). ``count``: values that it cost, where known."""
        if self._outage is not None:
            self.declare(Gap(Cause.DISCONNECT, count=count, t_from=self._outage[0], t_to=t_to, detail=self._outage[1]))
        self._outage = None

    def taken(self) -> tuple[int, str] | None:
        """The outage, its beginning (UTC ns) and why, for who declares it in another way; it is over."""
        outage, self._outage = self._outage, None
        return outage
