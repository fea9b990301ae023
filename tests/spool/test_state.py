from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.spool import Spool


def test_run_numbers_rise_by_exactly_one_over_restarts(tmp_path: Path) -> None:
    given_out = []
    for _ in range(3):
        spool = Spool(tmp_path / "spool")
        given_out += [spool.state.next_run_no(), spool.state.next_run_no()]
        spool.close()
    assert given_out == [1, 2, 3, 4, 5, 6]


def test_a_number_seen_elsewhere_is_never_given_out_again(spool: Spool) -> None:
    spool.state.raise_run_no(41)
    spool.state.raise_run_no(7)
    assert spool.state.last_run_no() == 41
    assert spool.state.next_run_no() == 42


def test_an_adopted_file_is_known_by_stream_name_size_and_time(spool: Spool) -> None:
    spool.state.remember_adopted("xrd/files", "a/スキャン.xy", 10, 99)
    spool.state.remember_adopted("xrd/files", "a/スキャン.xy", 10, 99)
    assert spool.state.is_adopted("xrd/files", "a/スキャン.xy", 10, 99)
    for other in (("sem/files", "a/スキャン.xy", 10, 99), ("xrd/files", "b", 10, 99), ("xrd/files", "a/スキャン.xy", 11, 99)):
        assert not spool.state.is_adopted(*other)


def test_counters_of_64_bits_survive(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.state.remember_seq({"cam/frames": 2**64 - 2, "adc/rows": 0})
    spool.state.remember_seq({"adc/rows": 5})
    spool.close()
    again = Spool(tmp_path / "spool")
    assert again.state.last_seqs() == {"cam/frames": 2**64 - 2, "adc/rows": 5}
    again.close()


def test_pairs_can_be_put_read_listed_and_deleted(spool: Spool) -> None:
    spool.state.put("session/a_%", b"\0\xff")
    spool.state.put("session/b", b"2")
    spool.state.put("sessions", b"no")
    assert spool.state.get("session/a_%") == b"\0\xff"
    assert spool.state.get("nothing") is None
    assert spool.state.under("session/") == {"session/a_%": b"\0\xff", "session/b": b"2"}
    spool.state.delete("session/b")
    spool.state.delete("session/b")
    assert list(spool.state.under("session/")) == ["session/a_%"]


@pytest.mark.parametrize("key", ["", "'; DROP TABLE pairs; --", "日本語", "%"])
def test_any_text_is_a_key(spool: Spool, key: str) -> None:
    spool.state.put(key, b"v")
    assert spool.state.get(key) == b"v"
    assert spool.state.under(key) == {key: b"v"}
