"""Certificates, keys and passwords of a connection: read from files, given to the library, never logged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from adapters.opcua.config import OpcUaConfig
from edge_agent.errors import ConfigError, PermissionRefused

APPLICATION_URI = "urn:edge-agent:opcua"
"""Our name where no certificate gives one."""

_POLICIES = {
    "Basic256Sha256": "SecurityPolicyBasic256Sha256",
    "Aes128_Sha256_RsaOaep": "SecurityPolicyAes128Sha256RsaOaep",
    "Aes256_Sha256_RsaPss": "SecurityPolicyAes256Sha256RsaPss",
}


def transport(config: OpcUaConfig) -> str:
    """How the values travel, for the record."""
    if config.security == "None":
        return "unauthenticated"
    known = "server certificate pinned" if config.server_certificate else "server certificate not checked"
    return f"{config.security} {config.mode}, {known}"


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


async def secure(client: Any, config: OpcUaConfig) -> None:
    """Give a client, before it connects, what the configuration says.

    Raises:
        ConfigError: a file is missing or holds something else.
        PermissionRefused: a file cannot be read.
        ua.UaError, OSError, TimeoutError: the server's endpoints could not be asked for its certificate.
    """
    client.application_uri = APPLICATION_URI
    if config.user is not None and config.password_file is not None:
        client.set_user(config.user)
        client.set_password(_read(config.password_file, "password").decode("utf-8", "replace").strip("\r\n"))
    if config.security == "None" or config.certificate is None or config.private_key is None:
        return
    certificate = load_certificate(config.certificate)
    uri = application_uri(certificate)
    if uri is None:
        raise ConfigError(
            f"{config.certificate} names no application URI",
            why="OPC-UA servers refuse a certificate without a URI among its alternative names",
            try_=f"make one with subjectAltName=URI:{APPLICATION_URI}",
        )
    client.application_uri = uri
    theirs = load_certificate(config.server_certificate) if config.server_certificate is not None else None
    key = _read(config.private_key, "private key")
    try:
        await client.set_security(
            getattr(security_policies, _POLICIES[config.security]),
            certificate=_der(certificate),
            private_key=uacrypto.CertProperties(key, "pem" if _is_pem(key) else "der"),
            server_certificate=_der(theirs) if theirs is not None else None,
            mode=getattr(ua.MessageSecurityMode, config.mode),
        )
    except (ValueError, TypeError) as e:
        raise ConfigError(
            f"certificate {config.certificate} and key {config.private_key} cannot be used",
            why=str(e),
            try_="check that the key is not encrypted and belongs to the certificate",
        ) from e


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
