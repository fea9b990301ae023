"""Reads the certificates that a verifier trusts from files: the facility's root, the roots of time-stamping services."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from edge_agent.errors import ConfigError

MAX_SIZE = 1 << 20


def load_root(path: Path) -> x509.Certificate:
    """The certificate in a PEM or DER file.

    Raises:
        ConfigError: it cannot be read, or holds no certificate.
    """
    return load_roots(path)[0]


def load_roots(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM or DER file, at least one.

    Raises:
        ConfigError: it cannot be read, or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE)
    except OSError as error:
        raise ConfigError(
            f"The root certificate {path} cannot be read.",
            why=str(error),
            try_="give the path of the facility's root.pem",
            code="ROOT_READ",
        ) from error
    try:
        return x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(
            f"{path} holds no certificate.", why=str(error), try_="give the facility's root.pem, not a key or a request", code="ROOT_PARSE"
        ) from error
