"""Who this agent is: its identity key, and what enrolment gave it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.config.models import Config
from edge_agent.enrolment import Enrolment, load_enrolment, open_identity, renew
from edge_agent.enrolment.sealing import sealer_of
from edge_agent.errors import EdgeAgentError

log = logging.getLogger(__name__)

RENEWAL_LOOK = 3600.0


@dataclass(frozen=True, slots=True)
class Credentials:
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


def load_credentials(config: Config) -> Credentials:
    """The identity in the folder of keys, made when there is none.

    Raises:
        ConfigError: the files cannot be read or do not belong together.
    """
    own = open_identity(config.keys_dir, sealer_of(config.keys.seal))
    return Credentials(own.agent_id, own.key, (own.certificate,), load_enrolment(config.keys_dir))


async def renew_forever(folder: Path, every: float = RENEWAL_LOOK) -> None:
    """Renew the TLS certificate once two thirds of its life are over.

    A renewal that fails stops nothing: capture goes on, uploads go on while the old certificate lives, and it is tried again.
    """
    while True:
        enrolment = await asyncio.to_thread(load_enrolment, folder)
        if enrolment is not None and await asyncio.to_thread(enrolment.due, dt.datetime.now(dt.UTC)):
            try:
                await renew(folder)
                log.info("the certificate for %s is renewed", enrolment.url)
            except EdgeAgentError as error:
                log.warning("the certificate for %s is not renewed: %s", enrolment.url, error, extra={"code": error.code})
        await asyncio.sleep(every)
