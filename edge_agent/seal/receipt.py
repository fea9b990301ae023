"""WITNESS and CUSTODY: what a landing service signs (docs/signed-chunks.md, Receipts), and the ``.receipts`` file.

The file collects what comes after a run is closed: receipts, time-stamp tokens, amendments.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.seal.cbor import SealError, dumps, fields, is_one_of, loads
from edge_agent.seal.keys import KeyChain, key_chain

WITNESS_NAME = "HSC/1/witness"
CUSTODY_NAME = "HSC/1/custody"
RECEIPTS_NAME = "HSC/1/receipts"


@dataclass(frozen=True, slots=True)
class Witness:
    """A log of this size and root was seen at ``t_ns`` (server time, UTC ns)."""

    agent_id: bytes
    log_id: bytes
    size: int
    root: bytes
    head: bytes
    t_ns: int

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return dumps({1: WITNESS_NAME, 2: self.agent_id, 3: self.log_id, 4: self.size, 5: self.root, 6: self.head, 7: self.t_ns})


def parse_witness(payload: bytes) -> Witness:
    """The statement in a payload.

    Raises:
        SealError: another statement.
    """
    name, *rest = fields(loads(payload, "WITNESS"), "WITNESS", k1=str, k2=16, k3=16, k4=int, k5=32, k6=32, k7=int)
    if name != WITNESS_NAME:
        raise SealError("WITNESS: another statement")
    return Witness(*rest)


@dataclass(frozen=True, slots=True)
class Custody:
    """A file of this digest and size is held at ``path`` of ``store``; ``durable`` says how that is known."""

    agent_id: bytes
    segment_id: bytes
    head: bytes
    sha256: bytes
    size: int
    store: str
    durable: str
    t_ns: int
    path: str

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return dumps(
            {
                1: CUSTODY_NAME, 2: self.agent_id, 3: self.segment_id, 4: self.head, 5: self.sha256, 6: self.size,
                7: self.store, 8: self.durable, 9: self.t_ns, 10: self.path,
            }
        )  # fmt: skip


def parse_custody(payload: bytes) -> Custody:
    """The statement in a payload.

    Raises:
        SealError: another statement.
    """
    name, *rest = fields(
        loads(payload, "CUSTODY"), "CUSTODY",
        k1=str, k2=16, k3=16, k4=32, k5=32, k6=int, k7=str, k8=str, k9=int, k10=str,
    )  # fmt: skip
    if name != CUSTODY_NAME:
        raise SealError("CUSTODY: another statement")
    return Custody(*rest)


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That a leaf (its payload) is leaf ``index`` of the log with that id at that size."""

    log_id: bytes
    size: int
    index: int
    payload: bytes
    proof: tuple[bytes, ...]


NO_KEYS = KeyChain((), ())


@dataclass(frozen=True, slots=True)
class Receipts:
    """The ``.receipts`` file; each part proves itself.

    ``certificates`` are receipt certificates (DER), ``receipts`` COSE, ``tokens`` RFC 3161 time-stamp tokens (DER), ``amendments`` COSE;
    ``chain`` has the keys that signed the amendments, and is empty when there are none.
    """

    certificates: tuple[bytes, ...] = ()
    receipts: tuple[bytes, ...] = ()
    inclusions: tuple[Inclusion, ...] = ()
    tokens: tuple[bytes, ...] = ()
    amendments: tuple[bytes, ...] = ()
    chain: KeyChain = NO_KEYS

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        inclusions = [{1: i.log_id, 2: i.size, 3: i.index, 4: i.payload, 5: list(i.proof)} for i in self.inclusions]
        return dumps(
            {
                1: RECEIPTS_NAME, 2: list(self.certificates), 3: list(self.receipts), 4: inclusions, 5: list(self.tokens),
                6: list(self.amendments), 7: self.chain.value(),
            }
        )  # fmt: skip


def parse_receipts(data: bytes) -> Receipts:
    """The file's content.

    Raises:
        SealError: not a ``.receipts`` file.
    """
    name, certificates, receipts, inclusions, tokens, amendments, chain = fields(
        loads(data, "receipts"), "receipts", k1=str, k2=list, k3=list, k4=list, k5=list, k6=list, k7=dict
    )
    parts = (*certificates, *receipts, *tokens, *amendments)
    if name != RECEIPTS_NAME or not all(isinstance(part, bytes) for part in parts):
        raise SealError("receipts: another file, or parts of a wrong type")
    proofs = []
    for item in inclusions:
        log_id, size, index, payload, proof = fields(item, "inclusion proof", k1=16, k2=int, k3=int, k4=bytes, k5=list)
        if not all(is_one_of(h, 32) for h in proof):
            raise SealError("inclusion proof: a hash is not 32 bytes")
        proofs.append(Inclusion(log_id, size, index, payload, tuple(proof)))
    return Receipts(tuple(certificates), tuple(receipts), tuple(proofs), tuple(tokens), tuple(amendments), key_chain(chain))
