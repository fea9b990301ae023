"""Leaves of the agent log about keys, segments and the agent: read as written, and nothing else is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_agent.seal.cbor import SealError, dumps, loads
from edge_agent.seal.leaf import parse
from edge_agent.seal.log_leaf import (
    ClockStep,
    ConfigChange,
    Heads,
    KeyAdd,
    KeyCompromised,
    KeyRetire,
    LogRestart,
    Loss,
    Quarantine,
    SegmentOpen,
    Update,
)

D, S = b"d" * 32, b"s" * 16
LEAVES: list[tuple[Any, int, dict[int, Any]]] = [
    (KeyAdd((D, D), D, 9), 65, {1: [D, D], 2: D, 3: 9}),
    (KeyRetire((D,), "over", 9), 70, {1: [D], 2: "over", 3: 9}),
    (KeyCompromised((D,), "stolen", 9), 71, {1: [D], 2: "stolen", 3: 9}),
    (SegmentOpen(S, S, 2, "cam/image", 9), 72, {1: S, 2: S, 3: 2, 4: "cam/image", 5: 9}),
    (Heads(((S, 5, D), (S, 7, D)), 9), 73, {1: [[S, 5, D], [S, 7, D]], 2: 9}),
    (Loss("item", S, "given up", 9), 74, {1: "item", 2: S, 3: "given up", 4: 9}),
    (Loss("item", None, "given up", 9), 74, {1: "item", 2: None, 3: "given up", 4: 9}),
    (Quarantine("a.h5", S, "broken", 9), 75, {1: "a.h5", 2: S, 3: "broken", 4: 9}),
    (ClockStep(-5, 9), 76, {1: -5, 2: 9}),
    (ConfigChange(D, 9), 77, {1: D, 2: 9}),
    (Update("0.1", "0.2", 9), 78, {1: "0.1", 2: "0.2", 3: 9}),
    (LogRestart(S, 100, 9), 79, {1: S, 2: 100, 3: 9}),
]


@pytest.mark.parametrize(("leaf", "kind", "body"), LEAVES)
def test_each_leaf_has_the_number_and_the_map_of_the_page_and_is_read_as_written(leaf: Any, kind: int, body: dict[int, Any]) -> None:
    payload = leaf.payload()
    assert payload[:5] == b"HSC1" + bytes((kind,))
    assert loads(payload[5:], "x") == body
    assert parse(payload) == leaf
    assert parse(replace(leaf, t_ns=10).payload()).t_ns == 10


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (65, {1: [], 2: D, 3: 9}), (65, {1: ["x"], 2: D, 3: 9}), (65, {1: [D], 2: "x", 3: 9}), (70, {1: [5], 2: "", 3: 9}),
        (71, {1: [D], 2: 5, 3: 9}), (72, {1: S, 2: S, 3: "2", 4: "", 5: 9}), (73, {1: [[S, 5]], 2: 9}), (73, {1: [5], 2: 9}),
        (73, {1: [[S, D, 5]], 2: 9}), (73, {1: [[S, True, D]], 2: 9}), (74, {1: "x", 2: "y", 3: "", 4: 9}), (76, {1: None, 2: 9}),
        (77, {1: "x", 2: 9}), (78, {1: "x", 2: 9}), (79, {1: S, 2: None, 3: 9}), (81, {1: 9}),
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_type_is_refused(kind: int, body: dict[int, Any]) -> None:
    with pytest.raises(SealError):
        parse(b"HSC1" + bytes((kind,)) + dumps(body))
