"""How much a landing service takes: per item, per project, and of the disk."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.wire.item import ItemHeader
from edge_agent.wire.refusal import Code, Refused
from landing.catalogue import Catalogue
from landing.store import Store


@dataclass(frozen=True, slots=True)
class Limits:
    """``keep_free`` bytes stay free on the disk; a project holds at most ``quota`` bytes (None: no limit); an item at most ``max_size``."""

    keep_free: int = 1 << 30
    quota: int | None = None
    max_size: int = 1 << 40


class Room:
    """Says no before the bytes come, and once more before they get their name."""

    def __init__(self, limits: Limits, catalogue: Catalogue, store: Store) -> None:
        self.limits = limits
        self._catalogue = catalogue
        self._store = store

    def check(self, header: ItemHeader) -> None:
        """Whether an item can be taken.

        Raises:
            Refused: TOO_LARGE, FULL, QUOTA.
        """
        if header.size > self.limits.max_size:
            why = f"{header.size} bytes, at most {self.limits.max_size} are taken"
            raise Refused(Code.TOO_LARGE, "The item is too large", why=why, try_="record smaller segments")
        left = self._store.free()
        if left is not None and header.size > left - self.limits.keep_free:
            why = f"{header.size} bytes, {max(left - self.limits.keep_free, 0)} are free"
            raise Refused(Code.FULL, "The landing service's disk is full", why=why, try_="its operator has to free space")
        self.check_quota(header)

    def check_quota(self, header: ItemHeader) -> None:
        """Whether the project may hold the item too.

        Raises:
            Refused: QUOTA.
        """
        quota = self.limits.quota
        if quota is not None and self._catalogue.project_size(header.project) + header.size > quota:
            why = f"it may hold {quota} bytes"
            raise Refused(
                Code.QUOTA, f"Project {header.project} has used its share", why=why, try_="ask the operator of the landing service"
            )
