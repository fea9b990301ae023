"""A growing Merkle tree of RFC 9162 that keeps every node which will not change again, so that a proof costs O(log n) and not O(n).

64 bytes a leaf. `tree.Frontier` is for who needs the root alone, `tree.inclusion_proof` for who has the leaves of one small tree.
"""

from __future__ import annotations

from edge_agent.seal.cbor import SealError
from edge_agent.seal.tree import node_hash, split

HASH = 32


class Nodes:
    """``levels[h]`` holds the roots of the whole subtrees of ``2 ** h`` leaves, one behind the other."""

    def __init__(self) -> None:
        """Begin an empty tree."""
        self._levels = [bytearray()]

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH

    def append(self, digest: bytes) -> int:
        """Add a leaf by its hash; returns its index."""
        index = len(self)
        carry = index
        for level in self._levels:
            level += digest
            if not carry & 1:
                return index
            digest = node_hash(bytes(level[-2 * HASH : -HASH]), digest)
            carry >>= 1
        self._levels.append(bytearray(digest))
        return index

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Path of RFC 9162 section 2.1.3.1 for leaf ``index`` of the tree over the first ``size`` leaves."""
        if not 0 <= index < size <= len(self):
            raise SealError(f"inclusion proof: leaf {index} of {size}, and there are {len(self)}")
        start, end, path = 0, size, []
        while end - start > 1:
            middle = start + split(end - start)
            if index < middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, first: int, size: int) -> list[bytes]:
        """RFC 9162 section 2.1.4.1: that the tree over the first ``first`` leaves is a prefix of that over the first ``size``."""
        if not 0 < first <= size <= len(self):
            raise SealError(f"consistency proof: {first} of {size}, and there are {len(self)}")
        start, end, path = 0, size, []
        while end != first:
            middle = start + split(end - start)
            if first <= middle:
                path.append(self._root(middle, end))
                end = middle
            else:
                path.append(self._root(start, middle))
                start = middle
        if start:
            path.append(self._root(start, end))
        return path[::-1]

    def _root(self, start: int, end: int) -> bytes:
        """Root over leaves ``start`` to ``end``, a range as the splits of RFC 9162 make them."""
        height = (end - start).bit_length() - 1
        if end - start == 1 << height:
            at = HASH * (start >> height)
            return bytes(self._levels[height][at : at + HASH])
        middle = start + split(end - start)
        return node_hash(self._root(start, middle), self._root(middle, end))
