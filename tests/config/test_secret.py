from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from edge_agent.config import Examination, MqttTarget, Secret
from edge_agent.errors import ConfigError

CANARY = "hunter2-canary"


class Holder(BaseModel):
    password: Secret


def test_each_reference_reveals_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text(f"{CANARY}\n")
    monkeypatch.setenv("BROKER_PASSWORD", CANARY)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for reference in ({"file": str(file)}, {"env": "BROKER_PASSWORD"}, {"store": "password"}):
        assert Holder.model_validate({"password": reference}).password.reveal() == CANARY


def test_the_value_is_read_at_the_moment_of_use(tmp_path: Path) -> None:
    secret = Holder.model_validate({"password": {"file": str(tmp_path / "password")}}).password
    for value in ("first", "rotated"):
        (tmp_path / "password").write_text(value)
        assert secret.reveal() == value


def test_no_dump_log_or_traceback_shows_the_value(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", CANARY)
    holder = Holder.model_validate({"password": {"env": "BROKER_PASSWORD"}})
    assert holder.password.reveal() == CANARY
    with caplog.at_level(logging.INFO):
        logging.getLogger("edge_agent").info("%s %r", holder, holder.password)
    shown = [repr(holder), str(holder.password), holder.model_dump_json(), str(holder.model_dump()), caplog.text, str(vars(Secret))]
    assert not any(CANARY in text for text in shown)
    assert "BROKER_PASSWORD" in repr(holder)


def test_a_literal_is_refused_without_being_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"password": CANARY})
    assert caught.value.errors()[0]["type"] == "cfg_secret_inline"
    assert 'write { file = "/path/of/the/file" }' in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "reference",
    [
        {},
        {"file": ""},
        {"file": 5},
        {"vault": "x"},
        {"env": "A", "file": "/b"},
        {"env": "A=B"},
        {"store": "../shadow"},
        {"file": "a\0b"},
        [],
    ],
)
def test_a_crooked_reference_is_refused(reference: object) -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate({"password": reference})


@pytest.mark.parametrize(
    ("reference", "why", "cure"),
    [
        ({"file": "/nonexistent/password"}, "No such file", "write the secret into /nonexistent/password"),
        ({"env": "NOT_SET_ANYWHERE"}, "no such name", "set the environment variable NOT_SET_ANYWHERE"),
        ({"store": "broker"}, "CREDENTIALS_DIRECTORY is not set", "systemd-creds encrypt --name=broker"),
    ],
)
def test_a_secret_that_is_not_there_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, reference: dict[str, str], why: str, cure: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    secret = Holder.model_validate({"password": reference}).password
    with pytest.raises(ConfigError) as caught:
        secret.reveal()
    assert caught.value.code == "CFG_SECRET_MISSING"
    assert why in caught.value.why
    assert cure in caught.value.try_


def test_an_empty_or_binary_secret_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"\xff\xfe"):
        (tmp_path / "password").write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read"):
            Secret("file", str(tmp_path / "password")).reveal()


def test_a_check_names_a_missing_secret_and_one_that_others_can_read(examined: Callable[..., Examination], tmp_path: Path) -> None:
    text = 'site = "a"\nspool = { dir = "." }\n[instrument.a]\nadapter = "epics"\npvs = ["X"]\n'
    text += '[target.b]\nmqtt = "mqtts://broker.example.ac.jp"\nuser = "a"\npassword = { file = "password" }\n'
    [missing] = examined(text, machine=True).problems
    assert (missing.code, missing.level, missing.key) == ("CFG_SECRET_MISSING", "error", "target.b.password")
    (tmp_path / "password").write_text(CANARY)
    (tmp_path / "password").chmod(0o644)
    [shared] = examined(text, machine=True).problems
    assert (shared.code, shared.level) == ("CFG_SECRET_OPEN", "warning")
    (tmp_path / "password").chmod(0o600)
    found = examined(text, machine=True)
    assert found.problems == ()
    assert found.config is not None
    target = found.config.targets["b"]
    assert isinstance(target, MqttTarget)
    assert target.password is not None
    assert target.password.reveal() == CANARY
    assert CANARY not in repr(found)


def test_no_mistake_anywhere_repeats_a_secret(examined: Callable[..., Examination]) -> None:
    keys = ("password", "token", "api_key", "secret", "user_password", "passwrod", "unknown")
    for key in keys:
        for table in ("", '[instrument.a]\nadapter = "opcua"\n', '[target.b]\nmqtt = "mqtts://b"\n', '[target.c]\nlanding = "https://c"\n'):
            found = examined(f'site = "a"\n{table}{key} = "{CANARY}"\n')
            assert found.config is None
            assert CANARY not in "".join(str(problem) for problem in found.problems)


def test_a_traceback_through_the_loader_shows_no_value(examined: Callable[..., Examination]) -> None:
    try:
        Holder.model_validate({"password": CANARY})
    except ValidationError as e:
        text = "".join(traceback.format_exception_only(ConfigError("x", why=str(e.errors(include_input=False)))))
    assert CANARY not in text
