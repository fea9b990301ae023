"""The journal: what is written is read, and what a crash or the medium breaks is never read as something else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.record import journal
from edge_agent.record.journal import Frame, LeafFrame, Opening, RowsFrame, TableFrame

ENTRIES = st.one_of(
    st.builds(Opening, st.text(max_size=20), st.binary(max_size=40)),
    st.builds(LeafFrame, st.integers(0, 2**64 - 1), st.binary(max_size=60)),
    st.builds(RowsFrame, st.integers(0, 65535), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=60)),
    st.lists(st.tuples(st.text(min_size=1, max_size=8), st.sampled_from(["<f8", "|S3"]), st.just((2,))), min_size=1, max_size=3).map(
        lambda columns: TableFrame(3, *(tuple(c[i] for c in columns) for i in range(3)), 1024, "none", "a/b")
    ),
    st.tuples(st.sampled_from([Frame.DSD, Frame.SKELETON, Frame.HEAD, Frame.CLOSE]), st.binary(max_size=60)),
)


def encoded(entry: journal.Entry) -> bytes:
    if isinstance(entry, LeafFrame):
        return journal.leaf_frame(entry.offset, entry.payload)
    if isinstance(entry, RowsFrame):
        return journal.rows_frame(entry.number, entry.first, entry.n, [entry.columns[:5], memoryview(entry.columns[5:])])
    if isinstance(entry, tuple):
        return journal.frame(*entry)
    return entry.frame()


@given(st.lists(ENTRIES, max_size=8))
def test_what_is_written_is_read(entries: list[journal.Entry]) -> None:
    data = b"".join(map(encoded, entries))
    assert list(journal.scan(data)) == entries
    assert [end for _, end in journal.entries(data)][-1:] == ([len(data)] if entries else [])


@settings(max_examples=30)
@given(st.lists(ENTRIES, min_size=1, max_size=4))
def test_a_journal_torn_at_any_byte_reads_as_a_prefix(entries: list[journal.Entry]) -> None:
    frames = [encoded(entry) for entry in entries]
    data = b"".join(frames)
    for cut in range(len(data) + 1):
        whole = [n for n in range(len(frames) + 1) if sum(map(len, frames[:n])) <= cut][-1]
        assert list(journal.scan(data[:cut])) == entries[:whole]


@given(st.lists(ENTRIES, min_size=1, max_size=3), st.data())
def test_a_flipped_byte_ends_the_journal_and_changes_nothing_before_it(entries: list[journal.Entry], data: Any) -> None:
    frames = [encoded(entry) for entry in entries]
    broken = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(broken) - 1))
    broken[at] ^= data.draw(st.integers(1, 255))
    hit = [n for n in range(len(frames)) if sum(map(len, frames[:n])) <= at][-1]
    assert list(journal.scan(bytes(broken))) == entries[:hit]


@given(st.lists(ENTRIES, min_size=2, max_size=4), st.data())
def test_whole_frames_behind_a_damaged_one_are_found(entries: list[journal.Entry], data: Any) -> None:
    frames = [encoded(entry) for entry in entries]
    broken = bytearray(b"".join(frames))
    broken[data.draw(st.integers(0, len(frames[0]) - 1))] ^= 1
    found = list(journal.beyond(bytes(broken), 0))
    assert found[-len(entries) + 1 :] == entries[1:]


@pytest.mark.parametrize("kind", [0, 9, 255])
def test_a_frame_of_a_type_that_nobody_knows_ends_the_journal(kind: int) -> None:
    data = bytearray(journal.frame(Frame.HEAD, b"x"))
    data[4] = kind
    data[-4:] = journal.google_crc32c.value(bytes(data[4:-4])).to_bytes(4, "big")
    assert list(journal.scan(bytes(data))) == []


@pytest.mark.parametrize("kind", [Frame.OPEN, Frame.TABLE, Frame.ROWS, Frame.LEAF])
@given(body=st.binary(max_size=40))
def test_a_body_that_is_no_such_frame_ends_the_journal_without_an_error(kind: Frame, body: bytes) -> None:
    assert len(list(journal.scan(journal.frame(kind, body) + journal.frame(Frame.CLOSE)))) in (0, 2)
