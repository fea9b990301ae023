"""The identity key at rest: sealed by the system, read by this machine alone, never lost on the way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_agent.enrolment import open_identity
from edge_agent.enrolment.sealing import PLAIN, Dpapi, SystemdCreds, run, sealer_of
from edge_agent.errors import ConfigError

SYSTEMD = SystemdCreds()


def stored(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith("identity.key")}


def turned(data: bytes) -> bytes:
    """A fake of DPAPI: what one side makes only the other understands."""
    return b"sealed" + bytes(byte ^ 0x55 for byte in data)


def turned_back(data: bytes) -> bytes:
    if not data.startswith(b"sealed"):
        raise OSError("not sealed for this machine")
    return bytes(byte ^ 0x55 for byte in data.removeprefix(b"sealed"))


FAKE_DPAPI = Dpapi(turned, turned_back)


@pytest.mark.needs("root", "systemd-creds")
def test_systemd_creds_seals_a_new_key_and_opens_it_again(tmp_path: Path) -> None:
    made = open_identity(tmp_path, SYSTEMD)
    assert stored(tmp_path) == {"identity.key.cred"}
    sealed = (tmp_path / "identity.key.cred").read_bytes()
    assert b"PRIVATE" not in sealed
    assert (tmp_path / "identity.key.cred").stat().st_mode & 0o777 == 0o600
    for sealer in (SYSTEMD, PLAIN):
        again = open_identity(tmp_path, sealer)
        assert (again.agent_id, again.words) == (made.agent_id, made.words)
    other = b"B" if sealed[100:101] == b"A" else b"A"
    (tmp_path / "identity.key.cred").write_bytes(sealed[:100] + other + sealed[101:])
    with pytest.raises(ConfigError, match="cannot be read") as error:
        open_identity(tmp_path)
    assert "systemd-creds" in error.value.why
    with pytest.raises(OSError, match="systemd-creds"):
        run(("systemd-creds", "--name=another", "decrypt", "-", "-"), sealed)


@pytest.mark.needs("root", "systemd-creds")
def test_a_plain_key_is_sealed_when_the_configuration_asks_for_it(tmp_path: Path) -> None:
    before = open_identity(tmp_path)
    assert stored(tmp_path) == {"identity.key"}
    after = open_identity(tmp_path, SYSTEMD)
    assert stored(tmp_path) == {"identity.key.cred"}
    assert after.words == before.words == open_identity(tmp_path).words


def test_dpapi_is_asked_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.enrolment.identity.SEALERS", (FAKE_DPAPI, PLAIN))
    made = open_identity(tmp_path, FAKE_DPAPI)
    assert stored(tmp_path) == {"identity.key.dpapi"}
    assert b"PRIVATE" not in (tmp_path / "identity.key.dpapi").read_bytes()
    assert open_identity(tmp_path).words == made.words
    (tmp_path / "identity.key.dpapi").write_bytes(b"of another machine")
    with pytest.raises(ConfigError, match="cannot be read") as error:
        open_identity(tmp_path)
    assert "not sealed for this machine" in error.value.why


def test_dpapi_elsewhere_than_on_windows_says_so() -> None:
    for call in (Dpapi().seal, Dpapi().unseal):
        with pytest.raises(OSError, match="Windows only"):
            call(b"key")


def test_a_new_key_that_cannot_be_sealed_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be sealed") as error:
        open_identity(tmp_path, Dpapi())
    assert error.value.code == "IDENTITY_SEAL"
    assert stored(tmp_path) == set()
    assert open_identity(tmp_path).key


def test_a_plain_key_that_cannot_be_sealed_is_used_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = open_identity(tmp_path)

    def broken(command: Sequence[str], data: bytes) -> bytes:
        return b"x" if "encrypt" in command else b"y"

    with caplog.at_level(logging.WARNING):
        for sealer in (Dpapi(), SystemdCreds(broken)):
            assert open_identity(tmp_path, sealer).words == made.words
    assert [record.__dict__["code"] for record in caplog.records] == ["IDENTITY_SEAL", "IDENTITY_SEAL"]
    assert stored(tmp_path) == {"identity.key"}


def test_a_crash_while_sealing_leaves_a_key_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.enrolment.identity.SEALERS", (FAKE_DPAPI, PLAIN))
    made = open_identity(tmp_path)
    plain = (tmp_path / "identity.key").read_bytes()
    # The sealed file is whole, the plain one was not yet taken away.
    (tmp_path / "identity.key.dpapi").write_bytes(turned(plain))
    assert open_identity(tmp_path, FAKE_DPAPI).words == made.words


def test_a_program_that_fails_or_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="ls: "):
        run(("ls", "/not/there"), b"")
    with pytest.raises(OSError):
        run(("no-such-program",), b"")
    assert run(("cat",), b"key") == b"key"


def test_the_configuration_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sealer_of("file") is PLAIN
    assert isinstance(sealer_of("system"), SystemdCreds)
    monkeypatch.setattr("sys.platform", "win32")
    assert isinstance(sealer_of("system"), Dpapi)


def test_a_program_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.enrolment.sealing.SECONDS", 0.0)
    with pytest.raises(OSError, match="does not end"):
        run(("cat", "/dev/zero"), b"")
