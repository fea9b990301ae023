"""Enrolment by one-time token, renewal, and who is let in at all."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edge_agent.deliver.landing_keys import LandingKeys
from edge_agent.enrolment import enrol, load_enrolment, open_identity, read_token, renew, token_words
from edge_agent.errors import PermissionRefused, TargetUnreachable, UsageError
from edge_agent.seal.keys import check_chain, load_certificate
from landing import authority
from landing.home import Home, Settings
from landing.places import open_catalogue

ROOT = Path(__file__).parents[2]


def other_ca(folder: Path) -> authority.Authority:
    home, settings = Home(folder), Settings(name="Stranger")
    home.create(settings)
    return authority.create(home, settings)


def client_pem(ca: authority.Authority, agent_id: bytes, path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + ca.client(key.public_key(), agent_id).public_bytes(Encoding.PEM))
    return path


async def test_an_enrolled_agent_keeps_its_id_and_key_and_its_chain_leads_to_the_root(site: Any, enrolled: Any, tmp_path: Path) -> None:
    await site.open()
    before = open_identity(tmp_path / "agent")
    assert not check_chain_rooted(site, before)
    agent = await enrolled("agent")
    assert agent.agent_id == before.agent_id
    assert agent.identity.words == before.words
    trusted = check_chain(agent.session.chain, load_certificate(authority.load(site.home).root_der))
    assert trusted.rooted
    assert trusted.agent_id == agent.agent_id
    assert agent.enrolment.projects == ("demo-project",)
    assert load_enrolment(tmp_path / "agent") == agent.enrolment
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "agent").iterdir()} == {0o600}


def check_chain_rooted(site: Any, identity: Any) -> bool:
    from edge_agent.record.session import new_session

    chain = new_session(identity.agent_id, identity.key, (identity.certificate,), 1).chain
    return check_chain(chain, authority.load(site.home).root).rooted


async def test_a_token_works_once(site: Any, tmp_path: Path) -> None:
    await site.open()
    token = site.token()
    await enrol(tmp_path / "a", token, "a")
    with pytest.raises(PermissionRefused, match="used already") as error:
        await enrol(tmp_path / "b", token, "b")
    assert "landing token" in error.value.try_
    assert load_enrolment(tmp_path / "b") is None


async def test_a_token_expires(site: Any, tmp_path: Path) -> None:
    await site.open()
    with pytest.raises(PermissionRefused, match="has expired"):
        await enrol(tmp_path / "a", site.token(life_ns=-1), "a")


async def test_a_made_up_token_is_refused(site: Any, tmp_path: Path) -> None:
    await site.open()
    token = site.token()
    with pytest.raises(PermissionRefused, match="not known"):
        await enrol(tmp_path / "a", type(token)(os.urandom(16), token.root, token.url), "a")


async def test_a_token_of_another_service_gives_nothing_away(site: Any, tmp_path: Path) -> None:
    await site.open()
    token = site.token()
    with pytest.raises(PermissionRefused, match="is not the landing service of this token") as error:
        await enrol(tmp_path / "a", type(token)(token.secret, os.urandom(32), token.url), "a")
    assert "nothing secret was sent" in error.value.try_
    await enrol(tmp_path / "a", token, "a")  # the token was not used up


@pytest.mark.parametrize("text", ["", "hello", "edge1.", "edge1.!!!!", "edge1." + "A" * 5000])
def test_what_is_no_token_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="no enrolment token") as error:
        read_token(text)
    assert error.value.why
    assert error.value.try_


def test_a_token_survives_copying_with_line_breaks(site: Any) -> None:
    site.url = "https://127.0.0.1:1"
    token = site.token()
    text = token.text()
    assert read_token(f" {text[:20]}\n{text[20:]}\n") == token
    assert len(token_words(token).split()) == 6


async def test_an_agent_id_is_never_given_to_another_key(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.open()
    await enrol(tmp_path / "a", site.token(), "a")
    thief = open_identity(tmp_path / "b")
    forged = type(thief)(thief.folder, open_identity(tmp_path / "a").agent_id, thief.key, thief.certificate)
    monkeypatch.setattr("edge_agent.enrolment.client.open_identity", lambda _: forged)
    with pytest.raises(PermissionRefused, match="taken"):
        await enrol(tmp_path / "b", site.token(), "b")


async def test_enrolling_again_with_a_new_token_adds_projects(site: Any, enrolled: Any) -> None:
    await site.open()
    await enrolled("agent", "one")
    agent = await enrolled("agent", "two")
    assert agent.enrolment.projects == ("one", "two")


async def test_renewal_gives_a_new_certificate_over_the_old_one(site: Any, enrolled: Any, make_item: Any, progress: list[int]) -> None:
    await site.open()
    agent = await enrolled()
    target = agent.https()
    await target.send(make_item(item_id="a"), progress.append)
    old = agent.enrolment.tls.read_bytes()
    now = dt.datetime.now(dt.UTC)
    assert not agent.enrolment.due(now)
    assert agent.enrolment.due(now + dt.timedelta(days=5))
    identity, _ = await renew(agent.identity.folder)
    assert identity.agent_id == agent.agent_id
    assert agent.enrolment.tls.read_bytes() != old
    await target.send(make_item(item_id="b"), progress.append)  # the target takes the new one by itself


async def test_renewing_without_enrolment_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not enrolled"):
        await renew(tmp_path / "nobody")


async def test_a_landing_under_another_ca_is_not_trusted(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], tmp_path: Path
) -> None:
    await site.open()
    agent = await enrolled()
    other_ca(tmp_path / "stranger")
    keys = LandingKeys(tmp_path / "stranger" / "root.pem", agent.enrolment.tls, agent.enrolment.receipts)
    with pytest.raises(PermissionRefused, match="not the landing service that we trust") as error:
        await agent.https(keys=keys).send(make_item(), progress.append)
    assert error.value.code == "LANDING_CERTIFICATE"
    assert error.value.why
    assert not list(site.home.incoming.iterdir())


async def test_a_landing_at_an_address_that_its_certificate_does_not_name_is_not_trusted(site: Any, enrolled: Any) -> None:
    await site.open()
    agent = await enrolled()
    target = agent.https(site.url.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises((PermissionRefused, TargetUnreachable)):
        await target.probe()


async def test_a_client_certificate_of_another_ca_is_refused(site: Any, enrolled: Any, tmp_path: Path) -> None:
    await site.open()
    agent = await enrolled()
    wrong = client_pem(other_ca(tmp_path / "stranger"), agent.agent_id, tmp_path / "wrong.pem")
    with pytest.raises(PermissionRefused, match="refuses our certificate") as error:
        await agent.https(keys=LandingKeys(agent.enrolment.root, wrong, agent.enrolment.receipts)).probe()
    assert "enroll" in error.value.try_


async def test_an_agent_that_the_catalogue_does_not_know_is_refused(site: Any, enrolled: Any, make_item: Any, tmp_path: Path) -> None:
    await site.open()
    agent = await enrolled()
    unknown = client_pem(authority.load(site.home), b"?" * 16, tmp_path / "unknown.pem")
    with pytest.raises(PermissionRefused, match="not enrolled here"):
        await agent.https(keys=LandingKeys(agent.enrolment.root, unknown, agent.enrolment.receipts)).send(make_item(), print)


async def test_an_identity_certificate_opens_no_connection(site: Any, enrolled: Any, tmp_path: Path) -> None:
    await site.open()
    agent = await enrolled()
    wrong = tmp_path / "identity.pem"
    wrong.write_bytes((agent.identity.folder / "identity.key").read_bytes() + (agent.identity.folder / "identity.pem").read_bytes())
    with pytest.raises(PermissionRefused):
        await agent.https(keys=LandingKeys(agent.enrolment.root, wrong, agent.enrolment.receipts)).probe()


async def test_an_expired_certificate_says_so_before_anything_is_sent(
    site: Any, enrolled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.open()
    agent = await enrolled()
    monkeypatch.setattr("landing.authority.CLIENT_LIFE", dt.timedelta(seconds=-10))
    old = client_pem(authority.load(site.home), agent.agent_id, tmp_path / "old.pem")
    with pytest.raises(PermissionRefused, match="has expired") as error:
        await agent.https(keys=LandingKeys(agent.enrolment.root, old, agent.enrolment.receipts)).probe()
    assert "recording goes on" in error.value.try_


async def test_missing_keys_say_how_to_get_them(site: Any, enrolled: Any) -> None:
    await site.open()
    agent = await enrolled()
    agent.enrolment.tls.unlink()
    with pytest.raises(PermissionRefused, match="cannot be read") as error:
        await agent.https().probe()
    assert "enroll" in error.value.try_


async def test_hostile_environment_variables_change_nothing(
    site: Any, enrolled: Any, make_item: Any, progress: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.open()
    agent = await enrolled()
    other_ca(tmp_path / "stranger")
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "stranger" / "root.pem"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await agent.https().send(make_item(), progress.append)).size == 4000


def test_every_certificate_is_accepted_by_openssl_in_strict_mode(site: Any) -> None:
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing"
    for name in ("tls", "receipts"):
        checked = subprocess.run(
            [openssl, "verify", "-x509_strict", "-CAfile", str(site.home.root), str(site.home.keys / f"{name}.pem")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_private_keys_are_for_the_service_alone(site: Any) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in site.home.keys.glob("*.key")}
    assert set(modes) == {"root.key", "tls.key", "receipts.key"}
    assert set(modes.values()) == {0o600}


async def test_the_whole_way_on_the_command_line(tmp_path: Path, site: Any) -> None:
    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = str(tmp_path / "service")
    assert "words" in run("landing", "init", folder, "--name", "Command line")
    again = subprocess.run(
        [sys.executable, "-m", "landing", "init", folder, "--name", "x"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert again.returncode == 2
    assert "is a landing service already" in again.stderr
    early = subprocess.run(
        [sys.executable, "-m", "landing", "token", folder, "--project", "p"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert early.returncode == 2
    assert "never ran" in early.stderr
    site.home = Home(Path(folder))
    await site.start()
    printed = run("landing", "token", folder, "--project", "demo-project")
    token = next(word for word in printed.split() if word.startswith("edge1."))
    said = json.loads(run("edge_agent.cli", "enroll", token, "--dir", str(tmp_path / "keys"), "--json"))
    assert said["projects"] == ["demo-project"]
    assert said["words"] in printed
    assert "new-project" in run("landing", "grant", folder, said["agent_id"], "--project", "new-project")


async def test_a_second_server_in_the_same_folder_is_refused(site: Any) -> None:
    await site.start()
    second = subprocess.run(
        [sys.executable, "-m", "landing", "serve", str(site.home.path)], capture_output=True, text=True, check=False, cwd=ROOT, timeout=200
    )
    assert second.returncode == 2
    assert "Another server works" in second.stderr


def test_a_tls_certificate_that_ends_soon_is_renewed_at_start(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from landing.room import Limits
    from landing.serve import assemble

    monkeypatch.setattr("landing.authority.SERVER_LIFE", dt.timedelta(days=3))
    ca = authority.load(site.home)
    authority.renew_server(site.home, site.home.load(), ca)
    monkeypatch.undo()
    assert not authority.server_is_fresh(site.home)
    assemble(site.home, Limits(), site.judge).catalogue.close()
    certificate = x509.load_pem_x509_certificate((site.home.keys / "tls.pem").read_bytes())
    assert certificate.not_valid_after_utc.timestamp() > time.time() + 300 * 86400


async def test_an_identity_key_of_a_token_may_be_es256(site: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    from edge_agent.enrolment.client import _tls_key
    from edge_agent.record.session import new_session
    from edge_agent.seal import cose
    from edge_agent.seal.algorithm import Es256Signer
    from edge_agent.wire.enrol import EnrolRequest, sign_request
    from landing.enrol import Registrar

    await site.open()
    ca, token = authority.load(site.home), site.token()
    identity, agent_id = Es256Signer(ec.generate_private_key(ec.SECP256R1())), bytes(range(16))
    request = EnrolRequest(token.secret, _tls_key()[1], cose.cose_key(identity.public_key()), agent_id, "TPM")
    with contextlib.closing(open_catalogue(site.home)) as catalogue:
        registrar = Registrar(ca, catalogue, "site", b"receipts")
        enrolled = registrar.enrol(sign_request(request, identity))
        renewed = registrar.renew(agent_id, _tls_key()[1])
    for certificates in (enrolled, renewed):
        session = new_session(agent_id, identity, (certificates.identity,), 1)
        trusted = check_chain(session.chain, ca.root)
        assert trusted.rooted
        assert trusted.identity == cose.thumbprint(identity.public_key())
