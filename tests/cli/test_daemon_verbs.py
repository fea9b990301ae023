"""The verbs that talk to a running agent, against one small agent in its own process."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import typer

import edge_agent
from edge_agent import local_api
from edge_agent.cli.app import build
from edge_agent.errors import UsageError
from edge_agent.seal.receipt import parse_receipts
from edge_agent.wire import envelope

Run = Callable[..., Any]

ROOT = Path(edge_agent.__file__).parent.parent
OTHER = b"other bytes of the same name"

PROSE = {"and", "answers", "configuration", "stopped"}
"""What follows "edge-agent" in sentences that name the agent, not a command."""


@dataclass
class Small:
    """An agent that watches ``inbox`` and delivers to ``space``."""

    home: Path
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def config(self) -> Path:
        return self.home / "agent.toml"

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def space(self) -> Path:
        return self.home / "space"

    def drop_file(self, name: str, data: bytes) -> None:
        """As a vendor's program does: written elsewhere, renamed into place."""
        made = self.home / name
        made.write_bytes(data)
        made.rename(self.inbox / name)


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What the condition gives when it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.05)
    return found


def configured(home: Path) -> Path:
    (home / "inbox").mkdir(parents=True)
    (home / "space").mkdir()
    file = home / "agent.toml"
    file.write_text(
        f'site = "BL05"\nspool = {{ dir = "{home / "spool"}", keep_free = "1 MB" }}\n[target.disk]\nfolder = "{home / "space"}"\n'
        f'[instrument.scans]\nadapter = "files"\nfolder = "{home / "inbox"}"\n'
        'settle = "100 ms"\nsettle_closed = "50 ms"\nrescan = "500 ms"\n'
        f'[projects.sealed]\nencrypt_to = ["{envelope.new_key()[1]}"]\n'
    )
    return file


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    home = tmp_path_factory.mktemp("small")
    command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", str(configured(home))]
    with (home / "agent.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "EDGE_AGENT_LANG": "en"})
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (home / "agent.log").read_text()
        assert json.loads(line)["ready"] == "edge-agent"
        yield Small(home)
        process.terminate()
        assert process.wait(30) == 0, (home / "agent.log").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def ask(small: Small, run: Run) -> Callable[..., dict[str, Any]]:
    """``ask("status")``: what the verb says with ``--json``."""

    def ask(*arguments: object) -> dict[str, Any]:
        done = run(*arguments, "--config", small.config, "--json")
        assert done.code == 0, done.err
        said: dict[str, Any] = json.loads(done.out)
        return said

    return ask


@pytest.fixture
def clash(small: Small, ask: Callable[..., dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The entry of a file that the target refused, because it holds other bytes of that name; afterwards nothing is quarantined."""
    name = f"scan-{next(small.numbers)}.raw"
    began = ask("session", "start", "--project", "steel")
    place = small.space / began["folder"] / "files" / "scans" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(OTHER)
    small.drop_file(name, b"what was measured")
    (entry,) = until(lambda: ask("quarantine", "list")["entries"])
    yield {**entry, "place": place}
    ask("session", "stop")
    for left in ask("quarantine", "list")["entries"]:
        ask("quarantine", "drop", left["id"], "--reason", "left by a test")


@pytest.fixture
def settled(ask: Callable[..., dict[str, Any]]) -> None:
    """Everything that was taken is proved or given up."""

    def nothing_waits() -> bool:
        return all(s["totals"]["spooled"] == 0 for i in ask("status")["instruments"] for s in i["streams"])

    until(nothing_waits)


@pytest.mark.usefixtures("settled")
def test_status_is_a_sentence_and_a_table(small: Small, run: Run) -> None:
    done = run("status", "--config", small.config)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith(" items are in the project space and proved.")
    assert lines[2].split() == ["stream", "arrived", "landed", "spooled", "quarantined", "lost", "ignored"]
    assert any(line.startswith("target disk: ") for line in lines)


@pytest.mark.usefixtures("settled")
def test_status_speaks_japanese(small: Small, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    done = run("status", "--config", small.config)
    assert done.code == 0, done.err
    assert "件すべてがプロジェクト領域にあり、証拠があります。" in done.out
    assert "送り先 disk: " in done.out


def test_status_as_json_has_instruments_and_targets(ask: Callable[..., dict[str, Any]]) -> None:
    now = ask("status")
    assert [i["name"] for i in now["instruments"]] == ["scans"]
    assert [target["name"] for target in now["targets"]] == ["disk"]
    assert now["site"] == "BL05"


def test_a_session_starts_takes_a_file_and_stops(small: Small, run: Run, ask: Callable[..., dict[str, Any]]) -> None:
    began = run("session", "start", "--project", "steel", "--user", "Hanako", "--config", small.config)
    assert began.code == 0, began.err
    found = re.fullmatch(r"Run (\S+) is open; the data will be in (\S+)\.\n", began.out)
    assert found is not None, began.out
    name, folder = found.groups()
    again = run("session", "start", "--project", "steel", "--config", small.config)
    assert again.code == 2
    assert "edge-agent session stop" in again.err
    data = small.space / folder / "files" / "scans" / "kept.raw"
    small.drop_file("kept.raw", b"12.5")
    until(data.exists)
    ended = run("session", "stop", "--config", small.config)
    assert (ended.code, ended.out) == (0, f"Run {name} is closed and signed; it is on its way to {folder}.\n"), ended.err
    assert data.read_bytes() == b"12.5"
    until(lambda: name not in [r["name"] for r in ask("status")["runs"]])


def test_an_outcome_that_does_not_exist_is_a_usage_error(small: Small, run: Run) -> None:
    done = run("session", "stop", "--outcome", "splendid", "--config", small.config)
    assert done.code == 2
    assert "outcomes: complete" in done.err


def test_a_closed_run_is_amended_and_what_changed_is_shown(small: Small, run: Run, ask: Callable[..., dict[str, Any]]) -> None:
    number = ask("session", "start", "--project", "steel", "--sample", "Si")["run"]
    early = run("amend", number, "--set", "title=t", "--reason", "r", "--config", small.config)
    assert (early.code, early.err.splitlines()[0]) == (2, f"Error: Run {number} is not closed yet.")
    folder = ask("session", "stop")["folder"]
    done = run(
        "amend", number, "--set", "sample.name=SiC", "--set", "title=a = b", "--reason", "mixed up", "--author", "Ada", "--config", small.config
    )
    assert done.code == 0, done.err
    assert done.out == (
        f"Run {number} has amendment 1; it is on its way to {folder}.\n  sample.name: 'Si' -> 'SiC'\n  title: not given -> 'a = b'\n"
    )
    said = ask("amend", number, "--set", "title=c", "--reason", "again")
    assert (said["number"], said["changes"]) == (2, [{"field": "title", "old": "a = b", "new": "c"}])
    for wrong in ("title", "=x"):
        assert run("amend", number, "--set", wrong, "--reason", "r", "--config", small.config).code == 2
    assert run("amend", number, "--set", "a=1", "--set", "a=2", "--reason", "r", "--config", small.config).code == 2
    for label in ("access", "policy.label.access", "policy.access"):
        refused = run("amend", number, "--set", f"{label}=open", "--reason", "r", "--config", small.config)
        assert (refused.code, refused.err.splitlines()[0]) == (2, "Error: The label of a run is not amended.")
    receipts = small.space / folder / f"{number}.receipts"
    until(lambda: receipts.exists() and len(parse_receipts(receipts.read_bytes()).amendments) == 2)


def test_a_key_is_published_and_the_encrypted_files_of_a_run_tell_it(
    small: Small, run: Run, ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = ask("session", "start", "--project", "sealed")["run"]
    folder = ask("session", "stop")["folder"]
    until(lambda: any(item["file"].endswith(".json") for item in ask("project-key", "list", number)["items"]))
    listed = run("project-key", "list", number, "--config", small.config)
    assert (listed.code, listed.out.splitlines()[0].split()) == (0, ["file", "target", "object", "bytes", "key"])
    (key,) = ask("project-key", "list", number)["keys"]
    assert f"1: {key}: not published" in listed.out
    assert re.search(rf"{folder}/manifest-sha256.txt +disk +{envelope.folder_of(key)}/", listed.out)
    words = ("project-key", "publish", "sealed", "--reason", "the paper is out", "--author", "Ada", "--config", small.config)
    done = run(*words)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"{key} is published.\nRuns that say so from now on: {number}. Runs that did before: 0.\n"
        "Nothing else is encrypted to it: other closed data of sealed waits until it has another key.\n"
    )
    assert "Runs that say so from now on: none. Runs that did before: 1." in run(*words).out
    told = run("project-key", "list", number, "--config", small.config).out.splitlines()[-1]
    assert re.fullmatch(rf"1: {key}: published \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC by Ada \(the paper is out\)", told)
    assert run("project-key", "publish", "steel", "--reason", "r", "--config", small.config).code == 2
    plain = ask("session", "start", "--project", "steel")["run"]
    ask("session", "stop")
    assert run("project-key", "list", plain, "--config", small.config).out.startswith("No target has proved that it holds a file of run")
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    assert "に Ada が公開" in run("project-key", "list", number, "--config", small.config).out


def test_a_kick_says_how_much_was_parked(small: Small, run: Run, ask: Callable[..., dict[str, Any]]) -> None:
    done = run("kick", "--config", small.config)
    assert (done.code, done.out) == (0, "Everything that waits is tried again now, also what had been parked: 0.\n"), done.err
    assert ask("kick") == {"ok": True, "parked": 0}


def test_keys_are_changed_on_request_and_the_log_says_why(small: Small, run: Run, ask: Callable[..., dict[str, Any]]) -> None:
    done = run("keys", "change", "--config", small.config)
    assert done.out.startswith("New session keys sign from the next segment on; the first is "), done.err
    said = ask("keys", "change", "--compromised", "the PC was stolen")
    assert len(bytes.fromhex(said["kid"])) == 32
    assert said["kid"] not in done.out


def test_an_empty_quarantine_says_so(small: Small, run: Run, ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("quarantine", "list", "--config", small.config)
    assert (done.code, done.out) == (0, "Nothing is quarantined.\n"), done.err
    said = ask("quarantine", "list")
    assert (said["ok"], said["entries"]) == (True, [])
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    assert run("quarantine", "list", "--config", small.config).out == "隔離されているものはありません。\n"


def test_a_file_whose_name_is_taken_at_the_target_is_listed_with_the_reason(small: Small, run: Run, clash: dict[str, Any]) -> None:
    assert clash["targets"] == ["disk"]
    assert clash["size"] == len(b"what was measured")
    assert small.space / clash["remote"] == clash["place"]
    listed = run("quarantine", "list", "--config", small.config)
    assert listed.out.startswith("Quarantined, for you to decide: 1; nothing is deleted until you drop it.\n"), listed.out
    assert clash["remote"] in listed.out
    assert f"{clash['place']} exists with other content." in listed.out
    shown = run("quarantine", "show", clash["id"], "--config", small.config)
    assert shown.out.startswith(f"{clash['id']} is quarantined: "), shown.out
    assert f"refused by: disk ({clash['remote']})" in shown.out
    assert "were refused by a target and wait in quarantine." in run("status", "--config", small.config).out
    assert clash["place"].read_bytes() == OTHER


def test_a_retry_delivers_after_the_other_file_was_moved_away(
    small: Small, run: Run, ask: Callable[..., dict[str, Any]], clash: dict[str, Any]
) -> None:
    clash["place"].rename(small.home / clash["place"].name)
    done = run("quarantine", "retry", clash["id"], "--config", small.config)
    assert (done.code, done.out) == (0, f"{clash['id']} is sent to disk again.\n"), done.err
    until(clash["place"].exists)
    assert clash["place"].read_bytes() == b"what was measured"
    assert ask("quarantine", "list")["entries"] == []


def test_a_retry_that_mended_nothing_ends_in_quarantine_again(ask: Callable[..., dict[str, Any]], clash: dict[str, Any]) -> None:
    ask("quarantine", "retry", clash["id"])
    (again,) = until(lambda: ask("quarantine", "list")["entries"])
    assert again["id"] == clash["id"]
    assert again["since_ns"] > clash["since_ns"]
    assert clash["place"].read_bytes() == OTHER


def test_an_export_copies_the_bytes_and_the_reason_and_never_overwrites(
    small: Small, run: Run, clash: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("quarantine", "export", clash["id"], "looked-at", "--config", small.config)
    copy = tmp_path / "looked-at" / Path(clash["path"]).name
    assert (done.code, done.out) == (0, f"{clash['id']} is copied to {copy}; the reason is beside it.\n"), done.err
    assert copy.read_bytes() == b"what was measured"
    assert json.loads(copy.with_name(f"{copy.name}.reason.json").read_text())["targets"] == ["disk"]
    again = run("quarantine", "export", clash["id"], "looked-at", "--config", small.config)
    assert again.code == 6
    assert "File exists" in again.err
    assert "Try: name a folder where the agent's user may write" in again.err


def test_a_drop_needs_a_reason_and_puts_it_on_record(
    small: Small, run: Run, ask: Callable[..., dict[str, Any]], clash: dict[str, Any]
) -> None:
    without = run("quarantine", "drop", clash["id"], "--config", small.config)
    assert without.code == 2
    assert "--reason" in without.err
    blank = run("quarantine", "drop", clash["id"], "--reason", " ", "--config", small.config)
    assert blank.code == 2
    assert "Error: Dropping needs a reason." in blank.err
    assert Path(clash["path"]).exists()
    done = run("quarantine", "drop", clash["id"], "--reason", "the other one is right", "--config", small.config)
    assert (done.code, done.out) == (0, f"{clash['id']} is given up; this is on record: the other one is right\n"), done.err
    said = ask("quarantine", "list")
    assert said["entries"] == []
    assert (said["dropped"][-1]["id"], said["dropped"][-1]["reason"]) == (clash["id"], "the other one is right")
    assert "the other one is right" in run("quarantine", "list", "--dropped", "--config", small.config).out
    (stream,) = ask("status")["instruments"][0]["streams"]
    assert (stream["totals"]["quarantined"], stream["totals"]["discrepancy"]) == (0, 0)
    assert stream["totals"]["lost_text"] != "0"
    assert clash["place"].read_bytes() == OTHER


@pytest.mark.parametrize(
    ("action", "body", "said"),
    [
        ("retry", {"id": "x", "force": "yes"}, "the request has other keys or values than it may"),
        ("drop", {"id": "x"}, "Dropping needs a reason."),
        ("drop", {}, "Dropping needs a reason."),
        ("export", {"id": "x", "folder": "here"}, "'here' is no whole path"),
        ("export", {"id": "x"}, "'.' is no whole path"),
        ("forget", {"id": "x"}, "there is no POST /quarantine/forget"),
    ],
)
async def test_a_request_that_is_wrong_is_refused_in_words(action: str, body: dict[str, str], said: str, small: Small) -> None:
    with pytest.raises(UsageError) as refused:
        await local_api.ask(small.home / "spool", "POST", f"/quarantine/{action}", body)
    assert refused.value.what == said
    assert refused.value.why


@pytest.mark.parametrize("verb", [("show", "x/../y"), ("retry", ""), ("export", "x", "."), ("drop", "x", "--reason", "r")])
def test_an_entry_that_is_not_there_is_a_usage_error(verb: tuple[str, ...], small: Small, run: Run) -> None:
    done = run("quarantine", *verb, "--config", small.config)
    assert done.code == 2
    assert done.err.startswith("Error: Nothing is quarantined as ")
    assert done.err.endswith("Try: edge-agent quarantine list\n")


@pytest.mark.parametrize(
    "verb",
    [
        ("status",),
        ("session", "start", "--project", "steel"),
        ("session", "stop"),
        ("amend", "1", "--set", "title=t", "--reason", "r"),
        ("project-key", "publish", "p", "--reason", "r"),
        ("project-key", "list", "1"),
        ("kick",),
        ("keys", "change"),
        ("quarantine", "list"),
        ("quarantine", "show", "x"),
        ("quarantine", "retry", "x"),
        ("quarantine", "export", "x", "."),
        ("quarantine", "drop", "x", "--reason", "r"),
    ],
)
def test_without_an_agent_every_verb_says_so_and_ends_with_code_1(verb: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    file = configured(tmp_path / "idle")
    text = run(*verb, "--config", file)
    assert text.code == 1
    assert text.err.startswith("Error: No edge-agent answers here.\n")
    assert "Try: is it running? edge-agent run --config FILE\n" in text.err
    said = json.loads(run(*verb, "--config", file, "--json").out)
    assert (said["ok"], said["error"]["code"], said["error"]["exit_code"]) == (False, "AGENT_DOWN", 1)


def _strings() -> Iterator[tuple[str, str]]:
    """Where, and each text that the project may show: string literals, and the files of words."""
    for room in ("edge_agent", "adapters", "landing"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node.value
    for file in sorted((ROOT / "edge_agent" / "words").rglob("*.toml")):
        yield str(file.relative_to(ROOT)), json.dumps(tomllib.loads(file.read_text(encoding="utf-8")), ensure_ascii=False)


def test_every_command_that_a_message_names_exists() -> None:
    verbs = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    missing = {}
    for where, text in _strings():
        for verb, word in re.findall(r"edge-agent ([a-z]+(?:-[a-z]+)*)(?: ([a-z]+))?", text):
            below = getattr(verbs.get(verb), "commands", None)
            if (verb not in verbs and verb not in PROSE) or (below is not None and word and word not in below):
                missing[where] = f"edge-agent {verb} {word}".rstrip()
    assert not missing, f"these messages name commands that do not exist: {missing}"
    assert {"run", "kick", "quarantine", "session", "status"} <= set(verbs)
