"""Whatever stands in the file, the loader answers with a configuration or with `InvalidConfig`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.config import InvalidConfig, load
from edge_agent.config.loading import examine_text

PIECES = st.sampled_from(
    ["[", "]", "[[", "=", ".", '"', "'", '"""', "\n", "{", "}", ",", "#", "\\u0000", "\\", "1e999", "nan", "-0", "0x", "true",
     "1979-05-27", "site", "instrument", "target", "[instrument.x]\n", "settings = {}\n", "adapter = 5\n",
     "[target]\n", "instrument = 1\n", "adapter = []\n",
     "[[instrument.a]]\n", "[target.nas.folder]\n", "spool.dir.x = 1\n", "\0", "日本", "\U0001f600", "99999999999999999999999", "\r", "\t"]
)  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[int, int, str]]:
    step = st.tuples(st.integers(0, 1200), st.integers(0, 40), st.one_of(PIECES, st.text(max_size=5)))
    return draw(st.lists(step, min_size=1, max_size=6))


def mutated(text: str, steps: list[tuple[int, int, str]]) -> str:
    for at, cut, put in steps:
        at %= len(text) + 1
        text = text[:at] + put + text[at + cut :]
    return text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=mutations())
def test_a_mutated_configuration_is_loaded_or_refused_with_places(example: str, steps: list[tuple[int, int, str]]) -> None:
    text = mutated(example, steps)
    found = examine_text(text.encode(errors="replace").decode(), "lab.toml")
    lines = text.count("\n") + 1
    assert (found.config is None) == bool(found.errors)
    for problem in found.problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.message
        assert problem.code.startswith("CFG_")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_loaded_or_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "lab.toml"
    file.write_bytes(data)
    with contextlib.suppress(InvalidConfig):
        load(file)


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.sampled_from(["", "x", "2 s", "20 GB", "closed", "opcua", "/p"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["file", "env", "a", "name", "dir"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return str(value).replace("e+", "e")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=VALUES, line=st.integers(0, 60))
def test_any_value_of_any_key_is_accepted_or_refused(example: str, value: object, line: int) -> None:
    lines = example.splitlines()
    keyed = [index for index, text in enumerate(lines) if " = " in text]
    index = keyed[line % len(keyed)]
    lines[index] = lines[index].split(" = ", 1)[0] + " = " + toml(value)
    found = examine_text("\n".join(lines), "lab.toml")
    assert (found.config is None) == bool(found.errors)


@pytest.mark.parametrize(
    "text",
    ["instrument = 1", "target = []", "[instrument]\na = 1", "[[instrument]]", "[[instrument.a]]\nadapter = 'epics'", "instrument.a = []",
     "[instrument.a]\nadapter = 'epics'\nsettings = 1", "[target.a]\nfolder = {}", "site = {file = 'x'}", "[spool]\ndir = 'a'\n[[spool]]",
     "[instrument.a]\nadapter = 'epics'\n'__class__' = 1", "'' = 1", "timezone = ''", "spool = {dir = ''}", "spool = {dir = 'a\\u0000'}"],
)  # fmt: skip
def test_crooked_shapes_are_refused_in_words(text: str) -> None:
    found = examine_text(text.replace("'", '"'), "lab.toml")
    assert found.config is None
    assert all("Traceback" not in problem.message for problem in found.problems)
