"""CLOCK and ROWS leaves: dropped, altered, lying, out of place. Both verifiers say the same of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.codec import CodecError
from edge_agent.seal import leaf
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head, State
from edge_agent.segment import early
from edge_agent.segment.clock import check_clock
from edge_agent.segment.levels import verify_path
from edge_agent.segment.verify import verify_segment
from tests.independent import item

S = 10**9
Leaves = list[Any]


@pytest.fixture
def root(facility: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.pem"
    path.write_bytes(facility.root.public_bytes(Encoding.PEM))
    return path


def independent(path: Path, root: Path) -> tuple[int, str]:
    """Level and sentence of the other verifier."""
    found = item(path, "--root", root)
    return int(found["level"]), str(found["reason"])


# ---- CLOCK ----------------------------------------------------------------------------------------------------------


def clock(step: int | None = None, sync: Clock | None = None) -> leaf.ClockLeaf:
    return leaf.ClockLeaf(step, sync, 5, 6)


SYNCED = Clock("chrony", 1, 2, True)
CLOCKS: dict[str, tuple[list[leaf.ClockLeaf], dict[str, Any], str]] = {
    "even": ([], {"t_utc_ns": 10 * S, "t_boot_ns": 10 * S}, ""),
    "within what is allowed": ([], {"t_utc_ns": 10 * S + 9_999_000, "t_boot_ns": 10 * S}, ""),
    "more than is allowed": ([], {"t_utc_ns": 10 * S + 10_001_000, "t_boot_ns": 10 * S}, "gained 0.010 s"),
    "as unsure as it is wrong": ([], {"t_utc_ns": 60 * S, "t_boot_ns": 10 * S, "clock": Clock("unknown", None, 50 * S)}, ""),
    "certain and wrong": ([], {"t_utc_ns": 60 * S, "clock": Clock("unknown", None, -(10**18))}, "gained 60.000 s"),
    "forward and told": ([clock(5 * S), clock(2 * S)], {"t_utc_ns": 7 * S}, ""),
    "back and told": ([clock(-7 * S)], {"t_utc_ns": -7 * S}, ""),
    "forward and not told": ([], {"t_utc_ns": 7 * S}, "gained 7.000 s on the boot clock, and no CLOCK leaf says why"),
    "told and not forward": ([clock(7 * S)], {}, "gained -7.000 s"),
    "told of another step": ([clock(3 * S)], {"t_utc_ns": 7 * S}, "gained 4.000 s"),
    "the boot clock back": ([], {"t_utc_ns": -S, "t_boot_ns": -S}, "the boot clock went back by 1.000 s"),
    "synchronised and told": ([clock(None, Clock()), clock(None, SYNCED)], {"clock": replace(SYNCED, offset_ns=77)}, ""),
    "synchronised and not told": ([], {"clock": SYNCED}, "the clock became chrony, synchronised, and no CLOCK leaf says so"),
    "told of another state": ([clock(1, SYNCED)], {"clock": Clock()}, "the clock became unknown, not synchronised"),
}


def forged(forge: Any, path: Path, case: str) -> Any:
    """A segment whose close head has the times and whose last leaves say what the case says; clocks run on from the anchor before."""
    leaves, changes, _ = CLOCKS[case]

    def moved(head: Any) -> Any:
        given = {name: value + getattr(head, name) - 1 if name.endswith("_ns") else value for name, value in changes.items()}
        return replace(head, **given)

    return forge.frames(path).close(leaves=lambda given: [*given[:-2], *leaves, *given[-2:]], head=moved)


@pytest.mark.parametrize("case", CLOCKS)
def test_the_clock_of_a_head_agrees_with_boot_time_or_a_leaf_says_why(
    case: str, forge: Any, facility: Any, root: Path, tmp_path: Path
) -> None:
    path = forged(forge, tmp_path / "a.h5", case).path
    report, (level, sentence) = verify_segment(path, facility.root), independent(path, root)
    assert (report.level, report.reason, level) == (2, "", 2)
    wrong = CLOCKS[case][2]
    assert (wrong in report.warning) if wrong else not report.warning
    assert ("clock" in sentence) == bool(wrong)


def test_heads_of_two_boots_are_not_compared() -> None:
    head = Head(bytes(16), bytes(16), 1, bytes(32), 0, None, 0, 0, b"b" * 16, Clock(), State.OPEN)
    later = replace(head, t_utc_ns=99 * S)
    assert check_clock([head, later], []) != ""
    assert check_clock([head, replace(later, boot_id=bytes(16))], []) == ""


def test_a_clock_leaf_that_was_dropped_or_changed_after_signing_is_damage(
    forge: Any, facility: Any, root: Path, tmp_path: Path
) -> None:
    changes: list[Callable[[tuple[bytes, ...]], tuple[bytes, ...]]] = [
        lambda payloads: tuple(p for p in payloads if p[4] != 5),
        lambda payloads: tuple(clock(8 * S).payload() if p[4] == 5 else p for p in payloads),
    ]
    for number, change in enumerate(changes):
        builder = forge.frames(tmp_path / f"{number}.h5")
        built = builder.close(
            leaves=lambda given: [*given[:-2], clock(7 * S), *given[-2:]],
            head=lambda head: replace(head, t_utc_ns=head.t_utc_ns + 7 * S),
            tables=lambda tables, change=change: replace(tables, leaves=change(tables.leaves)),
        )
        assert verify_segment(built.path, facility.root).level == independent(built.path, root)[0] == 0


def test_a_run_with_an_impossible_clock_is_at_most_signed(forge: Any, facility: Any, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "000123"
    folder.mkdir()
    for case, level in (("forward and told", 3), ("forward and not told", 2)):
        built = forged(forge, folder / "000123_camera_image_000001.h5", case)
        forge.sidecar(folder, [built])
        forge.receipts(folder, [built], seconds=100)
        (report,) = verify_path(folder, facility.root, judge=verify_segment)
        assert (report.level, independent(folder, root)[0]) == (level, level), report
        assert [w.split(": ")[:2] for w in report.warnings] == [["000123_camera_image_000001.h5", "clock"]] * (level == 2)
        if level == 2:
            (report,) = verify_path(folder, None, judge=verify_segment)
            assert (report.level, len(report.warnings)) == (1, 1)
        built.path.unlink()


def test_a_run_that_was_witnessed_before_its_clock_says_is_at_most_signed(forge: Any, facility: Any, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "000123"
    folder.mkdir()
    built = forged(forge, folder / "000123_camera_image_000001.h5", "forward and told")
    forge.sidecar(folder, [built])
    for seconds, level in ((1, 2), (8, 3)):
        forge.receipts(folder, [built], seconds=seconds)
        (report,) = verify_path(folder, facility.root, judge=verify_segment)
        assert (report.level, independent(folder, root)[0]) == (level, level)
        assert ["was witnessed 6.000 s before" in warning for warning in report.warnings] == [True] * (level == 2)


# ---- ROWS -----------------------------------------------------------------------------------------------------------


def early_leaf(rows_of: Any, given: Leaves, first: int = 3, n: int = 4, paths: tuple[str, ...] = ("value", "time")) -> leaf.RowsLeaf:
    """What the forge's balance signs early: two of its columns."""
    values = rows_of(20, value=np.random.default_rng(3).normal(10, 0.1, 20))
    values["valid"][:1] = 2
    values["time"][1:2] = -(2**63)
    digest = hashlib.sha256(b"".join(values[name][first : first + n].astype("<i8" if name == "time" else "<f8").tobytes() for name in paths))
    return leaf.RowsLeaf(tuple(dsds_of(given)[name] for name in paths), first, n, digest.digest())


def dsds_of(given: Leaves) -> dict[str, bytes]:
    """DSD digests of the balance's columns by name, in the order of their DATASET leaves."""
    names = ("value", "time", "time_server", "time_arrival", "valid", "status")
    return dict(zip(names, [item.dsd for item in given if isinstance(item, leaf.Dataset)], strict=False))


def before_chunks(given: Leaves, *items: Any) -> Leaves:
    at = next(n for n, item in enumerate(given) if isinstance(item, leaf.Chunk))
    return [*given[:at], *items, *given[at:]]


FAR = 1 << 30
"""A multiple of every chunk's length."""
LIES: dict[str, tuple[Callable[[Leaves, leaf.RowsLeaf], Leaves], str]] = {
    "other rows": (lambda g, r: before_chunks(g, replace(r, digest=bytes(32))), "not those that were signed before"),
    "the rows beside": (lambda g, r: before_chunks(g, replace(r, first=4)), "not those that were signed before"),
    "one row less": (lambda g, r: before_chunks(g, replace(r, n=3)), "not those that were signed before"),
    "columns swapped": (lambda g, r: before_chunks(g, replace(r, dsds=r.dsds[::-1])), "not those that were signed before"),
    "after the chunk": (lambda g, r: [*g[:-2], r, *g[-2:]], "signed after their chunk"),
    "no rows": (lambda g, r: before_chunks(g, replace(r, n=0)), "not within one chunk"),
    "before the first row": (lambda g, r: before_chunks(g, replace(r, first=-1)), "not within one chunk"),
    "over two chunks": (lambda g, r: before_chunks(g, replace(r, first=FAR - 4, n=5)), "not within one chunk"),
    "rows that never came": (lambda g, r: before_chunks(g, replace(r, first=FAR, n=5)), "has no chunk for them"),
    "no dataset": (lambda g, r: before_chunks(g, replace(r, dsds=())), "rows of no datasets"),
    "one dataset twice": (lambda g, r: before_chunks(g, replace(r, dsds=r.dsds[:1] * 2)), "rows of no datasets"),
    "an unknown dataset": (lambda g, r: before_chunks(g, replace(r, dsds=(bytes(32),))), "rows of no datasets"),
    "a dataset of a later leaf": (lambda g, r: [g[0], r, *g[1:]], "rows of no datasets"),
}


@pytest.mark.parametrize("lie", LIES)
def test_rows_that_the_chunk_does_not_reproduce_or_that_stand_elsewhere_are_damage(
    lie: str, forge: Any, facility: Any, root: Path, rows_of: Any, tmp_path: Path
) -> None:
    change, reason = LIES[lie]
    path = forge.rows(tmp_path / "a.h5").close(leaves=lambda given: change(given, early_leaf(rows_of, given))).path
    report, (level, _) = verify_segment(path, facility.root), independent(path, root)
    assert (report.level, level) == (0, 0)
    assert reason in report.reason


def test_rows_that_the_chunk_reproduces_are_signed(forge: Any, facility: Any, root: Path, rows_of: Any, tmp_path: Path) -> None:
    def with_rows(given: Leaves) -> Leaves:
        return before_chunks(given, early_leaf(rows_of, given), early_leaf(rows_of, given, 0, 20), early_leaf(rows_of, given, 7, 1, ("time",)))

    path = forge.rows(tmp_path / "a.h5").close(leaves=with_rows).path
    report, (level, sentence) = verify_segment(path, facility.root), independent(path, root)
    assert (report.level, report.reason, report.notes, level) == (2, "", (), 2)
    assert "compared" not in sentence


def test_a_rows_leaf_that_was_changed_after_signing_is_damage(forge: Any, facility: Any, root: Path, rows_of: Any, tmp_path: Path) -> None:
    path = (
        forge.rows(tmp_path / "a.h5")
        .close(
            leaves=lambda given: before_chunks(given, early_leaf(rows_of, given)),
            tables=lambda t: replace(t, leaves=tuple(p[:-1] + b"\0" if p[4] == 9 else p for p in t.leaves)),
        )
        .path
    )
    assert verify_segment(path, facility.root).level == independent(path, root)[0] == 0


def test_rows_of_a_kind_that_cannot_be_decoded_get_a_note(forge: Any, facility: Any, root: Path, tmp_path: Path) -> None:
    def frames_early(given: Leaves) -> Leaves:
        data = next(item.dsd for item in given if isinstance(item, leaf.Dataset))
        return before_chunks(given, leaf.RowsLeaf((data,), 0, 1, bytes(32)))

    path = forge.frames(tmp_path / "a.h5").close(leaves=frames_early).path
    report, (level, sentence) = verify_segment(path, facility.root), independent(path, root)
    assert (report.level, level) == (2, 2)
    assert "/entry/instrument/camera/image/data: rows signed early were not compared" in report.notes[0]
    assert "/entry/instrument/camera/image/data: rows signed early were not compared" in sentence


def test_a_chunk_that_does_not_decode_is_damage(
    forge: Any, facility: Any, rows_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forge.rows(tmp_path / "a.h5").close(leaves=lambda given: before_chunks(given, early_leaf(rows_of, given))).path

    class Refusing:
        def decode(self, *args: Any) -> bytes:
            raise CodecError("for a test")

    monkeypatch.setattr(early, "encoder", lambda name: Refusing())
    report = verify_segment(path, facility.root)
    assert report.level == 0
    assert "does not decode" in report.reason
