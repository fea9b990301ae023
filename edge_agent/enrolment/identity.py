"""The identity folder: ``identity.key`` (sealed: ``.cred``, ``.dpapi``) and ``identity.pem``.

Enrolment adds ``tls.pem``, ``root.pem``, ``receipts.pem``, ``enrolled.json``. Before it the agent has an id of its own and a self-signed
certificate, so it can record and sign at once; enrolment keeps both id and key.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import pydantic
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edge_agent.enrolment.sealing import PLAIN, SEALERS, Sealer
from edge_agent.errors import ConfigError
from edge_agent.seal import cose
from edge_agent.seal.keys import AGENT_URN, signing_key, urns
from edge_agent.wire.words import six_words

log = logging.getLogger(__name__)

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


def open_identity(folder: Path, sealer: Sealer = PLAIN) -> Identity:
    """The identity in a folder, made when there is none.

    Args:
        folder: the identity folder.
        sealer: how a new key is stored, and a plain one from now on. A sealed key stays sealed.

    Raises:
        ConfigError: the files cannot be read or do not belong together; a new key cannot be sealed.
    """
    if not (folder / "identity.pem").exists() and not (folder / "enrolled.json").exists():
        _make(folder, sealer)
    try:
        found, stored = _stored_key(folder)
        pem = found.unseal(stored)
        key = load_pem_private_key(pem, None)
        certificate = x509.load_pem_x509_certificate((folder / "identity.pem").read_bytes())
        names = [name for name in urns(certificate) if name.startswith(AGENT_URN)]
        if not isinstance(key, Ed25519PrivateKey) or len(names) != 1:
            raise ValueError("not an Ed25519 key and a certificate for one agent")
        if cose.thumbprint(key.public_key()) != cose.thumbprint(signing_key(certificate)):
            raise ValueError("the key is not the certificate's")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"The agent's identity in {folder} cannot be read", why=str(error),
            try_="restore both files from a backup of this machine; without one, remove the folder and enrol as a new agent",
            code="IDENTITY",
        ) from error  # fmt: skip
    if found.suffix == PLAIN.suffix != sealer.suffix:
        _seal_later(folder, sealer, pem)
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


def _stored_key(folder: Path) -> tuple[Sealer, bytes]:
    for sealer in SEALERS:
        path = folder / f"identity.key{sealer.suffix}"
        if path.exists():
            return sealer, path.read_bytes()
    raise FileNotFoundError(f"there is no identity.key in {folder}")


def _store_key(folder: Path, sealer: Sealer, pem: bytes) -> None:
    """Write the key, sealed, and only then take the others away; a crash leaves one that can be read.

    Raises:
        OSError: it cannot be sealed, or not be unsealed again.
    """
    sealed = sealer.seal(pem)
    if sealer.unseal(sealed) != pem:
        raise OSError("what was sealed is another thing when it is unsealed")
    write_private(folder / f"identity.key{sealer.suffix}", sealed)
    for other in SEALERS:
        if other.suffix != sealer.suffix:
            (folder / f"identity.key{other.suffix}").unlink(missing_ok=True)


def _seal_later(folder: Path, sealer: Sealer, pem: bytes) -> None:
    """Seal a key that lies there plain. Capture does not wait for it: what cannot be sealed is used as it is, and said."""
    try:
        _store_key(folder, sealer, pem)
        log.info("the identity key in %s is sealed for this machine now", folder)
    except OSError as error:
        log.warning("the identity key in %s is not sealed: %s", folder, error, extra={"code": "IDENTITY_SEAL"})


def _make(folder: Path, sealer: Sealer) -> None:
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
    try:
        _store_key(folder, sealer, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as error:
        raise ConfigError(
            f"The agent's identity key in {folder} cannot be sealed", why=str(error),
            try_='run as root where systemd-creds is installed, or say keys = { seal = "file" }', code="IDENTITY_SEAL",
        ) from error  # fmt: skip
    write_private(folder / "identity.pem", certificate.public_bytes(Encoding.PEM))
