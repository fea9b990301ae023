"""A landing service's bytes in an S3 store: ``incoming/``, ``space/`` and ``refused/`` below a prefix; any number of servers.

A piece is an object with a name of its own, so two servers never write the same one; the ledger says which of them count. A complete
upload is put together in a scratch file, hashed and judged there, and sent to its final name. Its receipt says ``store-digest`` where
the store keeps the SHA-256 that was sent with it, else ``read-back``, after the object was read and hashed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import tempfile
from collections.abc import Generator, Sequence
from itertools import groupby
from pathlib import Path

from edge_agent.model import Proof
from edge_agent.wire.item import ItemHeader, parse_header
from edge_agent.wire.refusal import Code, Refusal, Refused
from landing.ledger import Ledger, StoredPiece
from landing.store import Whole, clash
from landing.store.bucket import Bucket, TakenError
from landing.store.incoming import disk_errors

INCOMING = "incoming/"
_UPLOAD = re.compile(rf"{INCOMING}(?P<agent>[0-9a-f]{{32}})/(?P<item>[A-Za-z0-9_-]{{1,64}})")
_LOG = logging.getLogger(__name__)


class S3Store:
    """See `landing.store.Store`. ``shared``: whether the ledger is one that other servers see too."""

    def __init__(self, bucket: Bucket, ledger: Ledger, *, shared: bool) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self.shared = shared

    def free(self) -> None:
        """See `Store.free`; an S3 store does not say."""

    def find(self, agent_id: bytes, item_id: str) -> ItemHeader | None:
        """See `Store.find`."""
        header = self._ledger.header(agent_id, item_id)
        return None if header is None else parse_header(header)

    def create(self, header: ItemHeader) -> None:
        """See `Store.create`."""
        self._ledger.begin(header.agent_id, header.item_id, header.encode())

    def note(self, header: ItemHeader) -> None:
        """See `Store.note`."""
        self._ledger.note(header.agent_id, header.item_id, header.encode())

    def offset(self, header: ItemHeader) -> int | None:
        """See `Store.offset`."""
        return self._ledger.have(header.agent_id, header.item_id)

    def write(self, header: ItemHeader, at: int, blocks: Sequence[bytes | memoryview]) -> int:
        """See `Store.write`; each block is an object."""
        have = at
        for block in blocks:
            have = self._put(header, at, bytes(block))
            at += len(block)
        return have

    def _put(self, header: ItemHeader, at: int, data: bytes) -> int:
        key = f"{_folder(header.agent_id, header.item_id)}{at:016d}-{secrets.token_hex(8)}"
        self._bucket.put(key, data)
        have, taken = self._ledger.add(header.agent_id, header.item_id, StoredPiece(at, len(data), key))
        if not taken:
            self._bucket.remove([key])
        if have is None:
            raise Refused(Code.NOT_FOUND, f"There is no upload {header.item_id}", why="it was ended meanwhile", try_="announce it again")
        return have

    def read_ahead(self, header: ItemHeader) -> None:
        """See `Store.read_ahead`; pieces are read when they are put together."""

    def whole(self, header: ItemHeader) -> Whole:
        """See `Store.whole`."""
        digest, size = hashlib.sha256(), 0
        with disk_errors():
            scratch = tempfile.NamedTemporaryFile(prefix="landing-", delete=False)
        whole = Whole(Path(scratch.name), b"", 0, scratch=True)
        try:
            with scratch:
                for piece in self._ledger.pieces(header.agent_id, header.item_id):
                    if piece.at + piece.size <= size:
                        continue
                    skip = size - piece.at
                    for block in self._bucket.read(piece.key):
                        new = block[skip:]
                        skip = max(skip - len(block), 0)
                        digest.update(new)
                        size += len(new)
                        with disk_errors():
                            scratch.write(new)
            if size != header.size:
                raise FileNotFoundError(f"{size} of {header.size} bytes")
        except BaseException:
            self.let_go(whole)
            raise
        return Whole(whole.path, digest.digest(), size, scratch=True)

    def let_go(self, whole: Whole) -> None:
        """See `Store.let_go`."""
        if whole.scratch:
            whole.path.unlink(missing_ok=True)

    def place(self, header: ItemHeader, whole: Whole, *, replace: bool) -> Proof:
        """See `Store.place`."""
        key, said = f"space/{header.path}", None
        try:
            if replace or self._bucket.head(key) is None:
                said = self._bucket.send(key, whole.path, whole.size, only_new=not replace)
        except TakenError:
            pass  # somebody was quicker, most likely we ourselves: the content decides
        proof = self._held(key, whole, said)
        if proof is not None:
            return proof
        if said is None:
            raise clash(header.path, "it holds other bytes")
        raise Refused(
            Code.TROUBLE, "The S3 store holds other bytes than it was sent", why=self._bucket.name(key), try_="its operator should look"
        )

    def size(self, path: str) -> int | None:
        """See `Store.size`."""
        found = self._bucket.head(f"space/{path}")
        return None if found is None else int(found["ContentLength"])

    def read(self, path: str) -> Generator[bytes, None, None]:
        """See `Store.read`."""
        return self._bucket.read(f"space/{path}")

    def forget(self, header: ItemHeader) -> None:
        """See `Store.forget`."""
        self._forget(header.agent_id, header.item_id)

    def refuse(self, header: ItemHeader, refusal: Refusal, whole: Whole) -> str:
        """See `Store.refuse`."""
        key = f"refused/{header.agent_id.hex()}/{header.item_id}.{whole.sha256.hex()[:16]}"
        self._bucket.put(key + ".json", refusal.to_json().encode(), only_new=False)
        with contextlib.suppress(TakenError):  # the same bytes, refused before
            self._bucket.send(key, whole.path, whole.size, only_new=True)
        self.forget(header)
        return self._bucket.name(key)

    def tidy(self) -> None:
        """Remove the pieces of items that are stored: what a server that died in between left."""
        for agent_id, item_id in self._ledger.over():
            _LOG.info("removing what is left of upload %s of agent %s, which is stored", item_id, agent_id.hex())
            self._forget(agent_id, item_id)

    def unfinished(self, agent_id: bytes) -> list[ItemHeader]:
        """See `Store.unfinished`."""
        return [parse_header(header) for header in self._ledger.headers(agent_id)]

    def resting(self, before_ns: int) -> list[tuple[bytes, str]]:
        """See `Store.resting`."""
        return self._ledger.resting(before_ns)

    def abandon(self, agent_id: bytes, item_id: str, before_ns: int) -> bool:
        """See `Store.abandon`."""
        keys = self._bucket.below(_folder(agent_id, item_id))
        # The ledger first: a piece that comes meanwhile makes it live on, or is told that there is no such upload.
        gone = self._ledger.end_resting(agent_id, item_id, before_ns)
        if gone:
            self._bucket.remove(keys)
        return gone

    def sweep(self, before_ns: int) -> int:
        """See `Store.sweep`.

        First the objects, then the rows: a piece is in the ledger only after its object is durable, so of an object that was there long ago
        either the row is there, or whoever would have written it is dead. Two servers may look at once; each name is given once.
        """
        orphans = []
        for folder, keys in groupby(self._bucket.older(INCOMING, before_ns), lambda key: key.rpartition("/")[0]):
            if (found := _UPLOAD.fullmatch(folder)) is not None:
                named = {piece.key for piece in self._ledger.pieces(bytes.fromhex(found["agent"]), found["item"])}
                orphans += [key for key in keys if key not in named]
        self._bucket.remove(orphans)
        return len(orphans)

    def close(self) -> None:
        """See `Store.close`."""
        self._bucket.close()

    def _forget(self, agent_id: bytes, item_id: str) -> None:
        # Also what a server that died left of a piece before the ledger knew it.
        self._bucket.remove(self._bucket.below(_folder(agent_id, item_id)))
        self._ledger.end(agent_id, item_id)

    def _held(self, key: str, whole: Whole, said: str | None) -> Proof | None:
        """How it is known that the object has these bytes; None: it has not."""
        found = self._bucket.head(key)
        if found is None or found["ContentLength"] != whole.size:
            return None
        kept = found.get("ChecksumSHA256")
        if kept is not None and kept == said:
            return Proof.STORE_DIGEST
        digest = hashlib.sha256()
        for block in self._bucket.read(key):
            digest.update(block)
        return Proof.READ_BACK if digest.digest() == whole.sha256 else None


def _folder(agent_id: bytes, item_id: str) -> str:
    return f"{INCOMING}{agent_id.hex()}/{item_id}/"
