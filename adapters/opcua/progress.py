"""Up to when everything that a subscription had is handed over: there an outage of it begins.

A message carries what the server had sampled when it sent it, not when it arrived, and one that arrived is no value that was
handed over. When it was sent is known by the server's clock only (PublishTime, OPC 10000-4, 7.26). The message that took least on its
way tells how far the two clocks are apart. Invariant: the result is never after the message's arrival and never before the request
that it answers, whatever the clocks do: an outage may begin too early by the time that a request waits at the server, and not too late.
"""

from __future__ import annotations

from edge_agent.model import NO_TIME


class Progress:
    """``until``: UTC ns; it begins with the time at which the subscription was made."""

    def __init__(self, until: int) -> None:
        self.until = until
        self._apart: int | None = None

    def reached(self, asked: int, sent: int, arrival: int) -> None:
        """A message is handed over: its request, its sending by the server's clock (or `NO_TIME`) and its arrival, UTC ns."""
        if sent == NO_TIME:
            self.until = arrival
            return
        self._apart = arrival - sent if self._apart is None else min(self._apart, arrival - sent)
        self.until = min(arrival, max(asked, sent + self._apart))
