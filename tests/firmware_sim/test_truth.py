from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from firmware_sim.truth import TruthError, TruthWriter, read_truth


def write(path: Path) -> TruthWriter:
    return TruthWriter("balance", "serial", 7, {"mass": "g"}, path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    writer = write(path)
    writer.initial("mass", 1000, 1.0)
    assert writer.item("mass", 2000, v=1.5) == 1
    assert writer.item("mass", 3000, v=True) == 2
    assert writer.item("image", 4000, sha256="ab", shape=(2, 3), dtype="uint16", unique_id=9) == 1
    writer.item("image", 5000, sha256="cd", shape=(2, 3), dtype="uint16", unique_id=10, dropped=True)
    writer.item("files", 6000, path="a/b.csv", size=0, sha256="ef")
    writer.fault("garbage", 0.5, "16", hex="80ff")
    writer.end()
    truth = read_truth(path)
    assert truth.complete
    assert (truth.header.device, truth.header.protocol, truth.header.seed, truth.header.units) == ("balance", "serial", 7, {"mass": "g"})
    assert truth.sent == {"mass": 2, "image": 1, "files": 1}
    assert truth.dropped == {"image": 1}
    assert [item.v for item in truth.of("mass")] == [1.5, True]
    assert truth.of("image")[0].shape == (2, 3)
    assert [item.unique_id for item in truth.of("image", dropped=True)] == [9, 10]
    assert truth.of("files")[0].size == 0
    assert [item.stream for item in truth.initial] == ["mass"]
    assert truth.initial_of("image") is None
    assert (truth.faults[0].kind, truth.faults[0].arg, truth.faults[0].details) == ("garbage", "16", {"hex": "80ff"})
    assert truth.streams == ("files", "image", "mass")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_that_json_cannot_carry_stays_strict_json_and_comes_back(tmp_path: Path, value: float) -> None:
    path = tmp_path / "t.jsonl"
    writer = write(path)
    writer.item("mass", 1000, v=value)
    writer.end()
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert str(read_truth(path).of("mass")[0].v) == str(value)


def test_times_strictly_increase_in_whole_microseconds(tmp_path: Path) -> None:
    writer = write(tmp_path / "t.jsonl")
    times = [writer.now() for _ in range(1000)]
    writer.end()
    assert all(t % 1000 == 0 for t in times)
    assert all(a < b for a, b in itertools.pairwise(times))


def test_a_killed_writer_leaves_a_readable_incomplete_file(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    writer = write(path)
    writer.item("mass", 1000, v=1.0)
    writer.item("mass", 2000, v=2.0)
    whole = path.read_bytes()
    writer.end()
    path.write_bytes(whole[:-5])
    truth = read_truth(path)
    assert not truth.complete
    assert truth.sent == {"mass": 1}


def test_nothing_can_be_sent_after_the_end(tmp_path: Path) -> None:
    writer = write(tmp_path / "t.jsonl")
    writer.end()
    writer.end()
    with pytest.raises(RuntimeError, match="after the end line"):
        writer.item("mass", 1000, v=1.0)


FIRST = '{"truth": 1, "device": "b", "protocol": "serial", "seed": 1, "units": {}, "started_ns": 1}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty, so not a truth file"),
        ("[1]\n", "line 1: not a JSON object"),
        ("hello\n", "line 1: not JSON"),
        ('{"truth": 2}\n', "line 1: not a line of a truth file of version 1"),
        ('{"stream": "mass", "n": 1, "t": 1}\n', "line 1: not a line of a truth file"),
        (FIRST + '{"stream": "mass", "n": 1, "t": 1, "colour": "red"}\n', "line 2: not a line of a truth file"),
        (FIRST + '{"stream": "mass", "n": 1}\n', "line 2: not a line of a truth file"),
        (FIRST + '{"end": true, "sent": {"mass": 1}, "dropped": {}}\n', "the end line says"),
        (FIRST + '{"end": true, "sent": {}, "dropped": {}}\n{"stream": "mass", "n": 1, "t": 1}\n', "line 3: something follows the end"),
        (FIRST + '\x00\xff{"stream"\n', "line 2: not JSON"),
    ],
)
def test_a_file_that_is_no_truth_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TruthError, match=message) as caught:
        read_truth(path)
    assert str(path) in str(caught.value)
