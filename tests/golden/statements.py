"""Fixed input for every statement of HSC/1; ``statements.json`` has the bytes that it must always give, in hexadecimal."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from edge_agent.seal import cose, leaf, log_leaf
from edge_agent.seal.algorithm import MlDsaSigner
from edge_agent.seal.amendment import Amendment, Change
from edge_agent.seal.clock import Clock
from edge_agent.seal.dsd import Counter, Dsd
from edge_agent.seal.head import Head, State
from edge_agent.seal.keys import KeyChain, SessionRecord
from edge_agent.seal.meta import DatasetMeta, GroupMeta, HardLink, SoftLink, Value, encode_meta, meta_digest
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.receipt import Custody, Inclusion, Receipts, Witness
from edge_agent.seal.sidecar import NamedFile, RunStatement, SegmentEntry, Sidecar
from edge_agent.seal.slice_proof import Part, ProvenLeaf, SliceProof
from edge_agent.seal.tree import epoch_roots, inclusion_proof, leaf_hash, root_of
from tests.golden.generate import ed25519, p256, secret

A, B, C = secret("A"), secret("B"), secret("C")
G, J, K = A[:16], B[:16], C[:16]
T = 1_795_000_000_123_456_789
CLOCK = Clock("chrony", -1500, 20_000, True)
DSD = Dsd(
    "/entry/instrument/camera/image/data", ["int", 2, 0, 0, 16, 0], (1, 4, 6), (None, 4, 6), ((32008, 1, (0, 4, 2, 0, 2)),), b"\0\0",
    "camera/image", Counter.FRAME, 1,
)  # fmt: skip


def statements() -> dict[str, bytes]:
    """Name to bytes. What ECDSA and ML-DSA sign is not in here: their signatures are random."""
    session = SessionRecord(
        G, (ed25519("session").public_key(), MlDsaSigner(MLDSA65PrivateKey.from_seed_bytes(A)).public_key()), J, T, T + 1
    )
    es256 = SessionRecord(G, (p256("session").public_key(),), J, T, T + 1)
    head = Head(G, J, 7, A, 3, B, T, 55, K, CLOCK, State.OPEN, C)
    statement = RunStatement(
        G, 7, J, (SegmentEntry(1, K, "a.h5", 10, A, B, 1), SegmentEntry(2, J, None, 0, bytes(32), C, 2)), (NamedFile("files/a", 1, A),),
        NamedFile("m.nxs", 2, B), {"preview.png": C}, (("camera/image", 1, None), ("x/y", 2, 5)), "complete", A,
    )  # fmt: skip
    objects = {
        "/": GroupMeta(), "/entry": GroupMeta({"NX_class": Value(["vstr", 0, 1], None, (b"NXentry",))}),
        "/entry/data": SoftLink("/entry/instrument"), "/entry/twin": HardLink("/entry/title"),
        "/entry/title": DatasetMeta(["vstr", 0, 1], {}, Value(["vstr", 0, 1], None, ("測定".encode(),))),
        "/entry/instrument/camera/image/data": DatasetMeta(["int", 2, 0, 0, 16, 0], {"units": Value(["str", 5, 1, 0], None, b"count")}),
    }  # fmt: skip
    chain, hashes = KeyChain((b"certificate",), (b"record",)), [leaf_hash(n.to_bytes(2, "big")) for n in range(300)]
    part = Part(chain, b"head", (ProvenLeaf(0, b"open", (A, B)),), DSD.encode(), encode_meta(objects), ((1, 2), (0, 4)), (b"stored",))
    amendment = Amendment(G, J, A, 2, B, (Change("sample.name", None, "SiC"), Change("title", "a", "b")), "Ada", "forgot", T)
    leaves: dict[str, leaf.Leaf] = {
        "CHUNK": leaf.Chunk(G, A, (3, 0, 0), 1, 1234, B, T, 42, 42), "CHUNK without counter": leaf.Chunk(G, A, (8,), 0, 5, B, T),
        "DATASET": leaf.Dataset(DSD.digest()), "META": leaf.Meta(meta_digest(objects)),
        "GAP": leaf.GapLeaf("camera/image", 3, 4, "overload", 2, T, T + 1, "full"),
        "GAP without numbers": leaf.GapLeaf("balance/weight", None, None, "disconnect", None, -(2**63), T),
        "CLOCK": leaf.ClockLeaf(-5, CLOCK, T, 9), "CLOSE": leaf.Close(((A, (3, 4), 3),), B, C, "complete", "run-end"),
        "OPEN": leaf.Open(G, J, 7, 2, (K, A), B, K, G, "camera/image", {"camera/image": 17}),
        "OPEN first": leaf.Open(G, J, 7, 1, None, B, K, G, "rows"),
        "SEQ_RESET": leaf.SeqReset("camera/image", 9, 0, "restarted"), "ROWS": leaf.RowsLeaf((A, B), 3, 4, C),
        "FILE": leaf.FileLeaf("files/走査 1.csv", 10, A, B, T), "BOOT": leaf.Boot(G, J, "0.1.0", T),
        "KEY_ADD": log_leaf.KeyAdd((A, B), C, T), "RUN_OPEN": leaf.RunOpen(7, J, A, T), "RUN_CLOSE": leaf.RunClose(7, J, A, T),
        "SEGMENT_CLOSE": leaf.SegmentClose(G, A, J, 1, T), "SPOOL_FREE": leaf.SpoolFree("item", (A, B), T),
        "KEY_RETIRE": log_leaf.KeyRetire((A,), "over", T), "KEY_COMPROMISED": log_leaf.KeyCompromised((A,), "stolen", T),
        "SEGMENT_OPEN": log_leaf.SegmentOpen(G, J, 1, "rows", T), "HEADS": log_leaf.Heads(((G, 7, A), (J, 8, B)), T),
        "LOSS": log_leaf.Loss("entry", J, "dropped", T), "QUARANTINE": log_leaf.Quarantine("a.h5", None, "damaged", T),
        "CLOCK_STEP": log_leaf.ClockStep(-5, T), "CONFIG_CHANGE": log_leaf.ConfigChange(A, T), "UPDATE": log_leaf.Update("0.1", "0.2", T),
        "LOG_RESTART": log_leaf.LogRestart(G, 5, T), "AMENDMENT leaf": leaf.Amended(J, 2, A, T),
    }  # fmt: skip
    return {name: item.payload() for name, item in leaves.items()} | {
        "DSD": DSD.encode(), "dsd digest": DSD.digest(), "META map": encode_meta(objects), "policy": policy_digest("closed", ["b", "a"]),
        "head": head.payload(), "session record": session.payload(), "session record of ES256": es256.payload(),
        "run statement": statement.payload(), "amendment": amendment.payload(), "WITNESS": Witness(G, J, 3, A, B, T).payload(),
        "CUSTODY": Custody(G, K, A, B, 3, "space", "fsynced", T, "p/f").payload(), "key chain": chain.encode(),
        "sidecar": Sidecar(b"statement", (b"head",), chain, {K: (b"leaf",)}).encode(),
        "receipts": Receipts((b"c",), (b"r",), (Inclusion(G, 3, 1, b"leaf", (A, B)),), (b"token",), (b"a",), chain).encode(),
        "slice": SliceProof(DSD.path, (part,), b"sidecar", None).encode(),
        "COSE_Sign1 of Ed25519": cose.sign(ed25519("session"), cose.WITNESS, b"payload"),
        "COSE_Sign of Ed25519": cose.sign_all([ed25519("session")], cose.HEAD, b"payload"),
        "kid of Ed25519": cose.thumbprint(session.keys[0]), "kid of ML-DSA-65": cose.thumbprint(session.keys[1]),
        "kid of P-256": cose.thumbprint(es256.keys[0]), "root of 300 leaves": root_of(hashes), "epochs": b"".join(epoch_roots(hashes)),
        "inclusion of leaf 257": b"".join(inclusion_proof(hashes, 257)),
    }  # fmt: skip
