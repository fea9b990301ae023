"""Shows a server's certificate and pins it, and shows our own: what `edge-agent trust ENDPOINT` does, without a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from adapters.opcua.certificates import fingerprint, own_identities, pin, thumbprint, trusted_path
from adapters.opcua.connection import library_faults
from adapters.opcua.discovery import discover
from adapters.opcua.quiet import quieten
from adapters.opcua.security import load_certificate
from edge_agent.errors import InstrumentUnreachable

TIMEOUT = 4.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for people: ``fingerprint`` is SHA-256, ``thumbprint`` the SHA-1 that OPC-UA tools show; days are ISO 8601, UTC."""

    subject: str
    issuer: str
    fingerprint: str
    thumbprint: str
    first_day: str
    last_day: str
    expired: bool
    der: bytes


@dataclass(frozen=True, slots=True)
class Examined:
    """A server before it is trusted. ``state`` of its certificate: ``new``, ``same`` as pinned, or ``changed``."""

    endpoint: str
    security: Sequence[str]
    ahead_s: float | None
    certificate: Certificate
    state: str
    pinned: str
    own: Certificate
    own_path: Path


async def examine(endpoint: str, folder: Path, timeout: float = TIMEOUT) -> Examined:
    """Ask a server for its certificate, and make ours where there is none.

    Raises:
        InstrumentUnreachable: nobody answers, or the server has no certificate.
        ConfigError, PermissionRefused: the folder cannot be used.
    """
    quieten()
    try:
        with library_faults():
            offer = await discover(endpoint, timeout)
    except (OSError, TimeoutError, ua.UaError) as e:
        why = str(e) or type(e).__name__
        raise InstrumentUnreachable(f"{endpoint} does not answer", why=why, try_="check address, port and firewall") from e
    shown = offer.certificates()
    if not shown:
        offered = ", ".join(offer.names())
        raise InstrumentUnreachable(
            f"{endpoint} has no certificate", why=f"it offers security {offered}", try_="enable security on the server"
        )
    path = trusted_path(folder, endpoint)
    pinned = load_certificate(path) if path.exists() else None
    state = "new" if pinned is None else "same" if pinned in shown else "changed"
    own = own_identities(folder)[0]
    known = fingerprint(pinned) if pinned is not None else ""
    chosen = pinned if pinned is not None and pinned in shown else shown[0]
    return Examined(endpoint, offer.names(), offer.ahead_s, _told(chosen), state, known, _told(own.certificate), own.path)


def trust(examined: Examined, folder: Path) -> Path:
    """Pin the certificate that was shown; returns its file. Raises PermissionRefused."""
    return pin(folder, examined.endpoint, x509.load_der_x509_certificate(examined.certificate.der))


def _told(certificate: x509.Certificate) -> Certificate:
    return Certificate(
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        fingerprint(certificate),
        thumbprint(certificate),
        certificate.not_valid_before_utc.date().isoformat(),
        certificate.not_valid_after_utc.date().isoformat(),
        not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc,
        certificate.public_bytes(Encoding.DER),
    )
