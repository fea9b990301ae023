"""Rows that no chunk holds yet are signed once a minute, and the chunk that holds them later must hold the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_agent.record import journal, segment_writer
from edge_agent.record.journal import LeafFrame, RowsFrame
from edge_agent.record.remains import Damaged
from edge_agent.record.segment_writer import JOURNAL
from edge_agent.seal import leaf
from edge_agent.segment.layout import ROW_CHUNK


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_writer, "ANCHOR_S", 0.0)


def anchored(run: Any) -> None:
    """What a tick does between two commits; a head that is still to be signed is signed by the first."""
    for series in run.recording.series():
        segment = series.segment
        with segment.committing:
            segment.commit()
        run.recorder.call(series.tick).result(20)
        with segment.committing:
            segment.commit()


def early(kit: Any, closed: Any) -> list[tuple[int, int, int]]:
    """Number of columns, first row and number of rows of each ROWS leaf."""
    return [(len(item.dsds), item.first, item.n) for item in kit.leaves_of(closed) if isinstance(item, leaf.RowsLeaf)]


def test_each_row_is_signed_early_once_and_only_while_its_chunk_is_open(rig: Any, kit: Any, facility: Any, tmp_path: Path) -> None:
    run = rig()
    mass = run.recording.rows(kit.BALANCE)
    for first, n in ((0, 10), (10, 5), (15, ROW_CHUNK + 76)):
        mass.put_now(kit.rows(first, n))
        run.durable()
        anchored(run)
        anchored(run)
    mass.put_now(kit.rows(ROW_CHUNK + 91, 3))
    (closed,) = run.close()
    assert early(kit, closed) == [(6, 0, 10), (6, 10, 5), (6, ROW_CHUNK, 91)]
    kit.check_signed([closed], facility)
    kit.independent_verifier([closed.path], facility.pem(tmp_path))
    assert len(kit.recorded_rows([closed])) == ROW_CHUNK + 94


def test_the_companions_of_frames_are_signed_early_too(rig: Any, kit: Any, facility: Any, tmp_path: Path) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    for number in (1, 2, 3):
        frames.offer(kit.frame(number))
        run.durable()
        anchored(run)
    (closed,) = run.close()
    assert [(first, n) for _, first, n in early(kit, closed)] == [(0, 1), (1, 1), (2, 1)]
    kit.check_signed([closed], facility)
    kit.independent_verifier([closed.path], facility.pem(tmp_path))


def test_an_anchor_head_covers_the_early_rows_and_nothing_is_signed_when_nothing_came(rig: Any, kit: Any) -> None:
    run = rig()
    run.recording.rows(kit.BALANCE).put_now(kit.rows(0, 4))
    run.durable()
    anchored(run)
    (series,) = run.recording.series()
    tree = series.segment.tree
    assert leaf.parse(tree.payloads[tree.anchors[-1].head.size - 1]).TYPE == leaf.RowsLeaf.TYPE
    heads, size = tree.head_seq, tree.frontier.size
    anchored(run)
    assert (tree.head_seq, tree.frontier.size) == (heads, size)


def crashed(run: Any, kit: Any, to: Path) -> Path:
    run.recording.rows(kit.BALANCE).put_now(kit.rows(0, 30))
    run.durable()
    anchored(run)
    (series,) = run.recording.series()
    with series.segment.committing:
        series.segment.commit()
        return shutil.copytree(run.folder, to)


@pytest.mark.parametrize(("own_streams", "columns"), [(256, 6), (0, 7)], ids=["own group", "shared table"])
def test_recovery_keeps_what_was_signed_early(rig: Any, kit: Any, facility: Any, tmp_path: Path, own_streams: int, columns: int) -> None:
    run = rig()
    run.recording.own_streams = own_streams
    folder = crashed(run, kit, tmp_path / "crashed")
    (closed,) = kit.recover_all(folder, facility, run.session.chain)
    assert early(kit, closed) == [(columns, 0, 30)]
    kit.check_signed([closed], facility)
    kit.independent_verifier([closed.path], facility.pem(tmp_path))


@pytest.mark.parametrize("change", ["a value", "fewer rows"])
def test_a_journal_with_other_rows_than_were_signed_is_damaged(change: str, rig: Any, kit: Any, facility: Any, tmp_path: Path) -> None:
    run = rig()
    folder = crashed(run, kit, tmp_path / "crashed")
    (path,) = folder.glob(f"*{JOURNAL}")
    data, written, start = path.read_bytes(), bytearray(), 0
    for entry, end in journal.entries(data):
        if isinstance(entry, RowsFrame):
            n = entry.n if change == "a value" else entry.n - 1
            columns = bytes((entry.columns[0] ^ 1,)) + entry.columns[1 : len(entry.columns) // entry.n * n]
            written += journal.rows_frame(entry.number, entry.first, n, [columns])
        else:
            written += data[start:end]
        start = end
    path.write_bytes(written)
    assert any(isinstance(entry, LeafFrame) for entry in journal.scan(bytes(written)))
    with pytest.raises(Damaged, match="rows 0 to 29 of /entry/instrument/balance/mass/value are not those that were signed"):
        kit.recover_all(folder, facility, run.session.chain)
