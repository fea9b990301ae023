"""Exponential back-off with jitter.

The delay doubles with each failure up to a cap, and is drawn from its upper half so that agents do not march in step.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the second attempt, and at most."""

    first: float = 0.5
    cap: float = 60.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 or more)."""
        full = min(self.cap, self.first * 2.0 ** min(failures - 1, 32))
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
