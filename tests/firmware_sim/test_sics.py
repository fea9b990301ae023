from __future__ import annotations

import itertools
import re

import numpy as np

from firmware_sim.sics import Interpreter, Load


def test_every_weight_is_what_its_line_says_and_differs_from_the_one_before() -> None:
    load = Load(np.random.default_rng(3))
    weights = [load.weigh() for _ in range(2000)]
    for weight in weights:
        assert len(weight.line) == 16
        assert re.fullmatch(r"S [SD] +-?\d+\.\d{4} g", weight.line)
        assert float(weight.line.split()[2]) == weight.grams
    assert all(a.grams != b.grams for a, b in itertools.pairwise(weights))
    assert {weight.line[2] for weight in weights} == {"S", "D"}
    assert load.weigh(stable=True).line.startswith("S S ")


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, other = (Load(np.random.default_rng(seed)) for seed in (5, 5, 6))
    lines = [one.weigh().line for _ in range(50)]
    assert lines == [two.weigh().line for _ in range(50)]
    assert lines != [other.weigh().line for _ in range(50)]


def test_tare_and_zero_move_the_zero_point() -> None:
    load = Load(np.random.default_rng(1))
    sics = Interpreter(load, "XSR204", "B1")
    assert sics.answer("T") == "T S   100.0000 g"
    assert abs(load.weigh().grams) < 0.01
    assert sics.answer("Z") == "Z A"
    assert abs(load.weigh().grams) < 0.01


def test_inquiries_are_answered_and_nonsense_is_a_syntax_error() -> None:
    sics = Interpreter(Load(np.random.default_rng(1)), "XSR204", "B123")
    assert sics.answer("@") == sics.answer("I4") == 'I4 A "B123"'
    assert sics.answer("I2") == 'I2 A "XSR204 220.0000 g"'
    assert sics.answer("si") == sics.answer("\x00\x7f") == sics.answer("SIR 5") == "ES"


def test_any_other_command_ends_continuous_sending() -> None:
    sics = Interpreter(Load(np.random.default_rng(1)), "XSR204", "B123")
    for command in ("@", "I4", "Z", "T", "rubbish"):
        sics.continuous = True
        sics.answer(command)
        assert not sics.continuous
