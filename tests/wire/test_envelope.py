"""Envelopes: what is in one comes out byte for byte, for who has the key, and everything hostile is refused and leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, TargetUnreachable, UsageError
from edge_agent.wire import envelope

NAME = "p/g/2026-11-26/000001/000001_鋼.h5"
Make = Callable[..., Path]


class Content:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


class Failing(Content):
    def read(self, offset: int, length: int) -> bytes:
        raise TargetUnreachable("the disk is silent")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A key file and the public key."""
    secret, public = envelope.new_key()
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text(f"# created: today\n# public key: {public}\n\n{secret}\n")
    return path, public


@pytest.fixture
def make(tmp_path: Path, key: tuple[Path, str]) -> Make:
    def write(data: bytes, name: str = NAME, keys: tuple[str, ...] = ()) -> Path:
        path = tmp_path / "a.age"
        with path.open("wb") as out:
            size, sha256 = envelope.close(Content(data), name, len(data), 1_764_000_000, keys or (key[1],), out)
        assert (size, sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).digest())
        return path

    return write


def opened(path: Path, key: Path, out: Path) -> envelope.Opened:
    return envelope.open_envelope(path, envelope.read_key(key), out)


def files(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 65536 - 512, 65536, (1 << 20) + 1, 3_000_000])
def test_a_file_comes_out_byte_for_byte_under_its_path(size: int, make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    data = os.urandom(size)
    found = opened(make(data), key[0], tmp_path / "out")
    assert found.path == tmp_path / "out" / NAME
    assert found.path.read_bytes() == data
    assert (found.size, found.sha256, found.there) == (size, hashlib.sha256(data).digest(), False)
    assert files(tmp_path / "out") == [NAME]


def test_opening_again_is_a_success_and_another_file_is_never_replaced(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    path = make(b"right")
    opened(path, key[0], tmp_path / "out")
    assert opened(path, key[0], tmp_path / "out").there
    (tmp_path / "out" / NAME).write_bytes(b"mine")
    with pytest.raises(IntegrityError, match="is another file"):
        opened(path, key[0], tmp_path / "out")
    assert (tmp_path / "out" / NAME).read_bytes() == b"mine"
    assert files(tmp_path / "out") == [NAME]


def test_no_two_envelopes_are_alike_and_none_shows_name_or_content(make: Make) -> None:
    one, other = (make(b"canary-in-the-values " * 1000).read_bytes() for _ in range(2))
    assert one != other
    assert not any(word in one for word in (b"canary", b"000001", "鋼".encode(), b"p/g/"))


def test_each_of_two_keys_opens_it(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    secret, public = envelope.new_key()
    (tmp_path / "second").write_text(secret)
    path = make(b"data", keys=(key[1], public))
    for number, which in enumerate((key[0], tmp_path / "second")):
        assert opened(path, which, tmp_path / str(number)).path.read_bytes() == b"data"


def ran(*command: object, data: bytes | None = None) -> bytes:
    return subprocess.run([str(word) for word in command], input=data, check=True, capture_output=True, timeout=60).stdout


@pytest.mark.peers
@pytest.mark.needs("age", "tar")
def test_age_and_tar_open_it_too(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    """Nothing of ours is needed."""
    tar = ran("age", "-d", "-i", key[0], make(b"data" * 50_000))
    ran("tar", "x", "-C", tmp_path, data=tar)
    assert (tmp_path / NAME).read_bytes() == b"data" * 50_000
    assert (tmp_path / NAME).stat().st_mtime == 1_764_000_000


@pytest.mark.peers
@pytest.mark.needs("age", "age-keygen", "tar")
def test_what_age_and_tar_made_is_opened_with_a_key_of_theirs(tmp_path: Path) -> None:
    ran("age-keygen", "-o", tmp_path / "key")
    public = ran("age-keygen", "-y", tmp_path / "key").decode().strip()
    assert envelope.recipient(public)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.h5").write_bytes(b"data")
    ran("age", "-r", public, "-o", tmp_path / "a.age", data=ran("tar", "c", "-C", tmp_path, "p/a.h5"))
    assert opened(tmp_path / "a.age", tmp_path / "key", tmp_path / "out").path.read_bytes() == b"data"


def refused(path: Path, key: Path, out: Path, kind: type[EdgeAgentError] = IntegrityError) -> EdgeAgentError:
    with pytest.raises(kind) as caught:
        opened(path, key, out)
    assert files(out) == [] if out.exists() else True
    assert caught.value.why
    assert caught.value.try_
    return caught.value


def test_the_key_of_another_project_does_not_open_it(make: Make, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(envelope.new_key()[0])
    error = refused(make(b"data"), tmp_path / "other", tmp_path / "out", PermissionRefused)
    assert error.code == "ENVELOPE_OTHER_KEY"


def test_an_envelope_that_is_cut_short_anywhere_leaves_nothing(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    path = make(os.urandom(200_000))
    data = path.read_bytes()
    for length in (0, 1, 20, 100, 200, 300, 70_000, 131_400, len(data) - 1):
        path.write_bytes(data[:length])
        assert refused(path, key[0], tmp_path / "out").code == "ENVELOPE_DAMAGED"
    path.write_bytes(data + b"x")
    assert refused(path, key[0], tmp_path / "out").code == "ENVELOPE_DAMAGED"


def test_a_byte_that_was_changed_anywhere_is_seen(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    path = make(os.urandom(150_000))
    data = path.read_bytes()
    for at in [*range(0, 400, 7), 1000, 65_536, 70_000, len(data) - 1]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        refused(path, key[0], tmp_path / "out", EdgeAgentError)


def test_the_head_of_another_envelope_does_not_open_it(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    one, other = make(b"one" * 50_000).read_bytes(), make(b"two" * 50_000).read_bytes()
    end = one.index(b"\n--- ") + 48
    (tmp_path / "a.age").write_bytes(one[:end] + other[end:])
    assert refused(tmp_path / "a.age", key[0], tmp_path / "out").code == "ENVELOPE_DAMAGED"


def test_blocks_that_changed_places_are_seen(make: Make, key: tuple[Path, str], tmp_path: Path) -> None:
    path = make(os.urandom(300_000))
    data = path.read_bytes()
    start, block = len(data) - 4 * 65_552, 65_552
    path.write_bytes(data[:start] + data[start + block : start + 2 * block] + data[start : start + block] + data[start + 2 * block :])
    assert refused(path, key[0], tmp_path / "out").code == "ENVELOPE_DAMAGED"


def wrapped(tar: bytes, public: str, path: Path) -> Path:
    """Anybody can encrypt anything to a public key."""
    path.write_bytes(pyrage.encrypt(tar, [envelope.recipient(public)]))
    return path


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a//evil", "./evil", "a/\x1b[2Jevil", "a/b\u202eevil", "", "a/\nevil"])
def test_a_hostile_name_leaves_the_folder_nowhere(name: str, key: tuple[Path, str], tmp_path: Path) -> None:
    info = member(name or "x")
    info.pax_headers = {"path": name}
    refused(wrapped(tar_of((info, b"x")), key[1], tmp_path / "a.age"), key[0], tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("*evil*"))


def test_a_link_in_the_folder_is_not_followed_out_of_it(key: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "p").symlink_to(tmp_path / "elsewhere")
    path = wrapped(tar_of((member("p/evil"), b"x")), key[1], tmp_path / "a.age")
    with pytest.raises(IntegrityError):
        opened(path, key[0], tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
def test_only_plain_files_come_out(kind: bytes, key: tuple[Path, str], tmp_path: Path) -> None:
    path = wrapped(member("p/evil", kind, "/etc/passwd").tobuf() + bytes(1024), key[1], tmp_path / "a.age")
    refused(path, key[0], tmp_path / "out")


def test_a_second_file_is_refused(key: tuple[Path, str], tmp_path: Path) -> None:
    refused(wrapped(tar_of((member("a"), b"x"), (member("b"), b"y")), key[1], tmp_path / "a.age"), key[0], tmp_path / "out")


def test_a_tar_that_is_cut_short_or_says_a_huge_name_is_refused(key: tuple[Path, str], tmp_path: Path) -> None:
    whole = tar_of((member("a"), b"x" * 5000))
    for length in (0, 100, 512, 3000, 512 + 5120):
        refused(wrapped(whole[:length], key[1], tmp_path / "a.age"), key[0], tmp_path / "out")
    huge = member("x", tarfile.XHDTYPE)
    huge.size = 1 << 40
    refused(wrapped(huge.tobuf() + bytes(100_000), key[1], tmp_path / "a.age"), key[0], tmp_path / "out")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2000))
def test_no_bytes_in_an_envelope_do_harm(key: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    refused(wrapped(data, key[1], folder / "a.age"), key[0], folder / "out")


def test_an_error_of_the_file_or_of_the_disk_is_told_as_it_is(key: tuple[Path, str]) -> None:
    with pytest.raises(TargetUnreachable, match="the disk is silent"):
        envelope.close(Failing(b""), NAME, 10, 0, (key[1],), io.BytesIO())
    with pytest.raises(ValueError, match="closed file"):
        out = io.BytesIO()
        out.close()
        envelope.close(Content(b"x"), NAME, 1, 0, (key[1],), out)


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"hello", b"\xff\xfe", b"AGE-SECRET-KEY-1QQ", b"age1kjk7n7n44yl6r404vl3920j3kr3usc9j9ch49ggvyq309cruxyhsvrtrte"])
def test_what_is_no_secret_key_is_told(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(text)
    with pytest.raises(UsageError) as caught:
        envelope.read_key(tmp_path / "key")
    assert caught.value.why
    assert b"AGE-SECRET-KEY-1QQ" not in str(caught.value).encode()
    with pytest.raises(UsageError):
        envelope.read_key(tmp_path / "nowhere")


def test_places_are_told_by_the_key_and_by_nothing_else() -> None:
    run, key, other = os.urandom(16), envelope.new_key()[1], envelope.new_key()[1]
    assert envelope.run_folder_of(key, run).startswith(envelope.folder_of(key) + "/")
    assert len({envelope.folder_of(key), envelope.folder_of(other)}) == 2
    assert len({envelope.run_folder_of(k, r) for k in (key, other) for r in (run, bytes(16))}) == 4
    assert envelope.blinded(key, run, "a") == envelope.blinded(key, run, "a") != envelope.blinded(key, run, "b")


@pytest.mark.parametrize("size", [0, 100_000, 10_000_000])
def test_what_a_store_takes_holds_the_envelope_of_the_largest_file(size: int, make: Make) -> None:
    path = make(bytes(size), keys=tuple(envelope.new_key()[1] for _ in range(8)), name="p/" + "長" * 300)
    assert envelope.largest_content(path.stat().st_size) <= size
    assert path.stat().st_size - size < size // 4096 + 15_000
    limit = path.stat().st_size + 20_000
    assert make(bytes(envelope.largest_content(limit))).stat().st_size <= limit
