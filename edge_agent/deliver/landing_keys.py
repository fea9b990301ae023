"""The files that enrolment left for one landing service, read when a connection is made."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.errors import PermissionRefused
from edge_agent.seal.keys import AGENT_URN, urns
from edge_agent.wire.proof import ReceiptTrust
from edge_agent.wire.tls import client_context


@dataclass(frozen=True, slots=True)
class OpenKeys:
    """What the files hold: the agent's id (16 bytes), the root (PEM), whose receipts are believed, the TLS context."""

    agent_id: bytes
    root: str
    trust: ReceiptTrust
    context: ssl.SSLContext


@dataclass(frozen=True, slots=True)
class LandingKeys:
    """PEM files: the pinned ``root``, our TLS ``certificate`` (``key`` None when it holds the key too), the ``receipts`` certificates."""

    root: Path
    certificate: Path
    receipts: Path
    key: Path | None = None

    def stamp(self, target: str) -> tuple[int, ...]:
        """Changes when a file was replaced (renewal, new enrolment).

        Raises:
            PermissionRefused: a file is missing.
        """
        try:
            return tuple(path.stat().st_mtime_ns for path in (self.root, self.certificate, self.receipts))
        except OSError as error:
            raise _unreadable(target, error) from error

    def trust(self, target: str) -> ReceiptTrust:
        """Whose receipts are believed.

        Raises:
            PermissionRefused: a file is missing or broken.
        """
        try:
            root = x509.load_pem_x509_certificate(self.root.read_bytes())
            receipts = x509.load_pem_x509_certificates(self.receipts.read_bytes())
        except (OSError, ValueError) as error:
            raise _unreadable(target, error) from error
        return ReceiptTrust(root, tuple(certificate.public_bytes(Encoding.DER) for certificate in receipts))

    def open(self, target: str) -> OpenKeys:
        """Read everything.

        Raises:
            PermissionRefused: a file is missing or broken, or the certificate has expired.
        """
        trust = self.trust(target)
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            names = [name.removeprefix(AGENT_URN) for name in urns(certificate) if name.startswith(AGENT_URN)]
            agent_id = bytes.fromhex(names[0])
            root = self.root.read_text()
            context = client_context(root, self.certificate, self.key)
        except (OSError, ValueError, IndexError) as error:
            raise _unreadable(target, error) from error
        if certificate.not_valid_after_utc < dt.datetime.now(dt.UTC):
            raise PermissionRefused(
                f"{target}: this agent's certificate has expired", why=f"on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
                try_="enrol again with a new token: edge-agent enroll TOKEN; recording goes on meanwhile", code="LANDING_EXPIRED",
            )  # fmt: skip
        return OpenKeys(agent_id, root, trust, context)


def _unreadable(target: str, error: Exception) -> PermissionRefused:
    what = f"{target}: the keys for this landing service cannot be read"
    return PermissionRefused(what, why=str(error), try_="edge-agent enroll TOKEN", code="LANDING_KEYS")
