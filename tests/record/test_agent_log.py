"""The agent log: what was appended stays, whatever crashes and disks do, and its proofs hold for a stranger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import DiskError, IntegrityError
from edge_agent.record import journal
from edge_agent.record.agent_log import AgentLog
from edge_agent.record.session import Session
from edge_agent.seal import cose
from edge_agent.seal.leaf import Boot, RunOpen, SegmentClose
from edge_agent.seal.tree import check_consistency, check_inclusion, leaf_hash, root_of


def run_open(number: int) -> RunOpen:
    return RunOpen(number, number.to_bytes(16, "big"), bytes(32), 1_700_000_000 + number)


@pytest.fixture
def session(facility: Any) -> Session:
    return facility.boot()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "agent.log"


@pytest.fixture
def log(path: Path, session: Session, kit: Any) -> Iterator[AgentLog]:
    opened = AgentLog(path, session, kit.DISK)
    yield opened
    opened.close()


def test_leaves_survive_a_restart_and_the_log_goes_on(log: AgentLog, path: Path, facility: Any, kit: Any) -> None:
    assert [log.append(run_open(n)) for n in range(5)] == [0, 1, 2, 3, 4]
    head = log.head()
    log.append(run_open(5))
    log.close()
    log.close()
    again = AgentLog(path, facility.boot(), kit.DISK)
    assert (again.size, again.log_id) == (6, log.log_id)
    assert again.append(run_open(6)) == 6
    later = again.head()
    assert later.head.previous == head.hash
    assert later.head.head_seq == head.head.head_seq + 1
    assert (later.head.size, later.head.root) == (7, root_of([leaf_hash(run_open(n).payload()) for n in range(7)]))
    again.close()


def test_proofs_hold_for_a_stranger(log: AgentLog) -> None:
    sizes, roots = [], []
    for number in range(13):
        log.append(run_open(number))
        head = log.head()
        assert cose.parse_all(head.cose).content_type == cose.HEAD
        sizes.append(head.head.size)
        roots.append(head.head.root)
    for first, first_root in zip(sizes, roots, strict=True):
        for second, second_root in zip(sizes, roots, strict=True):
            if first <= second:
                assert check_consistency(first, first_root, second, second_root, log.consistency(first, second))
    assert log.consistency(0, 5) == []
    for index in range(13):
        proof = log.inclusion(index, 13)
        assert proof.log_id == log.log_id
        assert check_inclusion(leaf_hash(proof.payload), proof.index, proof.size, proof.proof, roots[-1])


def test_the_leaf_of_a_segment_is_found_by_its_head(log: AgentLog, path: Path, facility: Any, kit: Any) -> None:
    log.append(Boot(b"a" * 16, b"b" * 16, "1", 0))
    for number in range(3):
        log.append(SegmentClose(bytes([number]) * 16, bytes([number]) * 32, b"r" * 16, number, 0))
    assert log.segment_close(b"\1" * 16, b"\1" * 32) == 2
    assert log.segment_close(b"\1" * 16, b"\2" * 32) is None
    log.close()
    again = AgentLog(path, facility.boot(), kit.DISK)
    assert again.segment_close(b"\2" * 16, b"\2" * 32) == 3
    again.close()


def test_a_tail_torn_at_any_byte_is_cut_off_and_nothing_before_it(log: AgentLog, path: Path, session: Session, kit: Any) -> None:
    for number in range(3):
        log.append(run_open(number))
    log.close()
    data = path.read_bytes()
    before = len(data) - len(journal.leaf_frame(0, run_open(2).payload()))
    for cut in range(before, len(data)):
        path.write_bytes(data[:cut])
        torn = AgentLog(path, session, kit.DISK)
        assert (torn.size, path.stat().st_size) == (2, before)
        torn.append(run_open(2))
        torn.close()
        assert path.read_bytes() == data


def test_damage_before_the_end_is_told_and_nothing_is_cut(log: AgentLog, path: Path, session: Session, kit: Any) -> None:
    for number in range(3):
        log.append(run_open(number))
    log.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"agent\.log is damaged") as failure:
        AgentLog(path, session, kit.DISK)
    assert "more was written behind it" in failure.value.why
    assert failure.value.code == "LOG_DAMAGED"
    assert path.read_bytes() == data


@pytest.mark.parametrize("content", [b"", b"something else", journal.frame(journal.Frame.CLOSE)])
def test_a_file_that_is_no_log_is_refused_and_left_alone(path: Path, session: Session, kit: Any, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="is not the log of this agent") as failure:
        AgentLog(path, session, kit.DISK)
    assert "enrol again" in failure.value.try_
    assert path.read_bytes() == content


def test_the_log_of_another_agent_is_refused(log: AgentLog, path: Path, kit: Any) -> None:
    with pytest.raises(IntegrityError, match="is not the log of this agent"):
        AgentLog(path, kit.Facility().boot(), kit.DISK)


@pytest.mark.parametrize("kind", ["open_append", "write", "sync_data", "rename", "sync_folder"])
def test_a_log_that_could_not_be_begun_is_begun_at_the_next_try(path: Path, session: Session, kit: Any, kind: str) -> None:
    with pytest.raises(DiskError):
        AgentLog(path, session, kit.Faulty(kind, 1))
    log = AgentLog(path, session, kit.DISK)
    assert log.append(run_open(0)) == 0
    log.close()


@pytest.mark.parametrize("kind", ["write", "sync_data"])
def test_a_disk_that_refuses_leaves_the_log_as_it_was(path: Path, session: Session, kit: Any, kind: str) -> None:
    disk = kit.Faulty()
    log = AgentLog(path, session, disk)
    log.append(run_open(0))
    first = log.head()
    for what in (lambda: log.append(run_open(1)), log.head):
        disk.kind, disk.at, disk.times = kind, disk.calls[kind] + 1, 1
        with pytest.raises(DiskError):
            what()
        assert log.size == 1
    assert log.append(run_open(1)) == 1
    second = log.head()
    assert second.head.previous == first.hash, "a head that nobody saw is not followed"
    log.close()
    again = AgentLog(path, session, kit.DISK)
    assert again.size == 2
    assert check_consistency(1, first.head.root, 2, second.head.root, again.consistency(1, 2))
    again.close()


def test_half_a_frame_that_could_not_be_taken_back_is_gone_before_the_next_one(
    path: Path, session: Session, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = kit.Faulty("write", 2)
    log = AgentLog(path, session, disk)

    def no_cut(fd: int, size: int) -> None:
        raise kit.disk_error("shortening a file", OSError(5, os.strerror(5)))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "cut", no_cut)
        with pytest.raises(DiskError):
            log.append(run_open(0))
        with pytest.raises(DiskError):
            log.append(run_open(0))
    log.append(run_open(0))
    log.append(run_open(1))
    log.close()
    again = AgentLog(path, session, kit.DISK)
    assert again.size == 2
    again.close()
