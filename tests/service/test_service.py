"""The systemd unit, and what the daemon tells the service manager."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent.cli import main
from edge_agent.config.loading import load
from edge_agent.errors import UsageError
from edge_agent.record.recorder import Recorder
from edge_agent.service import unit
from edge_agent.service.notify import Notifier

Configure = Callable[..., Path]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """``configure(spool)`` writes a configuration with a watched folder and a folder as target."""

    def write(spool: Path = tmp_path / "spool") -> Path:
        for folder in (tmp_path / "vendor", tmp_path / "share", tmp_path / "keys", spool):
            folder.mkdir(exist_ok=True, parents=True)
        file = tmp_path / "agent.toml"
        file.write_text(
            f'site = "BL05"\nspool = {{ dir = "{spool}", keep_free = "1 MB" }}\nkeys = {{ dir = "{tmp_path / "keys"}" }}\n'
            f'[instrument.vendor]\nadapter = "files"\nfolder = "{tmp_path / "vendor"}"\n[target.disk]\nfolder = "{tmp_path / "share"}"\n'
        )
        return file

    return write


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_unit_is_written_where_it_is_asked_for_and_systemd_accepts_it(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configure()
    assert main(["service", "install", "--config", str(file), "--folder", str(tmp_path / "units"), "--user", "root", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["unit"])
    assert path == tmp_path / "units" / "edge-agent.service"
    service = parsed(path.read_text())["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith(f" run --config {file}")
    assert service["ExecStartPre"].endswith(f" check {file}")
    assert service["Restart"] == "always"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["TimeoutStopSec"]) > 10
    assert set(service["ReadWritePaths"].split()) == {f"-{tmp_path / name}" for name in ("spool", "keys", "share")}
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run([analyze, "verify", "--recursive-errors=no", str(path)], capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if "edge-agent.service" in line]
        assert (done.returncode, said) == (0, []), done.stderr


def test_a_path_with_blanks_percents_and_dollars_is_taken_literally(configure: Configure, tmp_path: Path) -> None:
    odd = tmp_path / 'two words 100% $HOME "q"'
    odd.mkdir()
    file = configure(tmp_path / "spool two")
    text = unit.unit_text(odd / "a.toml", load(file), "edge-agent")
    literal = str(odd).replace('"', '\\"').replace("%", "%%")
    service = parsed(text)["Service"]
    assert service["ExecStart"].endswith(f' run --config "{literal.replace("$", "$$")}/a.toml"')
    assert f'"-{tmp_path / "spool two"}"' in service["ReadWritePaths"]


@pytest.mark.parametrize("user", ["", "a b", "x\nExecStart=/bin/sh", "Ärger", "-x"])
def test_an_account_name_that_is_none_is_refused(configure: Configure, user: str) -> None:
    with pytest.raises(UsageError, match="is no account name"):
        unit.unit_text(configure(), load(configure()), user)


def test_a_path_that_would_add_a_line_to_the_unit_is_refused(configure: Configure) -> None:
    with pytest.raises(UsageError, match="control characters"):
        unit.unit_text(Path("/etc/a\nUser=root"), load(configure()), "edge-agent")


def test_a_folder_that_may_not_be_written_says_what_to_do(configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    code = main(["service", "install", "--config", str(configure()), "--folder", str(tmp_path / "file" / "units")])
    assert code == 6
    assert "The unit cannot be written." in capsys.readouterr().err


async def test_the_daemon_tells_systemd_that_it_is_ready_alive_and_stopping(
    configure: Configure, manager: socket.socket, tmp_path: Path
) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000", "EDGE_AGENT_LANG": "en"}
    command = [sys.executable, "-m", "edge_agent.cli", "run", "--config", str(configure())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        first = (await asyncio.to_thread(manager.recv, 4096)).decode()
        assert first.splitlines() == ["READY=1", "STATUS=1 instruments"]
        beats = [(await asyncio.to_thread(manager.recv, 4096)).decode() for _ in range(3)]
        assert all(beat.splitlines()[0] == "WATCHDOG=1" for beat in beats)
        assert beats[-1].splitlines()[1] == "STATUS=0 runs open, disk ok"
        process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in (await asyncio.to_thread(manager.recv, 4096)).decode():
            pass
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        process.kill()
        process.communicate()


async def test_the_watchdog_is_not_fed_when_the_recorder_is_dead(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    recorder = Recorder()
    agent = SimpleNamespace(recorder=recorder, keeper=SimpleNamespace(live=[]), disk=None)
    notifier = Notifier()
    watching = asyncio.create_task(notifier.watch(agent))  # type: ignore[arg-type]
    assert (await asyncio.to_thread(manager.recv, 4096)).startswith(b"WATCHDOG=1")
    recorder.stop()
    await asyncio.sleep(0.05)  # more than one interval
    manager.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while manager.recv(4096):  # what was sent before
            pass
    await asyncio.sleep(0.2)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    watching.cancel()
    notifier.close()
