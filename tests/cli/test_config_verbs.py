from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

GOOD = 'site = "BL05"\nspool = { dir = "spool" }\n[instrument.a]\nadapter = "epics"\npvs = ["X"]\n[target.b]\nfolder = "space"\n'


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; configurations are named without it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("EDGE_AGENT_CONFIG", raising=False)
    return tmp_path


def test_init_writes_what_check_finds_right(lab: Path, run: Run) -> None:
    done = run("init", "lab.toml")
    assert done.code == 0
    assert done.out.startswith("lab.toml is written; data will wait in ")
    assert done.out.endswith("Next: edit it, then  edge-agent check lab.toml\n")
    done = run("check", "lab.toml")
    assert (done.code, done.out) == (0, "lab.toml is right.\n")


def test_init_overwrites_nothing_unless_forced(lab: Path, run: Run) -> None:
    (lab / "edge-agent.toml").write_text("mine")
    done = run("init")
    assert done.code == 2
    assert done.err == ("Error: edge-agent.toml is there already.\nTry: choose another name, or: edge-agent init edge-agent.toml --force\n")
    assert (lab / "edge-agent.toml").read_text() == "mine"
    assert json.loads(run("init", "--force", "--json").out)["file"] == "edge-agent.toml"
    assert tomllib.loads((lab / "edge-agent.toml").read_text())["access"] == "closed"


def test_init_speaks_japanese(lab: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja_JP.UTF-8")
    assert "書き出しました" in run("init").out
    assert "# 何が届くかを、保存せずに見るには" in (lab / "edge-agent.toml").read_text()


def test_check_prints_each_mistake_and_then_one_sentence(lab: Path, run: Run) -> None:
    (lab / "lab.toml").write_text(GOOD.replace("folder", "foldr") + 'requird = "yes"\n')
    done = run("check", "lab.toml")
    assert done.code == 3
    assert done.out == (
        'lab.toml:6:1: target.b: needs one of landing = "https://...", mqtt = "mqtts://...", s3 = "https://...", grdm = "https://..." or folder = "/path"\n'
        "lab.toml has one mistake; an agent would not start with it.\n"
    )
    (lab / "lab.toml").write_text(GOOD.replace("site", "stie") + 'requird = "yes"\n')
    assert run("check", "lab.toml").out == (
        'lab.toml:1:1: stie: unknown key (did you mean "site"?)\n'
        'lab.toml:8:1: target.b.requird: unknown key (did you mean "required"?)\n'
        "lab.toml has 2 mistakes; an agent would not start with it.\n"
    )


def test_check_as_json_has_every_part_of_a_problem(lab: Path, run: Run) -> None:
    (lab / "lab.toml").write_text(GOOD.replace("site", "stie"))
    done = run("check", "lab.toml", "--json")
    assert done.code == 3
    assert json.loads(done.out) == {
        "ok": False,
        "file": "lab.toml",
        "problems": [
            {"file": "lab.toml", "line": 1, "column": 1, "key": "stie", "message": "unknown key", "code": "CFG_UNKNOWN_KEY",
             "nearest": "site", "level": "error"},
        ],
    }  # fmt: skip


def test_warnings_do_not_fail_a_check(lab: Path, run: Run) -> None:
    (lab / "lab.toml").write_text(GOOD.split("[target")[0])
    done = run("check", "lab.toml")
    assert done.code == 0
    assert done.out == (
        "lab.toml:1:1: warning: there is no [target.NAME]: data stays in the spool until the disk is full\n"
        "lab.toml can be used; mind the warning.\n"
    )


def test_check_speaks_japanese(lab: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    (lab / "lab.toml").write_text(GOOD.replace("site", "stie").replace('"X"', "5"))
    assert run("check", "lab.toml").out == (
        "lab.toml:1:1: stie: このキーはありません（もしかして: site）\n"
        "lab.toml:5:8: instrument.a.pvs[0]: 引用符で囲んだ文字列を書いてください（今は数値です）、"
        "または表を書いてください（今は数値です）\n"
        "lab.toml に誤りが 2 件あります。このままではエージェントは起動しません。\n"
    )


def test_check_finds_the_configuration_that_is_here(lab: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("check")
    assert done.code == 2
    assert done.err == (
        "Error: No configuration was given.\n  looked for edge-agent.toml, /etc/edge-agent/edge-agent.toml\n"
        "Try: name it with --config FILE, or write one with: edge-agent init\n"
    )
    (lab / "edge-agent.toml").write_text(GOOD)
    assert run("check").out == "edge-agent.toml is right.\n"
    (lab / "other.toml").write_text(GOOD)
    monkeypatch.setenv("EDGE_AGENT_CONFIG", "other.toml")
    assert run("check").out == "other.toml is right.\n"


def test_schema_is_json(run: Run) -> None:
    for arguments in (("schema",), ("schema", "--json")):
        assert json.loads(run(*arguments).out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_third_partys_adapter_is_checked_and_is_in_the_schema(lab: Path, start: Run) -> None:
    (lab / "lab.toml").write_text('site = "a"\n[instrument.c]\n\nadapter = "counter"\nevry = 1\n[target.b]\nfolder = "x"\n')
    done = start("check", "lab.toml")
    assert done.code == 3
    assert done.out.splitlines()[0] == 'lab.toml:5:1: instrument.c.evry: unknown key (did you mean "every"?)'
    branches = json.loads(start("schema").out)["$defs"]["Instrument"]["allOf"]
    [counter] = [branch["then"] for branch in branches if branch["if"]["properties"]["adapter"]["const"] == "counter"]
    assert counter["properties"]["every"]["description"] == "Seconds between two numbers."


def test_an_adapter_that_cannot_be_loaded_says_why(lab: Path, start: Run) -> None:
    (lab / "lab.toml").write_text('site = "a"\nspool.dir = "s"\n[instrument.c]\nadapter = "broken"\n[target.b]\nfolder = "x"\n')
    done = start("check", "lab.toml")
    assert done.code == 3
    assert done.out.splitlines()[0] == (
        'lab.toml:4:11: instrument.c.adapter: The adapter "broken" cannot be loaded. '
        "AttributeError: module 'counter_adapter' has no attribute 'Gone'"
    )
