"""Whether an item that the catalogue has is still in its project space, asked before anybody is told so again.

What is looked at is the name and its length: no byte is read, and a repeated question costs a `stat` (in S3 a HEAD). So this finds a file
that was removed or cut, a disk that is not mounted and a catalogue beside another store; it does not find other bytes of the same length.
The CUSTODY that is given says what was proven at its own time, when all of it was read. An item that is not there is unknown from then on,
so the sender is asked for it as for a new one. Of a name that was written again (``.receipts``) only the newest bytes are looked for.
"""

from __future__ import annotations

import logging

from landing.catalogue import Catalogue, StoredItem
from landing.store import Store

_LOG = logging.getLogger(__name__)


def held_item(catalogue: Catalogue, store: Store, agent_id: bytes, item_id: str) -> StoredItem | None:
    """A stored item whose file is where it should be; the catalogue forgets one that is not. Blocks.

    Raises:
        Refused: TROUBLE, the catalogue or the store does not answer.
    """
    stored = catalogue.item(agent_id, item_id)
    if stored is None:
        return None
    newest = catalogue.at(stored.path)
    if newest is not None and newest[0].sha256 != stored.sha256:
        return stored
    size = store.size(stored.path)
    if size == stored.size:
        return stored
    found = "is gone" if size is None else f"has {size} bytes"
    _LOG.error(
        "%s %s, where %d bytes with SHA-256 %s were stored; agent %s is asked for item %s again",
        stored.path, found, stored.size, stored.sha256.hex(), agent_id.hex(), item_id,
    )  # fmt: skip
    catalogue.forget_item(stored)
    return None
