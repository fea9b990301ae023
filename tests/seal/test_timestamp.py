"""RFC 3161 tokens of a real ``openssl ts`` are taken when they answer the request, and judged by the roots that are given."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.seal.cbor import SealError
from edge_agent.seal.timestamp import MAX_TOKEN, check_token, request, stamp_of, token_of
from tests.tsa import Tsa

DIGEST = hashlib.sha256(b"a sidecar").digest()
NONCE = 0x80C0FFEE


pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa") / "a")


@pytest.fixture(scope="module")
def answer(tsa: Tsa) -> bytes:
    return tsa.answer(request(DIGEST, NONCE))


def test_a_token_says_what_was_there_and_when(tsa: Tsa, answer: bytes) -> None:
    token = token_of(answer, DIGEST, NONCE, [tsa.root])
    stamp = check_token(token, [tsa.root])
    assert stamp == stamp_of(token)
    assert stamp.digest == DIGEST
    assert abs(stamp.t_ns - time.time_ns()) < 3600 * 10**9


def test_openssl_verifies_the_token_that_is_kept(tsa: Tsa, answer: bytes, tmp_path: Path) -> None:
    path = tmp_path / "token.der"
    path.write_bytes(token_of(answer, DIGEST, NONCE))
    command = ["openssl", "ts", "-verify", "-digest", DIGEST.hex(), "-in", path, "-token_in", "-CAfile", tsa.root_file]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_token_of_another_digest_or_nonce_is_not_the_answer(answer: bytes) -> None:
    with pytest.raises(SealError, match="of another digest"):
        token_of(answer, bytes(32), NONCE)
    with pytest.raises(SealError, match="the nonce is not the one"):
        token_of(answer, DIGEST, NONCE + 1)


def test_a_refusal_is_told_in_the_words_of_the_tsa(tsa: Tsa) -> None:
    with pytest.raises(SealError, match=r"refused with status rejection: .*algorithm"):
        token_of(tsa.answer(request(DIGEST, NONCE), digests="sha512"), DIGEST, NONCE)


def test_a_refusal_with_a_status_that_nobody_defined_is_told() -> None:
    with pytest.raises(SealError, match="refused with status 9: it gives no reason"):
        token_of(bytes.fromhex("30053003020109"), DIGEST, NONCE)


def test_an_unknown_an_expired_and_an_unfit_tsa_are_not_believed(tsa: Tsa, answer: bytes, tmp_path: Path) -> None:
    stranger = Tsa(tmp_path / "stranger", key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SealError, match="no given root vouches for it"):
        token_of(answer, DIGEST, NONCE, [stranger.root])
    assert stamp_of(token_of(stranger.answer(request(DIGEST, NONCE)), DIGEST, NONCE, [tsa.root, stranger.root])).digest == DIGEST
    for unfit in ({"start": -20}, {"start": 5}):
        other = Tsa(tmp_path / f"{unfit}", **unfit)
        with pytest.raises(SealError, match="no given root vouches for it"):
            token_of(other.answer(request(DIGEST, NONCE)), DIGEST, NONCE, [other.root])


def test_a_certificate_for_something_else_cannot_stamp(tsa: Tsa, answer: bytes, tmp_path: Path) -> None:
    """``openssl ts`` refuses to sign with such a certificate, so the right one is replaced in a copy of the authority."""
    folder = tmp_path / "copy"
    shutil.copytree(tsa.folder, folder)
    token = token_of(answer, DIGEST, NONCE)
    oid = bytes.fromhex("06082b06010505070308")  # id-kp-timeStamping; ...09 is OCSP signing
    assert oid in token
    with pytest.raises(SealError, match="no given root vouches for it"):
        check_token(token.replace(oid, oid[:-1] + b"\x09"), [tsa.root])


def test_no_changed_byte_makes_a_token_say_something_else(tsa: Tsa, answer: bytes) -> None:
    token = token_of(answer, DIGEST, NONCE)
    right = stamp_of(token)
    for at in range(0, len(token), 3):
        changed = bytearray(token)
        changed[at] ^= 1
        try:
            assert check_token(bytes(changed), [tsa.root]) == right
        except SealError:
            continue


def test_garbage_is_no_answer(answer: bytes) -> None:
    for garbage in (
        b"", b"0", b"\x30\x80", b"hello", answer[:50], answer + b"x", b"<html>502</html>", b"\x30\x85\1\1\1\1\1", b"\x30\x81", b"\x30\x00",
        b"\x30\x03\x02\x01\x02", b"\x31\x03\x02\x01\x02", b"\x30\x05\x30\x03\x02\x01\x02", b"0" * (MAX_TOKEN + 1),
        bytes.fromhex("300a") + bytes.fromhex("3003020100") + bytes.fromhex("3003020100"),
        bytes.fromhex("300e") + bytes.fromhex("3003020100") + bytes.fromhex("3007020101a0020500"),
    ):  # fmt: skip
        with pytest.raises(SealError, match="time-stamp: "):
            token_of(garbage, DIGEST, NONCE)
    for garbage in (b"", b"hello", b"0" * (MAX_TOKEN + 1)):
        with pytest.raises(SealError, match="time-stamp: "):
            stamp_of(garbage)


def test_a_grant_with_changes_is_not_taken(answer: bytes) -> None:
    granted = bytes.fromhex("3003020100")
    at = answer.index(granted)
    with pytest.raises(SealError, match="granted with modifications"):
        token_of(answer[:at] + bytes.fromhex("3003020101") + answer[at + 5 :], DIGEST, NONCE)


def test_a_token_over_another_hash_is_refused(tsa: Tsa, tmp_path: Path) -> None:
    query = tmp_path / "query"
    subprocess.run(["openssl", "ts", "-query", "-digest", "00" * 64, "-sha512", "-cert", "-out", query], check=True, capture_output=True)
    with pytest.raises(SealError, match="not of a SHA-256 digest"):
        token_of(tsa.answer(query.read_bytes(), digests="sha512"), DIGEST, 0)
