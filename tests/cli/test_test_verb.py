from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.launch import Device

Run = Callable[..., Any]


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.toml").write_text(
        'site = "a"\nspool.dir = "spool"\n[target.b]\nfolder = "x"\n[instrument.counter]\nadapter = "counter"\n'
        '[instrument.dead]\nadapter = "counter"\nunplugged = true\n[instrument.weak]\nadapter = "counter"\nbreaks = true\n'
    )
    return tmp_path


@pytest.fixture
def furnace(tmp_path: Path) -> Iterator[Path]:
    with Device("furnace") as device:
        file = tmp_path / "lab.toml"
        nodes = [device.ready["nodes"]["Temperature"], device.ready["nodes"]["Step"]]
        endpoint = device.ready["endpoint"]
        file.write_text(
            f'site = "a"\n[target.b]\nfolder = "x"\n[instrument.furnace]\nadapter = "opcua"\nendpoint = "{endpoint}"\nnodes = {nodes}\n'
        )
        yield file


def test_a_test_shows_what_arrives_and_stores_nothing(counter: Path, start: Run) -> None:
    before = sorted(counter.iterdir())
    done = start("test", "counter", "--config", "lab.toml", "--seconds", "0.5")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "counter would capture 2 streams: numbers, images."
    assert lines[1].split() == "stream arrived per second per hour last value unit time read by missing".split()
    images, numbers, papers = (line.split() for line in lines[2:5])
    assert images[0] == "images"
    assert "2×3" in images
    assert images[-1] == "source"
    assert numbers[0] == "numbers"
    assert "mm" in numbers
    assert "22:13:20.000Z" in numbers
    assert numbers[-4:] == ["3", "in", "1", "gaps"]
    assert "a.txt" in papers
    assert lines[5] == "counter://2 does not answer: no such counter"
    assert lines[6].endswith(" items arrived in 0.5 s; nothing was stored.")
    assert sorted(counter.iterdir()) == before


def test_a_test_as_json_is_one_object(counter: Path, start: Run) -> None:
    done = start("test", "counter", "--config", "lab.toml", "--seconds", "0.5", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    streams = {stream["name"]: stream for stream in said["streams"]}
    numbers = streams["numbers"]
    assert numbers["unit"] == "mm"
    assert numbers["count"] > 3
    assert numbers["rate"] > 3
    assert (numbers["t_ns"], numbers["t_origin"]) == (1_700_000_000_000_000_000, "source")
    assert (numbers["gaps"], numbers["lost"]) == (1, 3)
    assert streams["images"]["shape"] == [2, 3]
    assert streams["papers"]["last"] == "a.txt"
    assert said["sources"] == {"counter://1": "", "counter://2": "no such counter"}
    assert said["facts"] == {"maker": "Counters Inc."}


def test_an_instrument_that_does_not_answer_ends_with_code_4(counter: Path, start: Run) -> None:
    done = start("test", "dead", "--config", "lab.toml")
    assert done.code == 4
    assert done.err.endswith("Error: The counter does not answer.\n  asked 1 time\nTry: plug it in\n")


def test_an_instrument_that_fails_while_it_runs_ends_with_its_error(counter: Path, start: Run) -> None:
    done = start("test", "weak", "--config", "lab.toml", "--seconds", "30")
    assert done.code == 4
    assert "Error: The counter broke." in done.err


def test_an_unknown_instrument_comes_with_the_nearest_one(counter: Path, start: Run) -> None:
    done = start("test", "conuter", "--config", "lab.toml")
    assert done.code == 2
    assert done.err == (
        'Error: lab.toml has no instrument "conuter".\n  it has counter, dead, weak\nTry: edge-agent test counter --config lab.toml\n'
    )


def test_a_wrong_configuration_is_told_with_all_its_mistakes(counter: Path, start: Run) -> None:
    (counter / "lab.toml").write_text("site = 5\nsit = 1\n")
    done = start("test", "counter", "--config", "lab.toml")
    assert done.code == 3
    assert done.err == (
        "Error: The configuration lab.toml has 2 mistakes.\n"
        "  lab.toml:1:8: site: must be text in quotes, not a number\n"
        '  lab.toml:2:1: sit: unknown key (did you mean "site"?)\n'
        "Try: edge-agent check lab.toml\n"
    )


def test_a_simulated_furnace_is_shown_through_the_bundled_adapter(furnace: Path, run: Run) -> None:
    done = run("test", "furnace", "--config", furnace, "--seconds", "2", "--json")
    assert done.code == 0, done.err
    streams = {stream["name"]: stream for stream in json.loads(done.out)["streams"]}
    temperature = streams["Temperature"]
    assert temperature["count"] > 0
    assert temperature["unit"] == "°C"
    assert float(temperature["last"]) > 0
    assert temperature["t_origin"] == "source"


@pytest.fixture
def balance() -> Iterator[str]:
    with Device("balance", "--rate", "20") as device:
        yield device.ready["path"]


PARSE = "{status:word} {_:word} {mass:float} {unit:word}"


def test_a_port_is_tried_without_a_configuration(balance: str, run: Run) -> None:
    done = run("test", "serial", balance, "--parse", PARSE, "--set", "command=SI", "--set", "every=100 ms", "--seconds", "1.5")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"Listening to {balance} for 1.5 s; nothing is stored."
    assert lines[1].split() == ["what", "came", "how", "it", "is", "read"]
    assert " g" in lines[2]
    assert "mass = " in lines[2]
    assert lines[-1].endswith(" of them can be read; nothing was stored.")


def test_a_port_as_json_has_raw_lines_and_values(balance: str, run: Run) -> None:
    done = run("test", "serial", balance, "--set", "profile=mettler-sics", "--set", "every=100 ms", "--seconds", "1.5", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    weights = [line for line in said["lines"] if line["values"]]
    assert said["count"] == len(said["lines"])
    assert weights
    assert all(isinstance(line["values"]["mass"], float) and line["units"] == {"mass": "g"} for line in weights)


def test_lines_that_a_template_does_not_fit_say_so(balance: str, run: Run) -> None:
    done = run("test", "serial", balance, "--parse", "{mass:float}", "--set", "command=SI", "--set", "every=100 ms", "--seconds", "1")
    assert done.code == 0, done.err
    assert "not read: does not look as parse or pattern says" in done.out
    assert ", 0 of them can be read;" in done.out
    assert "This would read it: --parse '{_:word} {_:word} {value1:float} {unit:word}'" in done.out.replace("'S ", "'{_:word} ")


def test_a_technician_sees_both_sides_in_japanese(balance: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    done = run("test", "serial", balance, "--parse", "{mass:float}", "--set", "command=SI", "--set", "every=100 ms", "--seconds", "1")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].split() == ["受信", "読み取り"]
    assert "読み取れません: parse・pattern の書き方と合いません" in done.out
    assert "次の書き方で読み取れます: --parse '" in done.out


def test_a_port_that_is_not_there_ends_with_code_4(run: Run, tmp_path: Path) -> None:
    done = run("test", "serial", tmp_path / "none", "--seconds", "5")
    assert done.code == 4
    assert done.err.startswith("Error: ")
    assert "\nTry: " in done.err


def test_settings_that_do_not_fit_are_a_configuration_error(run: Run) -> None:
    done = run("test", "serial", "/dev/null", "--parse", "{mass:number}")
    assert done.code == 3
    assert "Error: /dev/null cannot be read like this." in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("epics", "PORT"), 'An instrument of "epics" is tried by its name in a configuration.'),
        (("serial", "PORT", "--set", "every"), '"every" is not KEY=VALUE.'),
        (("balance", "--parse", "x"), "--parse and --set are for a PORT without a configuration."),
    ],
)
def test_wrong_uses_are_usage_errors(arguments: tuple[str, ...], said: str, run: Run) -> None:
    done = run("test", *arguments)
    assert done.code == 2
    assert said in done.err


def test_an_adapter_that_does_not_exist_is_named_with_the_nearest(run: Run) -> None:
    done = run("test", "serail", "/dev/null")
    assert done.code == 3
    assert done.err.startswith('Error: There is no adapter "serail".')
    assert done.err.endswith('Try: adapter = "serial"\n')
