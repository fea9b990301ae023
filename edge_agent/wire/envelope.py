"""Envelopes: files encrypted to a project's public key, for storage that others can read.

An envelope is an age file (https://age-encryption.org/v1: X25519, ChaCha20-Poly1305 in blocks of 64 KiB) that holds a tar with one file,
under the path that it would have had in the project space. So ``age -d -i KEY X.age | tar x`` opens it too, and no program of ours is
needed. It says who may read, not who wrote: anybody can encrypt to a public key. What proves the origin is in the file, as ever.

Names tell nothing: the folder is a digest of the project's public key, the run's folder one of the key and of the run's random id. Sizes
and times are not hidden. All functions block; memory does not grow with the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import pyrage
from pyrage import x25519

from edge_agent.errors import EdgeAgentError, IntegrityError, PermissionRefused, UsageError

SUFFIX = ".age"
PLACE = "encrypted"
BLOCK = tarfile.BLOCKSIZE
END = 2 * BLOCK
"""Zeros at the end of a tar."""
LONGEST_HEAD = 16 * BLOCK
"""Of a tar with one file; a path has at most 1000 bytes."""
READ = 1 << 20
HEAD = 4096
"""Bytes that the head of an envelope may take."""
LONGEST_KEY_FILE = 1 << 16


class NoKey(ValueError):
    """A text that is no public key; ``secret``: it is a secret one."""

    def __init__(self, *, secret: bool = False) -> None:
        super().__init__("a secret key" if secret else "no public key")
        self.secret = secret


def recipient(text: str) -> x25519.Recipient:
    """The public key in a text such as ``age1...`` (X25519).

    Raises:
        NoKey: it is none.
    """
    try:
        return x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise NoKey(secret=text.upper().startswith("AGE-SECRET-KEY-")) from error


def folder_of(key: str) -> str:
    """Where the envelopes of the project with this public key are: for whoever has the key to find, and telling others nothing."""
    return f"{PLACE}/{_digest(b'project', key.encode())[:16]}"


def run_folder_of(key: str, run_id: bytes) -> str:
    """The folder of a run (of whose id, 16 random bytes, nobody can guess it)."""
    return f"{folder_of(key)}/{_digest(b'run', key.encode(), run_id)[:32]}"


def blinded(key: str, run_id: bytes, name: str) -> str:
    """A name, within a run's folder, that stays the same and tells nothing."""
    return _digest(b"name", key.encode(), run_id, name.encode())[:32]


def largest_content(size: int) -> int:
    """Bytes of the largest file whose envelope has at most ``size`` bytes."""
    return max(0, size - size // 4096 - HEAD - LONGEST_HEAD - END - BLOCK)


# ---- closing


class Content(Protocol):
    """A file by offset; see `edge_agent.deliver.outgoing.OutgoingFile.read`."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at ``offset``."""
        ...


def close(content: Content, name: str, size: int, mtime: int, keys: Sequence[str], out: IO[bytes]) -> tuple[int, bytes]:
    """Write the envelope of a file; bytes and SHA-256 of it. No two are alike: each has a file key of its own.

    Args:
        content: the file.
        name: its path in the project space.
        size: its bytes.
        mtime: when it was written, seconds since 1970.
        keys: the public keys, each of which opens it.
        out: where to write.

    Raises:
        NoKey: one of them is none.
        OSError: ``out`` cannot be written.
        EdgeAgentError: whatever ``content`` raises.
    """
    source, sink = _Tar(content, name, size, mtime), _Hashing(out)
    try:
        pyrage.encrypt_io(source, sink, [recipient(key) for key in keys])
    except (pyrage.EncryptError, OSError) as error:
        # pyrage keeps only the text of what a reader or writer raises.
        raise source.error or sink.error or OSError(str(error)) from error
    if sink.error is not None:  # it says nothing of a last block that could not be written
        raise sink.error
    return sink.size, sink.digest.digest()


class _Tar:
    """Reads as a tar with one file."""

    def __init__(self, content: Content, name: str, size: int, mtime: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, mtime, 0o644
        self._content, self._size, self._at = content, size, 0
        self._rest = memoryview(info.tobuf(tarfile.PAX_FORMAT))
        self._tail = bytes(-size % BLOCK + END)
        self.error: Exception | None = None

    def read(self, length: int = -1) -> bytes:
        try:
            while not self._rest and (self._at < self._size or self._tail):
                if self._at < self._size:
                    self._rest = memoryview(self._content.read(self._at, min(READ, self._size - self._at)))
                    self._at += len(self._rest)
                else:
                    self._rest, self._tail = memoryview(self._tail), b""
        except Exception as error:
            self.error = error
            raise
        piece, self._rest = self._rest[:length], self._rest[length:]
        return bytes(piece)


class _Hashing:
    def __init__(self, out: IO[bytes]) -> None:
        self._out, self.size, self.digest = out, 0, hashlib.sha256()
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        try:
            self._out.write(data)
        except Exception as error:
            self.error = error
            raise
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """The owner does."""


# ---- opening


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that was in an envelope. ``there``: the same was there already."""

    path: Path
    size: int
    sha256: bytes
    there: bool


def new_key() -> tuple[str, str]:
    """A new secret key and its public one."""
    made = x25519.Identity.generate()
    return str(made), str(made.to_public())


def read_key(path: Path) -> list[x25519.Identity]:
    """The secret keys in a file as ``edge-agent project-key new`` and ``age-keygen`` write it: one a line, ``#`` begins a remark.

    Raises:
        UsageError: it cannot be read, or has none.
    """
    what = f"{path} is no file with a secret key"
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_KEY_FILE + 1)
        lines = [line.strip() for line in data[:LONGEST_KEY_FILE].decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(what, why=str(error), try_=_KEY_FILE, code="ENVELOPE_KEY_FILE") from error
    texts = [line for line in lines if line and not line.startswith("#")]
    if any(text.startswith("age1") for text in texts):
        raise UsageError(what, why="it has a public key, which only closes envelopes", try_=_KEY_FILE, code="ENVELOPE_KEY_FILE")
    try:
        keys = [x25519.Identity.from_str(text) for text in texts]
    except pyrage.IdentityError as error:
        raise UsageError(what, why=str(error), try_=_KEY_FILE, code="ENVELOPE_KEY_FILE") from error
    if not keys:
        raise UsageError(what, why="there is no key in it", try_=_KEY_FILE, code="ENVELOPE_KEY_FILE")
    return keys


def open_envelope(envelope: Path, keys: Iterable[x25519.Identity], out: Path) -> Opened:
    """Put the file of an envelope below ``out``. It gets its name only after all of it was authenticated; nothing is replaced.

    Raises:
        PermissionRefused: it is not encrypted to one of the keys.
        IntegrityError: it is damaged, cut short or none of ours, or another file has the name already.
        OSError: the disk refuses.
    """
    with envelope.open("rb") as source, _Unpacked(envelope, out) as sink:
        try:
            pyrage.decrypt_io(source, sink, list(keys))
        except (pyrage.DecryptError, OSError) as error:
            if sink.error is not None:
                raise sink.error from error
            if "No matching keys" in str(error):
                raise PermissionRefused(
                    f"{envelope} does not open with this key.", why="it is encrypted to another project's key, or its head is damaged",
                    try_="use the key of the project that it belongs to", code="ENVELOPE_OTHER_KEY",
                ) from error  # fmt: skip
            raise _damaged(envelope, f"it is cut short, changed or no envelope: {error}") from error
        if sink.error is not None:
            raise sink.error
        return sink.done()


class _Unpacked:
    """Takes the tar and writes its one file under a temporary name; every name in it is believed to be hostile."""

    def __init__(self, envelope: Path, out: Path) -> None:
        self._envelope, self._out = envelope, out
        self._head = bytearray()
        self._file: IO[bytes] | None = None
        self._place = self._part = out
        self._left = self._zeros = self._size = 0
        self._digest = hashlib.sha256()
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> int:
        try:
            self._take(memoryview(data))
        except Exception as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """At the end."""

    def done(self) -> Opened:
        """All was authenticated."""
        if self._file is None or self._left or self._zeros < END:
            raise _damaged(self._envelope, "the tar in it is cut short")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        sha256 = self._digest.digest()
        if there := self._place.exists():
            if self._place.is_symlink() or not self._place.is_file() or _sha256(self._place) != sha256:
                raise IntegrityError(
                    f"{self._place} is there already, and is another file.", why=f"the one in {self._envelope} has SHA-256 {sha256.hex()}",
                    try_="open it into an empty folder, with --out", code="ENVELOPE_CONFLICT",
                )  # fmt: skip
        else:
            self._part.replace(self._place)
        return Opened(self._place, self._size, sha256, there)

    def _take(self, data: memoryview) -> None:
        if self._file is None:
            self._head += data
            wanted = self._head_size()
            if len(self._head) < wanted:
                return
            self._begin(self._member(bytes(self._head[:wanted])))
            data = memoryview(bytes(self._head[wanted:]))
        assert self._file is not None  # noqa: S101 - begun above
        mine = data[: self._left]
        self._file.write(mine)
        self._digest.update(mine)
        self._left -= len(mine)
        if any(data[len(mine) :]):
            raise _damaged(self._envelope, "there is more in it than one file")
        self._zeros += len(data) - len(mine)

    def _head_size(self) -> int:
        """Bytes of the head: a block, or three or more with a long name."""
        if len(self._head) < BLOCK:
            return BLOCK
        try:
            first = tarfile.TarInfo.frombuf(bytes(self._head[:BLOCK]), "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise _damaged(self._envelope, f"there is no tar in it: {error}") from error
        more = 0 if first.type != tarfile.XHDTYPE else BLOCK + first.size + -first.size % BLOCK
        if not 0 <= more <= LONGEST_HEAD:
            raise _damaged(self._envelope, f"a name of {first.size} bytes")
        return BLOCK + more

    def _member(self, head: bytes) -> tarfile.TarInfo:
        try:
            with tarfile.open(fileobj=io.BytesIO(head), mode="r:", encoding="utf-8", errors="strict") as tar:
                member = tar.next()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise _damaged(self._envelope, f"there is no tar in it: {error}") from error
        if member is None or member.type != tarfile.REGTYPE or member.sparse is not None or member.size < 0:
            raise _damaged(self._envelope, "what is in it is no plain file")
        return member

    def _begin(self, member: tarfile.TarInfo) -> None:
        parts = member.name.split("/")
        bad = set('\\:*?"<>|') if os.name == "nt" else set()
        if any(part in ("", ".", "..") or not part.isprintable() or bad & set(part) for part in parts):
            raise _damaged(self._envelope, f"a name that would leave the folder or cannot be written: {member.name[:200]!r}")
        folder = self._out.joinpath(*parts[:-1])
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(self._out.resolve()):
            raise _damaged(self._envelope, f"a name that leaves the folder through a link: {member.name[:200]!r}")
        self._place = folder / parts[-1]
        self._part = folder / f".{os.urandom(8).hex()}.part"
        self._size = self._left = member.size
        self._file = self._part.open("xb")


def _damaged(envelope: Path, why: str) -> EdgeAgentError:
    return IntegrityError(
        f"{envelope} cannot be opened.", why=why, try_="fetch it again from where it is stored, and compare its SHA-256",
        code="ENVELOPE_DAMAGED",
    )  # fmt: skip


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _digest(what: bytes, *parts: Any) -> str:
    made = hashlib.sha256(b"edge-agent/1/envelope/" + what)
    for part in parts:
        made.update(len(part).to_bytes(4, "big") + part)
    return made.hexdigest()


_KEY_FILE = "give the file that edge-agent project-key new or age-keygen wrote"
