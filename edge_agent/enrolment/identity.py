"""The identity folder: ``identity.key``, ``identity.pem``; enrolment adds ``tls.pem``, ``root.pem``, ``receipts.pem``, ``enrolled.json``.

Before enrolment the agent has an id of its own and a self-signed certificate, so it can record and sign at once;
enrolment keeps both id and key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import pydantic
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edge_agent.errors import ConfigError
from edge_agent.seal import cose
from edge_agent.seal.keys import AGENT_URN, signing_key, urns
from edge_agent.wire.words import six_words

_LIFE = dt.timedelta(days=20 * 365)


@dataclass(frozen=True, slots=True)
class Identity:
    """The agent: ``agent_id`` 16 bytes, its Ed25519 identity key, the DER of its identity certificate."""

    folder: Path
    agent_id: bytes
    key: Ed25519PrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)

    @property
    def words(self) -> str:
        """Six words for the identity key; the landing service logs the same when it enrols the agent."""
        return six_words(hashlib.sha256(cose.raw_public(self.key.public_key())).digest())


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    url: str
    service: str
    projects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where the agent is enrolled: URL and name of the landing service, and the projects that the agent may write to."""

    folder: Path
    url: str
    service: str
    projects: tuple[str, ...]

    @property
    def root(self) -> Path:
        """PEM of the pinned root."""
        return self.folder / "root.pem"

    @property
    def tls(self) -> Path:
        """PEM of the TLS client key and certificate, in one file."""
        return self.folder / "tls.pem"

    @property
    def receipts(self) -> Path:
        """PEM of the receipt certificates, the newest last."""
        return self.folder / "receipts.pem"

    def due(self, now: dt.datetime) -> bool:
        """Whether two thirds of the TLS certificate's life are over."""
        certificate = x509.load_pem_x509_certificate(self.tls.read_bytes())
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return now > certificate.not_valid_before_utc + life * 2 / 3

    def save(self) -> None:
        """Write ``enrolled.json``: last of all, so its presence says that the enrolment is whole."""
        text = _File(url=self.url, service=self.service, projects=self.projects).model_dump_json(indent=2)
        write_private(self.folder / "enrolled.json", text.encode())


def open_identity(folder: Path) -> Identity:
    """The identity in a folder, made when there is none.

    Raises:
        ConfigError: the files cannot be read or do not belong together.
    """
    if not (folder / "identity.pem").exists() and not (folder / "enrolled.json").exists():
        _make(folder)
    try:
        key = load_pem_private_key((folder / "identity.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / "identity.pem").read_bytes())
        names = [name for name in urns(certificate) if name.startswith(AGENT_URN)]
        if not isinstance(key, Ed25519PrivateKey) or len(names) != 1:
            raise ValueError("not an Ed25519 key and a certificate for one agent")
        if cose.thumbprint(key.public_key()) != cose.thumbprint(signing_key(certificate)):
            raise ValueError("the key is not the certificate's")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"The agent's identity in {folder} cannot be read", why=str(error),
            try_="restore both files from a backup; without one, remove the folder and enrol as a new agent", code="IDENTITY",
        ) from error  # fmt: skip
    return Identity(folder, bytes.fromhex(names[0].removeprefix(AGENT_URN)), key, certificate.public_bytes(Encoding.DER))


def load_enrolment(folder: Path) -> Enrolment | None:
    """The enrolment, if the agent has one.

    Raises:
        ConfigError: ``enrolled.json`` is broken.
    """
    file = folder / "enrolled.json"
    try:
        read = _File.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except pydantic.ValidationError as error:
        raise ConfigError(f"{file} cannot be read", why=str(error), try_="enrol again: edge-agent enroll TOKEN", code="IDENTITY") from error
    return Enrolment(folder, read.url, read.service, read.projects)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably; only its owner may read it."""
    part = path.with_name(path.name + ".part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    if os.name != "nt":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _make(folder: Path) -> None:
    """Make id, key and self-signed certificate; the certificate is written last, and a key without one is made anew."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    agent_id = secrets.token_bytes(16)
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"agent {agent_id.hex()}")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(AGENT_URN + agent_id.hex())]), critical=False)
        .sign(key, None)
    )
    write_private(folder / "identity.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_private(folder / "identity.pem", certificate.public_bytes(Encoding.PEM))
