from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from edge_agent.config import Examination, schema
from edge_agent.config.template import template, write_template
from edge_agent.errors import PermissionRefused, UsageError

REPOSITORY = Path(__file__).parents[2]
COMMENTED = re.compile(r"^# (?=\[[a-z]+\.[a-z]+\]$|[a-z_]+ = )", re.MULTILINE)
"""A key or table that is commented out."""


@pytest.fixture(params=["en", "ja"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("EDGE_AGENT_LANG", request.param)
    return template("BL05", tmp_path / "spool", tmp_path / "space")


def valid(text: str) -> None:
    jsonschema.Draft202012Validator(schema()).validate(json.loads(json.dumps(tomllib.loads(text))))


def test_the_template_passes_a_check_of_this_machine(written: str, examined: Callable[..., Examination]) -> None:
    assert examined(written, machine=True).problems == ()


def test_all_that_is_commented_out_can_be_used(written: str, examined: Callable[..., Examination]) -> None:
    whole = COMMENTED.sub("", written)
    found = examined(whole)
    assert found.problems == ()
    assert found.config is not None
    assert set(found.config.instruments) == {"balance", "furnace", "eiger", "microscope"}
    assert set(found.config.targets) == {"local", "cloud", "broker"}


def test_the_schema_takes_the_template_and_all_that_is_commented_out(written: str) -> None:
    valid(written)
    valid(COMMENTED.sub("", written))


def test_both_languages_are_one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {}
    for language in ("en", "ja"):
        monkeypatch.setenv("EDGE_AGENT_LANG", language)
        texts[language] = tomllib.loads(COMMENTED.sub("", template("BL05", Path("/a"), Path("/b"))))
    assert texts["en"] == texts["ja"]


def test_paths_are_written_as_toml_strings(examined: Callable[..., Examination]) -> None:
    found = examined(template("BL05", Path('/a "b"\\c/日本'), Path("/space")))
    assert found.config is not None
    assert found.config.spool.dir == Path('/a "b"\\c/日本')


def test_a_file_that_is_there_is_not_overwritten_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    file = tmp_path / "lab.toml"
    file.write_text("mine")
    with pytest.raises(UsageError) as caught:
        write_template(file)
    assert caught.value.code == "CFG_EXISTS"
    assert caught.value.try_ == f"choose another name, or: edge-agent init {file} --force"
    assert file.read_text() == "mine"
    write_template(file, force=True)
    assert tomllib.loads(file.read_text())["site"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PermissionRefused, match="cannot be written"):
        write_template(tmp_path / "none" / "lab.toml")


def test_every_example_of_the_project_passes_a_check(examined: Callable[..., Examination], monkeypatch: pytest.MonkeyPatch) -> None:
    for file in sorted((REPOSITORY / "config").glob("*.toml")):
        text = file.read_text(encoding="utf-8")
        assert [str(problem) for problem in examined(text).problems] == [], file.name
        valid(text)


@pytest.mark.parametrize(
    "text",
    ['site = "a"\nsit = 1\n', "site = 1\n", '[instrument.a]\nadapter = "opcua"\n', 'site = "a"\nspool = { keep_free = "20 XB" }\n',
     'site = "a"\n[instrument.a]\nadapter = "epics"\npvs = ["X"]\nnonsense = 1\n', 'site = "a"\n[target.b]\nrequired = true\n',
     'site = "a"\n[target.b]\nmqtt = "mqtts://b"\npassword = "x"\n'],
)  # fmt: skip
def test_the_schema_refuses_what_a_check_refuses(text: str, examined: Callable[..., Examination]) -> None:
    assert examined(text).config is None
    with pytest.raises(jsonschema.ValidationError):
        valid(text)


def test_the_schema_is_one_of_its_dialect_and_describes_every_key() -> None:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    for table in (made, *made["$defs"].values()):
        for key, described in table.get("properties", {}).items():
            assert "description" in described, key
    assert made["$defs"]["Instrument"]["properties"]["look_back"]["default"] == "2 s"


def test_every_default_is_written_as_its_key_is() -> None:
    made = schema()
    instrument = made["$defs"]["Instrument"]
    tables = [made, *made["$defs"].values(), *(branch["then"] for branch in instrument["allOf"])]
    defaults = [key for table in tables for key in table.get("properties", {}).values() if "default" in key]
    assert len(defaults) > 20
    for key in defaults:
        jsonschema.Draft202012Validator({**key, "$defs": made["$defs"]}).validate(key["default"])
