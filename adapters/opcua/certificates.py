"""Our own certificate, made and renewed here, and the servers' certificates that a person has trusted.

Source: OPC 10000-6, 6.2.2 (application instance certificates). Layout of the folder: ``own.pem`` and ``own.key.pem`` (0600),
after a renewal ``own.previous.pem``, and ``trusted/HOST_PORT.der``. Invariants: the key never changes and never leaves the
folder; files appear whole or not at all; a renewed certificate is tried first, and the one before it stays in use for as
long as a server knows only that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlparse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.errors import ConfigError, PermissionRefused

VALID_DAYS = 1095
RENEW_DAYS = 60
"""So long before its end a certificate of our own is renewed: time to have the servers trust the new one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key (PEM or DER) and where it is."""

    certificate: x509.Certificate
    key: bytes
    path: Path


def own_identities(folder: Path) -> list[Identity]:
    """Our certificates to try, the newest first; makes or renews what is missing or near its end.

    Raises:
        ConfigError, PermissionRefused: the folder cannot be used.
    """
    try:
        return _own_identities(folder)
    except PermissionError as e:
        raise PermissionRefused(
            f"the folder {folder} cannot be used", why=str(e), try_="set identity = to a folder of the agent's user"
        ) from e
    except OSError as e:
        raise ConfigError(f"the folder {folder} cannot be used", why=str(e), try_="set identity = to another folder") from e
    except ValueError as e:
        raise ConfigError(f"our certificate in {folder} is damaged", why=str(e), try_=f"remove {folder}/own*.pem; new ones are made") from e


def _own_identities(folder: Path) -> list[Identity]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    own, previous = folder / "own.pem", folder / "own.previous.pem"
    key = _own_key(folder / "own.key.pem")
    now = datetime.now(UTC)
    if own.exists():
        certificate = x509.load_pem_x509_certificate(own.read_bytes())
        if certificate.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
            os.replace(own, previous)
            log.warning(
                "the certificate %s ends on %s: renewed; have the servers trust the new one", own, certificate.not_valid_after_utc.date()
            )
    if not own.exists():
        _write(own, _made(key).public_bytes(serialization.Encoding.PEM), 0o644)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    found = [Identity(x509.load_pem_x509_certificate(path.read_bytes()), pem, path) for path in (own, previous) if path.exists()]
    return [one for one in found if one.path == own or one.certificate.not_valid_after_utc > now]


def trusted_path(folder: Path, endpoint: str) -> Path:
    """Where the pinned certificate of an endpoint is."""
    parts = urlparse(endpoint)
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in parts.hostname or "server")
    return folder / "trusted" / f"{host}_{parts.port}.der"


def pin(folder: Path, endpoint: str, certificate: x509.Certificate) -> Path:
    """Trust this certificate from now on for the endpoint; returns the file.

    Raises:
        PermissionRefused: the folder cannot be written to.
    """
    path = trusted_path(folder, endpoint)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        _write(path, certificate.public_bytes(serialization.Encoding.DER), 0o644)
    except OSError as e:
        raise PermissionRefused(f"{path} cannot be written", why=str(e), try_="run it as the agent's user, or as root") from e
    return path


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, as ``AB:CD:...``."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def thumbprint(certificate: x509.Certificate) -> str:
    """SHA-1 of a certificate, which OPC-UA tools show."""
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - a name, no proof


def _own_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError(f"{path} is no RSA key")
        return key
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write(path, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), 0o600)
    return key


def _made(key: rsa.RSAPrivateKey) -> x509.Certificate:
    host = socket.gethostname()
    now = datetime.now(UTC)
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"edge-agent@{host}"[:64]), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "edge-agent")]
    )
    uses = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True, key_agreement=False,
        key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"urn:edge-agent:opcua:{host}"), x509.DNSName(host)]
    return (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=VALID_DAYS)
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(uses, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """A whole file, durable, or none."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
