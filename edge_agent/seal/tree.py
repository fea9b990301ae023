"""Merkle trees of RFC 9162 section 2.1 over SHA-256.

`Frontier` is the live tree: appending costs O(1) amortised and keeps O(log n) hashes. The functions over lists of leaf hashes make
and check proofs; `nodes.Nodes` makes those of a tree that grows for years.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.seal.cbor import SealError

EPOCH = 256
"""Leaves of one epoch: a subtree whose root is stored, so that one leaf can be proved without reading all others."""
EPOCHS_ABOVE = 4096
"""Trees of up to so many leaves store no epochs: reading all of them costs less than half a megabyte."""
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(payload: bytes) -> bytes:
    """``SHA-256(0x00 || payload)``, 32 bytes."""
    return hashlib.sha256(b"\0" + payload).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """``SHA-256(0x01 || left || right)``, 32 bytes."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """The right edge of a growing tree: one hash a set bit of ``size``, largest subtree first."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def append(self, payload: bytes) -> int:
        """Add a leaf; returns its index."""
        return self.append_hash(leaf_hash(payload))

    def append_hash(self, digest: bytes) -> int:
        """Add a leaf by its hash; returns its index."""
        index = self.size
        carry = index
        while carry & 1:
            digest = node_hash(self.peaks.pop(), digest)
            carry >>= 1
        self.peaks.append(digest)
        self.size += 1
        return index

    def root(self) -> bytes:
        """Root over all leaves so far, 32 bytes; the hash of nothing for an empty tree."""
        if not self.peaks:
            return EMPTY_ROOT
        digest = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            digest = node_hash(peak, digest)
        return digest

    def completed_by(self, digest: bytes) -> bytes:
        """Root of the epoch whose last leaf is ``digest``, which comes next: its other leaves are the last peaks."""
        epoch = Frontier(EPOCH - 1, self.peaks[-(EPOCH - 1).bit_count() :])
        epoch.append_hash(digest)
        return epoch.root()

    def begun(self) -> list[bytes]:
        """Root of the leaves since the last whole epoch; empty when there are none."""
        size = self.size % EPOCH
        return [Frontier(size, self.peaks[-size.bit_count() :]).root()] if size else []

    def copy(self) -> Frontier:
        """An independent frontier of the same tree."""
        return Frontier(self.size, list(self.peaks))


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root of a list of leaf hashes."""
    frontier = Frontier()
    for digest in hashes:
        frontier.append_hash(digest)
    return frontier.root()


def epoch_roots(hashes: Sequence[bytes]) -> list[bytes]:
    """Root of each `EPOCH` leaf hashes; the last one may stand for fewer.

    They are nodes of the tree of RFC 9162 over all leaves, because it splits at powers of two: `root_of` them is its root.
    """
    return [root_of(hashes[start : start + EPOCH]) for start in range(0, len(hashes), EPOCH)]


def split(n: int) -> int:
    """Largest power of two smaller than ``n``."""
    return 1 << ((n - 1).bit_length() - 1)


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Path of RFC 9162 section 2.1.3.1 for leaf ``index`` of the tree over ``hashes``."""
    if not 0 <= index < len(hashes):
        raise SealError(f"inclusion proof: leaf {index} of {len(hashes)}")
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*inclusion_proof(hashes[:k], index), root_of(hashes[k:])]
    return [*inclusion_proof(hashes[k:], index - k), root_of(hashes[:k])]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162 section 2.1.3.2: whether ``leaf`` (a leaf hash) is leaf ``index`` of the tree with ``size`` and ``root``."""
    if not 0 <= index < size:
        return False
    fn, sn, digest = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            digest = node_hash(sibling, digest)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            digest = node_hash(digest, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and digest == root


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162 section 2.1.4.2: whether the tree of size ``first`` is a prefix of the tree of size ``second``."""
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if first > second or not proof:
        return False
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr = node_hash(c, fr)
            sr = node_hash(c, sr)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            sr = node_hash(sr, c)
        fn >>= 1
        sn >>= 1
    return sn == 0 and fr == first_root and sr == second_root
