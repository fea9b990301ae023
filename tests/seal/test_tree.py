"""Merkle trees against the published vectors of Certificate Transparency and against the definitions of RFC 9162 written out."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.seal.cbor import SealError
from edge_agent.seal.nodes import Nodes
from edge_agent.seal.tree import (
    EMPTY_ROOT,
    EPOCH,
    Frontier,
    check_consistency,
    check_inclusion,
    epoch_roots,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

# github.com/google/certificate-transparency, merkletree tests: eight leaves, their roots, and proofs.
INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
LEAVES = [bytes.fromhex(text) for text in INPUTS]
HASHES = [leaf_hash(data) for data in LEAVES]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = {(0, 1): [], (0, 8): [A, B, C], (5, 8): [D, E, ROOTS[3]], (2, 3): [ROOTS[1]], (1, 5): [ROOTS[0], B, D]}
CONSISTENCY = {(1, 1): [], (1, 8): [A, B, C], (6, 8): [F, E, ROOTS[3]], (2, 5): [B, D]}


def grown(hashes: list[bytes]) -> Nodes:
    nodes = Nodes()
    assert [nodes.append(digest) for digest in hashes] == list(range(len(hashes)))
    return nodes


def hexed(proof: list[bytes]) -> list[str]:
    return [part.hex() for part in proof]


def naive_root(hashes: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, word for word."""
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def test_the_published_roots_come_out() -> None:
    assert [root_of(HASHES[: n + 1]).hex() for n in range(8)] == ROOTS
    assert root_of([]) == EMPTY_ROOT == hashlib.sha256(b"").digest()
    assert node_hash(HASHES[0], HASHES[1]).hex() == ROOTS[1]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_the_published_inclusion_proofs_come_out_and_hold(index: int, size: int) -> None:
    proof = inclusion_proof(HASHES[:size], index)
    assert grown(HASHES).inclusion(index, size) == proof
    assert hexed(proof) == INCLUSION[index, size]
    assert check_inclusion(HASHES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("first", "second"), CONSISTENCY)
def test_the_published_consistency_proofs_come_out_and_hold(first: int, second: int) -> None:
    proof = grown(HASHES).consistency(first, second)
    assert hexed(proof) == CONSISTENCY[first, second]
    assert check_consistency(first, bytes.fromhex(ROOTS[first - 1]), second, bytes.fromhex(ROOTS[second - 1]), proof)


def test_all_proofs_of_all_small_trees_hold() -> None:
    given = [leaf_hash(bytes((n,))) for n in range(20)]
    roots = [naive_root(given[:n]) for n in range(21)]
    nodes = grown(given)
    for size in range(1, 21):
        for n in range(size):
            assert nodes.inclusion(n, size) == inclusion_proof(given[:size], n)
            assert check_inclusion(given[n], n, size, nodes.inclusion(n, size), roots[size])
            assert check_consistency(n + 1, roots[n + 1], size, roots[size], nodes.consistency(n + 1, size))


hashes = st.lists(st.binary(max_size=4).map(leaf_hash), max_size=70)
proofs = st.lists(st.binary(min_size=32, max_size=32), max_size=9)


@given(hashes)
def test_the_growing_tree_has_the_root_of_the_definition(given: list[bytes]) -> None:
    frontier = Frontier()
    for n, digest in enumerate(given):
        assert frontier.root() == naive_root(given[:n])
        assert frontier.append_hash(digest) == n
    assert frontier.root() == root_of(given) == naive_root(given)
    assert len(frontier.peaks) == len(given).bit_count()


def test_the_roots_of_epochs_are_nodes_of_the_whole_tree() -> None:
    given = [leaf_hash(n.to_bytes(2)) for n in range(1300)]
    assert epoch_roots([]) == []
    for size in (1, 255, 256, 257, 511, 512, 513, 768, 769, 1024, 1025, 1300):
        roots = epoch_roots(given[:size])
        assert roots == [naive_root(given[n : min(n + 256, size)]) for n in range(0, size, 256)]
        assert root_of(roots) == naive_root(given[:size])


def test_the_roots_of_epochs_are_known_while_the_tree_grows() -> None:
    given = [leaf_hash(n.to_bytes(2)) for n in range(1300)]
    frontier, kept = Frontier(), []
    for size, digest in enumerate(given):
        assert [*kept, *frontier.begun()] == epoch_roots(given[:size])
        if size % EPOCH == EPOCH - 1:
            kept.append(frontier.completed_by(digest))
        frontier.append_hash(digest)
    assert [*kept, *frontier.begun()] == epoch_roots(given)


def test_appending_to_a_copy_leaves_the_tree_alone() -> None:
    frontier = Frontier()
    assert frontier.append(b"a") == 0
    copy = frontier.copy()
    copy.append(b"b")
    assert (frontier.size, frontier.root()) == (1, leaf_hash(b"a"))
    assert copy.root() == root_of([leaf_hash(b"a"), leaf_hash(b"b")])


@given(hashes.filter(bool), st.data())
def test_every_leaf_has_a_proof_that_holds_for_it_alone(given: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(given) - 1))
    proof, root = inclusion_proof(given, index), naive_root(given)
    assert check_inclusion(given[index], index, len(given), proof, root)
    assert not check_inclusion(bytes(32), index, len(given), proof, root)
    assert not check_inclusion(given[index], index, len(given), proof, bytes(32))
    assert not check_inclusion(given[index], index, len(given), [*proof, bytes(32)], root)
    assert not check_inclusion(given[index], len(given), len(given), proof, root)
    assert not check_inclusion(given[index], -1, len(given), proof, root)
    if proof:
        assert not check_inclusion(given[index], index, len(given), proof[:-1], root)
        assert not check_inclusion(given[index], index, len(given), [bytes(32), *proof[1:]], root)


@settings(deadline=None)
@given(hashes.filter(bool), st.data())
def test_every_prefix_has_a_proof_and_no_fork_has_one(given: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(1, len(given)))
    proof = grown(given).consistency(first, len(given))
    first_root, root = naive_root(given[:first]), naive_root(given)
    assert check_consistency(first, first_root, len(given), root, proof)
    assert not check_consistency(first, bytes(32), len(given), root, proof)
    assert not check_consistency(first, first_root, len(given), bytes(32), proof)
    assert not check_consistency(first, first_root, len(given), root, [*proof, bytes(32)])
    assert not check_consistency(len(given) + 1, first_root, len(given), root, proof)
    forked = [*given[: first - 1], bytes(32)]
    assert not check_consistency(first, naive_root(forked), len(given), root, proof)
    if proof:
        assert not check_consistency(first, first_root, len(given), root, proof[:-1])


@given(st.integers(0, 80), st.integers(0, 80), st.binary(min_size=32, max_size=32), proofs)
def test_no_proof_makes_the_checks_raise(first: int, second: int, root: bytes, proof: list[bytes]) -> None:
    check_inclusion(root, first, second, proof, root)
    check_consistency(first, root, second, root, proof)


def test_the_empty_tree_is_a_prefix_of_every_tree_and_nothing_else() -> None:
    root = bytes.fromhex(ROOTS[7])
    assert check_consistency(0, EMPTY_ROOT, 8, root, [])
    assert not check_consistency(0, root, 8, root, [])
    assert not check_consistency(0, EMPTY_ROOT, 8, root, [root])
    assert check_consistency(8, root, 8, root, [])
    assert not check_consistency(8, root, 8, root, [root])
    assert not check_consistency(3, root, 8, root, [])


def test_proofs_of_leaves_that_are_not_there_are_refused() -> None:
    for index in (-1, 3):
        with pytest.raises(SealError, match="inclusion proof: leaf"):
            inclusion_proof(HASHES[:3], index)
        with pytest.raises(SealError, match="inclusion proof: leaf"):
            grown(HASHES).inclusion(index, 3)
    for first, size in ((0, 3), (4, 3), (3, 9)):
        with pytest.raises(SealError, match="consistency proof"):
            grown(HASHES).consistency(first, size)


def test_a_proof_over_many_leaves_reads_few_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, size = grown([leaf_hash(n.to_bytes(4)) for n in range(5000)]), 4999
    made = 0

    def counted(left: bytes, right: bytes) -> bytes:
        nonlocal made
        made += 1
        return node_hash(left, right)

    monkeypatch.setattr("edge_agent.seal.nodes.node_hash", counted)
    nodes.inclusion(1234, size)
    nodes.consistency(1234, size)
    assert made <= 2 * size.bit_length()
