"""Keys and certificates for the tests of the seal."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

AGENT = bytes(range(16))


@dataclass
class Authority:
    """A facility's CA that certifies what it is asked to."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.root = self.certify(self.key.public_key(), [], authority=True)

    def certify(
        self, public: Any, names: list[x509.GeneralName], *, common_name: str = "facility", authority: bool = False
    ) -> x509.Certificate:
        """A certificate over ``public`` with those alternative names."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "facility")])
        start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), start, start + datetime.timedelta(days=1))
        if authority:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, None)

    def uri(self, public: Any, *uris: str) -> bytes:
        """DER of a certificate with URI names."""
        return self.certify(public, [x509.UniformResourceIdentifier(uri) for uri in uris]).public_bytes(Encoding.DER)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def foreign() -> Authority:
    """Another facility, whose CA has the same name."""
    return Authority()


@pytest.fixture(scope="session")
def agent_id() -> bytes:
    return AGENT
