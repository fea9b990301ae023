"""The identity folder: made once, kept, never half."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge_agent.enrolment import Enrolment, load_enrolment, open_identity
from edge_agent.errors import ConfigError
from edge_agent.record.session import new_session
from edge_agent.seal.keys import check_chain


def test_an_identity_is_made_once_and_found_again(tmp_path: Path) -> None:
    made = open_identity(tmp_path / "keys")
    found = open_identity(tmp_path / "keys")
    assert (found.agent_id, found.certificate, found.words) == (made.agent_id, made.certificate, made.words)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert "PRIVATE" not in repr(made)


def test_it_signs_sessions_before_anybody_vouches_for_it(tmp_path: Path) -> None:
    identity = open_identity(tmp_path)
    session = new_session(identity.agent_id, identity.key, (identity.certificate,), 1)
    trusted = check_chain(session.chain, None)
    assert trusted.agent_id == identity.agent_id
    assert not trusted.rooted


def test_a_crash_between_key_and_certificate_leaves_no_half_identity(tmp_path: Path) -> None:
    open_identity(tmp_path)
    (tmp_path / "identity.pem").unlink()
    assert open_identity(tmp_path).key  # nothing was ever signed with the key that had no certificate


def test_a_lost_certificate_of_an_enrolled_agent_is_an_error_not_a_new_agent(tmp_path: Path) -> None:
    identity = open_identity(tmp_path)
    Enrolment(tmp_path, "https://x", "site", ("p",)).save()
    key = (tmp_path / "identity.key").read_bytes()
    (tmp_path / "identity.pem").unlink()
    with pytest.raises(ConfigError, match="identity"):
        open_identity(tmp_path)
    assert (tmp_path / "identity.key").read_bytes() == key
    assert identity.agent_id


@pytest.mark.parametrize("name", ["identity.key", "identity.pem"])
def test_broken_files_are_never_replaced_by_new_ones(tmp_path: Path, name: str) -> None:
    open_identity(tmp_path)
    (tmp_path / name).write_text("broken")
    with pytest.raises(ConfigError, match="identity") as error:
        open_identity(tmp_path)
    assert error.value.why
    assert "backup" in error.value.try_
    assert (tmp_path / name).read_text() == "broken"


def test_a_key_of_another_identity_is_noticed(tmp_path: Path) -> None:
    open_identity(tmp_path / "a")
    open_identity(tmp_path / "b")
    (tmp_path / "a" / "identity.key").write_bytes((tmp_path / "b" / "identity.key").read_bytes())
    with pytest.raises(ConfigError) as error:
        open_identity(tmp_path / "a")
    assert "not the certificate's" in error.value.why


def test_no_enrolment_is_none_and_a_broken_one_says_so(tmp_path: Path) -> None:
    assert load_enrolment(tmp_path) is None
    (tmp_path / "enrolled.json").write_text('{"url": 1}')
    with pytest.raises(ConfigError, match="cannot be read") as error:
        load_enrolment(tmp_path)
    assert "enroll" in error.value.try_
