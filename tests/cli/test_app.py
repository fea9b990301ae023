from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edge_agent
from edge_agent import errors
from edge_agent.cli import app, output

Run = Callable[..., Any]


def test_without_a_verb_the_verbs_are_listed(run: Run) -> None:
    done = run()
    assert done.code == 0
    for verb in ("init", "check", "schema", "test", "explain", "version"):
        assert f" {verb} " in done.out


def test_every_file_in_verbs_is_a_verb() -> None:
    files = {file.stem for file in (Path(edge_agent.__file__).parent / "cli" / "verbs").glob("*.py")} - {"__init__"}
    verbs = {name.replace("_", "-") for name in files}
    import typer

    command: Any = typer.main.get_command(app.build())
    assert verbs == set(command.commands)


def test_a_verb_that_is_built_alone_is_the_same_verb() -> None:
    import typer

    every: Any = typer.main.get_command(app.build())
    alone: Any = typer.main.get_command(app.build("project-key"))
    assert list(alone.commands) == ["project-key"]
    assert list(alone.commands["project-key"].commands) == list(every.commands["project-key"].commands)
    for other in ("", "--help", "chek"):
        command: Any = typer.main.get_command(app.build(other))
        assert command.commands.keys() == every.commands.keys()


def _loaded(arguments: list[str], heavy: str) -> str:
    """Which of some modules a command line has loaded at its end."""
    program = f"import sys; from edge_agent.cli import main; main({arguments!r})"
    program += f"; sys.stderr.write(' '.join({{*{heavy!r}.split()}} & {{*sys.modules}}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True).stderr


def test_help_imports_nothing_heavy() -> None:
    assert _loaded(["--help"], "h5py asyncua p4p aiohttp pydantic numpy cryptography") == ""


def test_whoever_has_a_segment_judged_does_not_load_what_its_worker_loads() -> None:
    assert _loaded(["verify", __file__], "h5py numpy") == ""


def test_an_unknown_verb_is_a_usage_error_with_a_next_step(run: Run) -> None:
    done = run("chek")
    assert done.code == 2
    assert done.err.startswith("Error: No such command 'chek'.")
    assert done.err.endswith("Try: edge-agent --help\n")


def test_an_unknown_option_is_a_usage_error_of_its_verb(run: Run) -> None:
    done = run("version", "--jsno")
    assert done.code == 2
    assert "Try: edge-agent version --help" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EdgeAgentError, 1),
        (errors.UsageError, 2),
        (errors.ConfigError, 3),
        (errors.InstrumentUnreachable, 4),
        (errors.TargetUnreachable, 5),
        (errors.PermissionRefused, 6),
        (errors.PolicyRefused, 6),
        (errors.IntegrityError, 7),
        (errors.DiskError, 8),
    ],
)
def test_each_class_of_error_has_its_exit_code(
    error: type[errors.EdgeAgentError], code: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise error("It went wrong.", why="because\nof this", try_="edge-agent check")

    monkeypatch.setattr("platform.platform", fail)
    done = run("version")
    assert done.code == code
    assert done.err == "Error: It went wrong.\n  because\n  of this\nTry: edge-agent check\n"
    done = run("version", "--json")
    assert done.code == code
    said = json.loads(done.out)
    assert said == {
        "ok": False,
        "error": {
            "what": "It went wrong.",
            "why": "because\nof this",
            "try": "edge-agent check",
            "code": error.default_code,
            "exit_code": code,
        },
    }


def test_an_unexpected_error_shows_no_traceback_unless_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("strange")

    monkeypatch.setattr("platform.platform", fail)
    done = run("version")
    assert done.code == 1
    assert done.err == (
        "Error: Something happened that nobody foresaw.\n  RuntimeError: strange\n"
        "Try: set EDGE_AGENT_DEBUG=1 and run it again; report what it then says\n"
    )
    monkeypatch.setenv("EDGE_AGENT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="strange"):
        run("version")


def test_an_interrupt_is_said_and_has_its_own_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("platform.platform", interrupt)
    done = run("version")
    assert done.code == 130
    assert "Interrupted." in done.err


def test_errors_are_said_in_japanese(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    done = run("explain", "CFG_UNKNOWN_KYE")
    assert done.code == 2
    assert done.err == "エラー: コード「CFG_UNKNOWN_KYE」はありません。\n対処: edge-agent explain CFG_UNKNOWN_KEY\n"


def test_an_error_that_is_not_translated_is_followed_by_what_its_code_means(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise errors.DiskError("The spool cannot be opened.", why="/spool: no space", code="SPOOL_OPEN")

    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    monkeypatch.setattr("platform.platform", fail)
    assert run("version").err == "エラー: The spool cannot be opened.\n  /spool: no space\n  スプールを開けません。\n"


def test_a_console_that_lacks_a_character_does_not_fail_the_verb() -> None:
    environment = {**os.environ, "EDGE_AGENT_LANG": "ja", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent.cli", "explain", "DISK"], capture_output=True, env=environment, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"DISK: ?")


def test_columns_align_japanese_and_numbers() -> None:
    text = output.columns(("装置", "n"), [("炉", 5), ("balance", 1000)], right=(1,))
    assert text.splitlines() == ["装置        n", "炉          5", "balance  1000"]


def test_version_names_what_it_stands_on(run: Run) -> None:
    assert run("version").out.startswith(f"edge-agent {edge_agent.__version__}, Python 3.")
    said = json.loads(run("version", "--json").out)
    assert said["edge-agent"] == edge_agent.__version__
    assert said["libraries"]["h5py"]


def test_explain_says_what_a_code_means(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("explain", "cfg-unknown-key")
    assert done.out.startswith("CFG_UNKNOWN_KEY: Nothing reads this key: it is misspelt, or in the wrong table.\n")
    assert set(json.loads(run("explain", "CFG_TYPE", "--json").out)) == {"code", "meaning", "cure"}
    assert "CFG_SECRET_INLINE" in json.loads(run("explain", "--json").out)
    assert "DISK_FULL" in run("explain").out
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    assert "綴り" in run("explain", "CFG_UNKNOWN_KEY").out
