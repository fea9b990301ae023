"""A project's key is made away from the instruments, and opens what was encrypted to it, and only that."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import models
from edge_agent.wire import envelope

Run = Callable[..., Any]


class Content(io.BytesIO):
    def read(self, offset: int, length: int) -> bytes:  # type: ignore[override]
        return self.getvalue()[offset : offset + length]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a computer without an agent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_AGENT_CONFIG", raising=False)
    monkeypatch.setattr(models, "default_spool", lambda: tmp_path / "no-agent")
    return tmp_path


@pytest.fixture
def key(home: Path, run: Run) -> str:
    """The public key; the secret one is in ``key``."""
    said: str = json.loads(run("project-key", "new", "key", "--json").out)["public_key"]
    return said


def put(path: Path, name: str, data: bytes, key: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        envelope.close(Content(data), name, len(data), 0, (key,), out)
    return path


def test_a_key_is_written_for_its_owner_only_and_the_lines_to_copy_are_shown(home: Path, run: Run) -> None:
    done = run("project-key", "new", "steel.key", "--project", "steel-2026")
    assert done.code == 0
    written = home / "steel.key"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    (remark, public, secret) = written.read_text().splitlines()
    assert remark.startswith("# created: 2")
    key = public.removeprefix("# public key: ")
    assert secret not in done.out + done.err
    assert f'    [projects.steel-2026]\n    encrypt_to = ["{key}"]\n' in done.out
    assert envelope.folder_of(key) in done.out
    assert len(envelope.read_key(written)) == 1


def test_a_key_that_is_there_is_never_replaced(home: Path, key: str, run: Run) -> None:
    before = (home / "key").read_text()
    done = run("project-key", "new", "key")
    assert done.code == 2
    assert (home / "key").read_text() == before


def test_no_key_is_made_where_an_agent_runs(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "lab.toml").write_text("")
    monkeypatch.setenv("EDGE_AGENT_CONFIG", str(home / "lab.toml"))
    done = run("project-key", "new", "key")
    assert (done.code, (home / "key").exists()) == (2, False)
    assert "An agent runs on this computer" in done.err
    monkeypatch.delenv("EDGE_AGENT_CONFIG")
    (home / "no-agent").mkdir()
    assert run("project-key", "new", "key").code == 2
    monkeypatch.setenv("EDGE_AGENT_LANG", "ja")
    assert "この計算機ではエージェントが動いています" in run("project-key", "new", "key").err


def test_everything_below_a_folder_is_opened(home: Path, key: str, run: Run) -> None:
    names = ["p/g/2026-11-26/000001/a.h5", "p/g/2026-11-26/000001/b.h5"]
    for number, name in enumerate(names):
        put(home / "store" / "x" / f"{number}.age", name, name.encode(), key)
    done = run("open", "store", "--key", "key", "--out", "opened")
    assert done.code == 0
    assert [line.split("  ")[1] for line in done.out.splitlines()] == [f"opened/{name}" for name in names]
    assert "2 of 2 files are open. Whose they are says: edge-agent verify opened" in done.err
    assert [(home / "opened" / name).read_text() for name in names] == names
    again = json.loads(run("open", "store", "--key", "key", "--out", "opened", "--json").out)
    assert again["ok"]
    assert all(file["was_there"] for file in again["files"])


def test_what_does_not_open_does_not_keep_the_rest_closed(home: Path, key: str, run: Run) -> None:
    put(home / "store" / "1.age", "p/one", b"one", key)
    put(home / "store" / "2.age", "q/two", b"two", envelope.new_key()[1])
    (home / "store" / "3.age").write_bytes(put(home / "4.age", "p/four", b"four", key).read_bytes()[:-1])
    done = run("open", "store", "--key", "key", "--out", "opened")
    assert done.code == 6
    assert (home / "opened" / "p" / "one").read_bytes() == b"one"
    assert "store/2.age does not open with this key." in done.err
    assert "store/3.age cannot be opened." in done.err
    assert [path.name for path in (home / "opened").rglob("*") if path.is_file()] == ["one"]
    said = json.loads(run("open", "store", "--key", "key", "--out", "opened", "--json").out)
    assert [error["code"] for error in said["errors"]] == ["ENVELOPE_OTHER_KEY", "ENVELOPE_DAMAGED"]


def test_a_missing_file_or_key_is_told(home: Path, key: str, run: Run) -> None:
    assert run("open", "nothing.age", "--key", "key").code == 2
    (home / "empty").mkdir()
    assert "There is nothing to open at empty." in run("open", "empty", "--key", "key").err
    assert "nokey is no file with a secret key" in run("open", "empty", "--key", "nokey").err
    (home / "public").write_text(key)
    assert "it has a public key, which only closes envelopes" in run("open", "empty", "--key", "public").err


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_disk(home: Path, key: str, run: Run) -> None:
    put(home / "1.age", "p/one", b"one", key)
    (home / "out").write_text("a file is in the way")
    assert run("open", "1.age", "--key", "key", "--out", "out").code == 8
