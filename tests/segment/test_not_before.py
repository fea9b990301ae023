"""Not before: a close head names the newest receipt that its signer held, and both verifiers look whether it can be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.seal import cose
from edge_agent.seal.head import Head
from edge_agent.seal.receipt import Custody, Receipts, Witness
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from tests.independent import judged

T0 = 1_795_000_000_000_000_000
LOG = b"agent log id 016"


class Made:
    """A run of one segment whose close head names a receipt of a given time."""

    def __init__(self, forge: Any, folder: Path) -> None:
        self.forge, self.folder = forge, folder / "000123"
        self.folder.mkdir()
        self.root = folder / "root.pem"
        self.root.write_bytes(forge.facility.root.public_bytes(Encoding.PEM))

    def receipt(self, t_ns: int) -> bytes:
        said = Witness(self.forge.facility.agent_id, LOG, 1, bytes(32), bytes(32), t_ns)
        return cose.sign(self.forge.facility.receipts_key, cose.WITNESS, said.payload())

    def levels(self, named: bytes | None, held: Callable[[Receipts], Receipts]) -> tuple[int, int, str]:
        """What both verifiers say, and why ours says so."""
        digest = None if named is None else hashlib.sha256(named).digest()

        def name(head: Head) -> Head:
            return replace(head, not_before=digest)

        path = self.folder / "000123_camera_image_000001.h5"
        path.unlink(missing_ok=True)
        built = self.forge.frames(path).close(head=name)
        self.forge.sidecar(self.folder, [built])
        self.forge.receipts(self.folder, [built], change=held)
        ours = verify_run(self.folder, self.forge.facility.root, judge=verify_segment)
        return ours.level, judged(self.folder, "--root", self.root)["level"], "; ".join((*ours.warnings, *ours.notes))


@pytest.fixture
def made(forge: Any, tmp_path: Path) -> Made:
    return Made(forge, tmp_path)


def with_more(*more: bytes) -> Callable[[Receipts], Receipts]:
    return lambda receipts: replace(receipts, receipts=(*receipts.receipts, *more))


def test_a_head_that_names_an_older_receipt_costs_nothing(made: Made) -> None:
    earlier = made.receipt(T0 - 60 * 10**9)
    assert made.levels(earlier, with_more(earlier)) == (3, 3, "")
    assert made.levels(None, with_more(earlier)) == (3, 3, "")


def test_a_head_that_is_older_than_the_receipt_that_it_names_is_impossible(made: Made) -> None:
    within, beyond = made.receipt(T0 + 5_000_000), made.receipt(T0 + 3 * 10**9)
    assert made.levels(within, with_more(within)) == (3, 3, "")
    ours, other, why = made.levels(beyond, with_more(beyond))
    assert (ours, other) == (2, 2)
    assert why == "segment 1: clock: its close head names a receipt that is 3.000 s younger"


def test_a_head_whose_receipt_was_taken_away_is_only_signed(made: Made) -> None:
    named = made.receipt(T0 - 1)
    ours, other, why = made.levels(named, lambda given: given)
    assert (ours, other) == (2, 2)
    assert why == "segment 1: the receipt that its close head names is not among the receipts"


def test_what_a_head_names_must_be_a_witness_and_not_another_receipt(made: Made) -> None:
    said = Custody(made.forge.facility.agent_id, bytes(16), bytes(32), bytes(32), 1, "space", "fsynced", T0 - 1, "p/a")
    custody = cose.sign(made.forge.facility.receipts_key, cose.CUSTODY, said.payload())
    assert made.levels(custody, with_more(custody))[:2] == (2, 2)
