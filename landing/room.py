"""How much a landing service takes: per item, per project, of the disk, and of uploads that are never finished."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.wire.item import ItemHeader
from edge_agent.wire.refusal import Code, Refused
from landing.catalogue import Catalogue
from landing.store import Store


@dataclass(frozen=True, slots=True)
class Limits:
    """``keep_free`` bytes stay free on the disk; a project holds at most ``quota`` bytes (None: no limit); an item at most ``max_size``.

    Of one agent at most ``uploads`` are unfinished at a time, of ``upload_bytes`` announced bytes together (None: no limit). An upload that
    has taken nothing for ``upload_age`` s is removed (None: never).
    """

    keep_free: int = 1 << 30
    quota: int | None = None
    max_size: int = 1 << 40
    uploads: int | None = 1000
    upload_bytes: int | None = None
    upload_age: float | None = 30 * 86_400.0


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
        self._check_unfinished(header)

    def _check_unfinished(self, header: ItemHeader) -> None:
        limits = self.limits
        others = [one for one in self._store.unfinished(header.agent_id) if one.item_id != header.item_id]
        size = sum(one.size for one in others)
        if limits.uploads is not None and len(others) >= limits.uploads:
            why = f"{len(others)} uploads, at most {limits.uploads} may be open"
        elif limits.upload_bytes is not None and size + header.size > limits.upload_bytes:
            why = f"{size} bytes were announced and {header.size} more, at most {limits.upload_bytes} may be open"
        else:
            return
        try_ = "finish those first; what was abandoned is removed after a while"
        raise Refused(Code.FULL, "This agent has too many unfinished uploads", why=why, try_=try_)

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
