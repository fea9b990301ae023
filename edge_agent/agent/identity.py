"""Who this agent is: its identity key, and what enrolment gave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.config.models import Config
from edge_agent.enrolment import Enrolment, load_enrolment, open_identity


@dataclass(frozen=True, slots=True)
class Identity:
    """``certificates``: DER, for the key chain.

    ``enrolment`` None: nobody vouches for this agent yet; it captures and signs all the same.
    """

    agent_id: bytes
    key: Ed25519PrivateKey = field(repr=False)
    certificates: tuple[bytes, ...]
    enrolment: Enrolment | None

    @property
    def enrolled(self) -> bool:
        """Whether a landing service knows this agent."""
        return self.enrolment is not None

    @property
    def receipt_certificates(self) -> Sequence[bytes]:
        """Receipt certificates (DER) of the landing service."""
        if self.enrolment is None:
            return ()
        loaded = x509.load_pem_x509_certificates(self.enrolment.receipts.read_bytes())
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in loaded)


def load_identity(config: Config) -> Identity:
    """The identity in the folder of keys, made when there is none.

    Raises:
        ConfigError: the files cannot be read or do not belong together.
    """
    own = open_identity(config.keys_dir)
    return Identity(own.agent_id, own.key, (own.certificate,), load_enrolment(config.keys_dir))
