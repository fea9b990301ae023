"""Certificates, keys and passwords of a connection: read from files, given to the library, never logged.

Invariant: a secure connection is made only to a server whose certificate a person has trusted, by `edge-agent trust` or by a file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from adapters.opcua.certificates import Identity, fingerprint, own_identities, trusted_path
from adapters.opcua.config import OpcUaConfig
from adapters.opcua.discovery import Offer
from edge_agent.errors import ConfigError, PermissionRefused

APPLICATION_URI = "urn:edge-agent:opcua"
"""Our name where no certificate gives one."""

_POLICIES = {
    "Basic256Sha256": "SecurityPolicyBasic256Sha256",
    "Aes128_Sha256_RsaOaep": "SecurityPolicyAes128Sha256RsaOaep",
    "Aes256_Sha256_RsaPss": "SecurityPolicyAes256Sha256RsaPss",
}


class NotOffered(ConnectionError):
    """The server does not offer the configured security."""


class NotTrusted(ConnectionError):
    """Nobody has trusted the server's certificate. ``pinned``: another one has been."""

    def __init__(self, why: str, *, pinned: bool) -> None:
        super().__init__(why)
        self.pinned = pinned


def transport(config: OpcUaConfig) -> str:
    """How the values travel, for the record."""
    return "unauthenticated" if config.security == "None" else f"{config.security} {config.mode}, server certificate pinned"


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate (.pem or .der); raises ConfigError or PermissionRefused."""
    data = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificate(data) if _is_pem(data) else x509.load_der_x509_certificate(data)
    except ValueError as e:
        raise ConfigError(f"{path} is no certificate", why=str(e), try_="give a .pem or .der file with one X.509 certificate") from e


def application_uri(certificate: x509.Certificate) -> str | None:
    """The URI among a certificate's alternative names, which must be the application URI (OPC 10000-6, 6.2.2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return str(uris[0]) if uris else None


def validity(certificate: x509.Certificate) -> str | None:
    """What is wrong with a certificate by this machine's clock, if anything."""
    now = datetime.now(UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if first <= now <= last:
        return None
    return f"it is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%Y-%m-%d %H:%M} UTC"


def identities(config: OpcUaConfig) -> list[Identity | None]:
    """Who we may say we are, first choice first; one None without security.

    Raises:
        ConfigError, PermissionRefused: a file is missing, unreadable or holds something else.
    """
    if config.security == "None":
        return [None]
    if config.certificate is None or config.private_key is None:
        return list(own_identities(config.identity))
    certificate = load_certificate(config.certificate)
    if application_uri(certificate) is None:
        raise ConfigError(
            f"{config.certificate} names no application URI",
            why="OPC-UA servers refuse a certificate without a URI among its alternative names",
            try_=f"make one with subjectAltName=URI:{APPLICATION_URI}, or leave certificate = out: then one is made",
        )
    return [Identity(certificate, _read(config.private_key, "private key"), config.certificate)]


def trusted(config: OpcUaConfig) -> x509.Certificate | None:
    """The server's certificate that a person has trusted; raises ConfigError or PermissionRefused."""
    if config.server_certificate is not None:
        return load_certificate(config.server_certificate)
    path = trusted_path(config.identity, config.endpoint)
    return load_certificate(path) if path.exists() else None


def checked(config: OpcUaConfig, offer: Offer) -> x509.Certificate:
    """The certificate that the server shows, if it is the trusted one.

    Raises:
        NotOffered, NotTrusted: there is no such endpoint, or it shows another certificate.
        ConfigError, PermissionRefused: the file of the trusted certificate is wrong.
    """
    pinned = trusted(config)
    shown = offer.certificate(config.security, config.mode)
    if shown is None:
        offered = ", ".join(offer.names()) or "nothing"
        raise NotOffered(f"the server does not offer security {config.security} {config.mode}, it offers {offered}")
    if pinned is None:
        raise NotTrusted(f"nobody has trusted the server's certificate {fingerprint(shown)} yet", pinned=False)
    if pinned != shown:
        raise NotTrusted(f"the server shows the certificate {fingerprint(shown)}, trusted is {fingerprint(pinned)}", pinned=True)
    return shown


async def secure(client: Any, config: OpcUaConfig, own: Identity | None, theirs: x509.Certificate | None) -> None:
    """Give a client, before it connects, what the configuration says.

    Raises:
        ConfigError: a file is missing or holds something else.
        PermissionRefused: a file cannot be read.
    """
    client.application_uri = APPLICATION_URI
    await _identify(client, config)
    if own is None or theirs is None:
        return
    client.application_uri = application_uri(own.certificate)
    try:
        await client.set_security(
            getattr(security_policies, _POLICIES[config.security]),
            certificate=_der(own.certificate),
            private_key=uacrypto.CertProperties(own.key, "pem" if _is_pem(own.key) else "der"),
            server_certificate=_der(theirs),
            mode=getattr(ua.MessageSecurityMode, config.mode),
        )
    except (ValueError, TypeError) as e:
        raise ConfigError(
            f"certificate {own.path} and its key cannot be used",
            why=str(e),
            try_="check that the key is not encrypted and belongs to the certificate",
        ) from e


async def _identify(client: Any, config: OpcUaConfig) -> None:
    """Say who the user is: a name and password, or a certificate."""
    if config.user is not None and config.password_file is not None:
        client.set_user(config.user)
        client.set_password(_read(config.password_file, "password").decode("utf-8", "replace").strip("\r\n"))
    if config.user_certificate is not None and config.user_key is not None:
        client.user_certificate = load_certificate(config.user_certificate)
        key = _read(config.user_key, "user's key")
        try:
            load = serialization.load_pem_private_key if _is_pem(key) else serialization.load_der_private_key
            client.user_private_key = load(key, None)
        except (ValueError, TypeError) as e:
            raise ConfigError(f"{config.user_key} is no key", why=str(e), try_="give a .pem or .der file that is not encrypted") from e


def _der(certificate: x509.Certificate) -> Any:
    return uacrypto.CertProperties(certificate.public_bytes(serialization.Encoding.DER), "der")


def _is_pem(data: bytes) -> bool:
    return data.lstrip().startswith(b"-----")


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError as e:
        raise PermissionRefused(
            f"the {what} {path} cannot be read", why=str(e), try_=f"chown it to the agent's user, chmod 600 {path}"
        ) from e
    except OSError as e:
        raise ConfigError(
            f"there is no {what} at {path}", why=str(e), try_="check the path; it is looked up from where the agent runs"
        ) from e
