"""Whether a receipt proves what was sent: the check that both targets make before they believe a landing service.

TLS says who answered; only the receipt key, whose certificate the pinned root issued, says that bytes are held. Every
field is compared with what this side knows by itself, so a service that holds other bytes, or the right bytes at
another place, is not believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from edge_agent.errors import IntegrityError
from edge_agent.model import Proof
from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.head import Head, head_hash, parse_head
from edge_agent.seal.keys import load_certificate, receipt_key
from edge_agent.seal.receipt import Custody, Witness, parse_custody, parse_witness
from edge_agent.wire.item import ItemHeader


@dataclass(frozen=True, slots=True)
class ReceiptTrust:
    """Whose receipts are believed: the pinned root and the receipt certificates (DER) that were handed out under it."""

    root: x509.Certificate
    certificates: tuple[bytes, ...]

    @classmethod
    def of(cls, root_der: bytes, *certificates: bytes) -> ReceiptTrust:
        """From DER.

        Raises:
            SealError: the root is not a certificate.
        """
        return cls(load_certificate(root_der), certificates)

    def custody(self, data: bytes, header: ItemHeader, target: str) -> Custody:
        """The CUSTODY in a COSE, if it is about exactly this item.

        Args:
            data: the COSE.
            header: the item with its SHA-256, as *we* hashed it.
            target: name of the target, for messages.

        Raises:
            IntegrityError: not signed by a receipt key under the root, or about something else.
        """
        try:
            custody = parse_custody(self._payload(data, cose.CUSTODY))
        except SealError as error:
            raise _disbelieved(target, str(error)) from error
        compared = (
            ("agent", custody.agent_id.hex(), header.agent_id.hex()),
            ("segment", custody.segment_id.hex(), header.segment_id.hex()),
            ("head", custody.head.hex(), header.head_hash.hex()),
            ("SHA-256", custody.sha256.hex(), (header.sha256 or b"").hex()),
            ("size", custody.size, header.size),
            ("path", custody.path, header.path),
        )
        for what, theirs, ours in compared:
            if theirs != ours:
                raise _disbelieved(target, f"the receipt says {what} {theirs}, ours is {ours}")
        if custody.durable not in set(Proof):
            raise _disbelieved(target, f"the receipt says {custody.durable!r}, which proves nothing")
        return custody

    def witness(self, data: bytes, head_cose: bytes, target: str) -> Witness:
        """The WITNESS in a COSE, if it countersigns exactly this head.

        Raises:
            IntegrityError: not signed by a receipt key under the root, or about another head.
        """
        try:
            witness = parse_witness(self._payload(data, cose.WITNESS))
            payload = cose.payload_of(head_cose)
            head = parse_head(payload)
        except SealError as error:
            raise _disbelieved(target, str(error)) from error
        if not _same_head(witness, head) or witness.head != head_hash(payload):
            raise _disbelieved(
                target, f"the receipt is about a log of {witness.size} leaves, not about the head that was sent ({head.size})"
            )
        return witness

    def last_witness(self, data: bytes, target: str) -> Witness:
        """A WITNESS whose signature holds, whatever head it is about.

        Raises:
            IntegrityError: not signed by a receipt key under the root.
        """
        try:
            return parse_witness(self._payload(data, cose.WITNESS))
        except SealError as error:
            raise _disbelieved(target, str(error)) from error

    def _payload(self, data: bytes, content_type: str) -> bytes:
        signed = cose.parse(data)
        key = receipt_key(self.certificates, signed.kid, self.root)
        if key is None:
            raise SealError(f"signed by key {signed.kid.hex()[:16]}, which has no receipt certificate under our root")
        return signed.check(key, content_type)


def _same_head(witness: Witness, head: Head) -> bool:
    return (witness.agent_id, witness.log_id, witness.size, witness.root) == (head.agent_id, head.tree_id, head.size, head.root)


def _disbelieved(target: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"{target}: the receipt does not prove that our data is held",
        why=why,
        try_="the data is kept here; ask who runs the landing service, or enrol again if its receipt key was changed",
        code="RECEIPT_NOT_BELIEVED",
    )
