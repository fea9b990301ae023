"""A time-stamping authority for tests: real certificates, and ``openssl ts`` that makes real tokens."""

from __future__ import annotations

import datetime
import hashlib
import subprocess
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
SETTINGS = """[tsa]
default_tsa = service
[service]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = {digests}
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
{more}
"""


class Tsa:
    """A root, an authority below it, and a service below that. ``key`` is of the service; certificates are valid from ``start`` on."""

    def __init__(self, folder: Path, *, start: int = -1, days: int = 10, purpose: bool = True, key: Any = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        begin = datetime.datetime.now(datetime.UTC) + start * DAY
        root_key, middle_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        key = key or rsa.generate_private_key(65537, 2048)

        def certify(name: str, public: Any, issuer: x509.Certificate | None, by: Any, *, authority: bool) -> x509.Certificate:
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            builder = x509.CertificateBuilder(
                issuer.subject if issuer else subject, subject, public, x509.random_serial_number(), begin, begin + days * DAY
            ).add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            if not authority and purpose:
                builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            return builder.sign(by, hashes.SHA256())

        self.root = certify("TSA root", root_key.public_key(), None, root_key, authority=True)
        self.middle = certify("TSA authority", middle_key.public_key(), self.root, root_key, authority=True)
        self.certificate = certify("TSA", key.public_key(), self.middle, middle_key, authority=False)
        for name, certificate in (("root", self.root), ("middle", self.middle), ("tsa", self.certificate)):
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (folder / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / "serial").write_text("01\n")

    @property
    def root_file(self) -> Path:
        return self.folder / "root.pem"

    def answer(self, query: bytes, *, digests: str = "sha256", more: str = "") -> bytes:
        """The TimeStampResp to a TimeStampReq."""
        (self.folder / "tsa.cnf").write_text(SETTINGS.format(folder=self.folder, digests=digests, more=more))
        (self.folder / "query").write_bytes(query)
        files = ["-config", "tsa.cnf", "-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key", "-chain", "middle.pem"]
        subprocess.run(["openssl", "ts", "-reply", *files, "-out", "answer"], cwd=self.folder, check=True, capture_output=True, timeout=30)
        return (self.folder / "answer").read_bytes()

    def token(self, data: bytes) -> bytes:
        """A token over the SHA-256 of ``data``, in strict DER."""
        from edge_agent.seal.timestamp import request, token_of

        digest = hashlib.sha256(data).digest()
        return token_of(self.answer(request(digest, 7)), digest, 7)
