"""The service's own small certificate authority (X.509, RFC 5280): one root that issues every certificate directly.

Each leaf can do one thing: the TLS server and client certificates carry those key usages, the identity and receipt
certificates document signing (RFC 9336), so that none of them opens a TLS connection as another. The receipt key is
not the TLS key: who takes the TLS key can answer, but cannot sign a receipt.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.seal.keys import AGENT_URN, RECEIPTS_URN, urns
from landing.home import Home, Settings, write_durably

CLIENT_LIFE = dt.timedelta(days=7)
SERVER_LIFE = dt.timedelta(days=397)
SERVER_RENEW = dt.timedelta(days=60)
LONG_LIFE = dt.timedelta(days=20 * 365)
SKEW = dt.timedelta(days=1)
"""Certificates begin a day early: an agent's clock may be behind."""

_DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """The root and its key."""

    key: ec.EllipticCurvePrivateKey
    root: x509.Certificate

    @property
    def root_der(self) -> bytes:
        """DER of the root certificate."""
        return self.root.public_bytes(Encoding.DER)

    def server(self, key: CertificatePublicKeyTypes, hosts: Sequence[str]) -> x509.Certificate:
        """TLS server certificate for names and addresses."""
        names = [_host(host) for host in hosts]
        return self._issue(key, hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, SERVER_LIFE)

    def client(self, key: CertificatePublicKeyTypes, agent_id: bytes) -> x509.Certificate:
        """TLS client certificate of an agent, seven days."""
        return self._issue(key, f"agent {agent_id.hex()}", _agent(agent_id), ExtendedKeyUsageOID.CLIENT_AUTH, CLIENT_LIFE)

    def identity(self, key: CertificatePublicKeyTypes, agent_id: bytes) -> x509.Certificate:
        """Identity certificate of an agent."""
        return self._issue(key, f"agent {agent_id.hex()} identity", _agent(agent_id), _DOCUMENT_SIGNING, LONG_LIFE)

    def receipts(self, key: Ed25519PublicKey, name: str) -> x509.Certificate:
        """Certificate of the receipt key."""
        return self._issue(key, f"{name} receipts"[:64], [x509.UniformResourceIdentifier(RECEIPTS_URN)], _DOCUMENT_SIGNING, LONG_LIFE)

    def _issue(
        self,
        key: CertificatePublicKeyTypes,
        subject: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        life: dt.timedelta,
    ) -> x509.Certificate:
        return (
            _builder(subject, self.root.subject, key, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def agent_of(certificate: x509.Certificate) -> bytes | None:
    """The agent that a TLS client certificate is for; None when it is for something else."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    names = [name.removeprefix(AGENT_URN) for name in urns(certificate) if name.startswith(AGENT_URN)]
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage or len(names) != 1 or len(names[0]) != 32:
        return None
    return bytes.fromhex(names[0])


def create(home: Home, settings: Settings) -> Authority:
    """Make the root, the TLS server key and the receipt key with their certificates, and write them down."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, settings.name)])
    root = (
        _builder(settings.name, name, key.public_key(), LONG_LIFE * 2)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(key, root)
    receipts = Ed25519PrivateKey.generate()
    _write_key(home, "root", key)
    _write_key(home, "receipts", receipts)
    _write_certificate(home, "receipts", authority.receipts(receipts.public_key(), settings.name))
    renew_server(home, settings, authority)
    write_durably(home.root, root.public_bytes(Encoding.PEM), 0o644)
    return authority


def load(home: Home) -> Authority:
    """Read the root and its key."""
    key = load_pem_private_key((home.keys / "root.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("keys/root.key is not a P-256 key")
    return Authority(key, x509.load_pem_x509_certificate(home.root.read_bytes()))


def receipt_signer(home: Home) -> tuple[Ed25519PrivateKey, bytes]:
    """The receipt key and the DER of its certificate."""
    key = load_pem_private_key((home.keys / "receipts.key").read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("keys/receipts.key is not an Ed25519 key")
    certificate = x509.load_pem_x509_certificate((home.keys / "receipts.pem").read_bytes())
    return key, certificate.public_bytes(Encoding.DER)


def server_is_fresh(home: Home) -> bool:
    """Whether the TLS server certificate lives for another while."""
    certificate = x509.load_pem_x509_certificate((home.keys / "tls.pem").read_bytes())
    return certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) > SERVER_RENEW


def renew_server(home: Home, settings: Settings, authority: Authority) -> None:
    """Make a new TLS server key and certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(home, "tls", key)
    _write_certificate(home, "tls", authority.server(key.public_key(), settings.hosts))


def _write_key(home: Home, name: str, key: PrivateKey) -> None:
    write_durably(home.keys / f"{name}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _write_certificate(home: Home, name: str, certificate: x509.Certificate) -> None:
    write_durably(home.keys / f"{name}.pem", certificate.public_bytes(Encoding.PEM), 0o644)


def _builder(subject: str, issuer: x509.Name, key: CertificatePublicKeyTypes, life: dt.timedelta) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _agent(agent_id: bytes) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(AGENT_URN + agent_id.hex())]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
