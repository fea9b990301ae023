"""A small writer of HSC/1, straight from docs/signed-chunks.md: what the verifier is tested with.

It shares nothing with the agent nor with the verifier; META is put together by hand from what is written, not read back.
`stored` changes the leaves after they were signed (tampering), `signed` before (an agent that signs nonsense).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cbor2
import h5py
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.independent import TOOL, ask, module

README = """This file is signed chunk by chunk (HSC/1). To check it without our software:
python verify_hsc1.py FILE --root root.pem
The format is described in docs/signed-chunks.md of edge-agent.
"""
UNKNOWN = -(2**63)
NOBODY = 2**64 - 1
U8 = ["int", 1, 0, 0, 8, 0]
U16 = ["int", 2, 0, 0, 16, 0]
I32 = ["int", 4, 0, 1, 32, 0]
F64 = ["flt", 8, 0, [63, 52, 11, 0, 52], 1023, 64]
TEXT = ["vstr", 0, 1]
Leaves = Callable[[list[bytes]], list[bytes]]


def h(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def cbor(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def root_of(payloads: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, by its recursive definition."""
    if not payloads:
        return h()
    if len(payloads) == 1:
        return h(b"\0", payloads[0])
    k = 1 << (len(payloads) - 1).bit_length() - 1
    return h(b"\1", root_of(payloads[:k]), root_of(payloads[k:]))


def proof_of(index: int, payloads: list[bytes]) -> list[bytes]:
    """RFC 9162 section 2.1.3.1."""
    if len(payloads) == 1:
        return []
    k = 1 << (len(payloads) - 1).bit_length() - 1
    if index < k:
        return [*proof_of(index, payloads[:k]), root_of(payloads[k:])]
    return [*proof_of(index - k, payloads[k:]), root_of(payloads[:k])]


def cose_key(key: Any) -> dict[int, Any]:
    if isinstance(key, MLDSA65PrivateKey):
        return {1: 7, 3: -49, -1: key.public_key().public_bytes_raw()}
    if isinstance(key, Ed25519PrivateKey):
        return {1: 1, -1: 6, -2: key.public_key().public_bytes_raw()}
    numbers = key.public_key().public_numbers()
    return {1: 2, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}


def algorithm(key: Any) -> int:
    return -49 if isinstance(key, MLDSA65PrivateKey) else -19 if isinstance(key, Ed25519PrivateKey) else -9


def signature(key: Any, data: bytes) -> bytes:
    if isinstance(key, MLDSA65PrivateKey | Ed25519PrivateKey):
        return key.sign(data)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def sign(key: Any, kind: str, body: Any) -> bytes:
    payload = cbor(body)
    protected = cbor({1: algorithm(key), 3: f"application/x.hsc1-{kind}+cbor", 4: h(cbor(cose_key(key)))})
    return cbor(cbor2.CBORTag(18, [protected, {}, payload, signature(key, cbor(["Signature1", protected, b"", payload]))]))


def sign_all(keys: list[Any], kind: str, body: Any) -> bytes:
    payload, outer = cbor(body), cbor({3: f"application/x.hsc1-{kind}+cbor"})
    signatures = []
    for key in keys:
        protected = cbor({1: algorithm(key), 4: h(cbor(cose_key(key)))})
        signatures.append([protected, {}, signature(key, cbor(["Signature", outer, protected, b"", payload]))])
    return cbor(cbor2.CBORTag(98, [outer, {}, payload, signatures]))


def payload_of(cose: bytes) -> bytes:
    return bytes(cbor2.loads(cose).value[2])


def leaf(kind: int, body: Any) -> bytes:
    return b"HSC1" + bytes([kind]) + (body if isinstance(body, bytes) else cbor(body))


def certificate(subject: str, key: Any, uri: str | None, issuer: x509.Certificate | None, by: Any) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)  # expired on purpose: dates do not count
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
    )
    if uri:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    return builder.sign(by, None if isinstance(by, Ed25519PrivateKey) else SHA256())


class Authority:
    """The facility's CA."""

    def __init__(self, name: str = "facility") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate(name, self.key, None, None, self.key)

    def issue(self, uri: str, key: Any) -> bytes:
        return certificate(uri, key, uri, self.certificate, self.key).public_bytes(Encoding.DER)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


class Agent:
    """An identity, a session and an agent log."""

    def __init__(self, ca: Authority | None, agent_id: bytes | None = None, carry_root: bool = False, identity: Any = None, session: Any = None) -> None:
        self.id = agent_id or os.urandom(16)
        self.boot = os.urandom(16)
        self.identity: Any = identity or Ed25519PrivateKey.generate()
        self.session: Any = session or Ed25519PrivateKey.generate()
        self.keys = [self.session, MLDSA65PrivateKey.generate()]
        uri = f"urn:hsc:agent:{self.id.hex()}"
        if ca:
            self.certificates = [ca.issue(uri, self.identity)] + ([ca.der] if carry_root else [])
        else:
            self.certificates = [certificate(uri, self.identity, uri, None, self.identity).public_bytes(Encoding.DER)]
        self.record = {1: "HSC/1/session", 2: self.id, 3: [cose_key(key) for key in self.keys], 4: self.boot, 5: 0, 6: 9}
        self.log_id = h(b"HSC1-log\0", self.id, os.urandom(16))[:16]
        self.log = [leaf(64, {1: self.id, 2: self.boot, 3: "1", 4: 1})]

    def chain(self) -> dict[int, Any]:
        return {1: self.certificates, 2: [sign(self.identity, "session", self.record)]}

    def head(self, tree: bytes, leaves: list[bytes], number: int, before: bytes | None, state: int, **change: Any) -> bytes:
        body = {
            1: "HSC/1/head", 2: self.id, 3: tree, 4: len(leaves), 5: root_of(leaves), 6: number * 3, 7: before, 8: 10, 9: 11,
            10: self.boot, 11: ["ntp", 5, None, True], 12: None, 13: state, 14: 1,
        }  # fmt: skip
        return sign_all(self.keys, "head", body | {int(k[1:]): v for k, v in change.items()})


@dataclass
class Part:
    """One segment or series of files as the run statement sees it."""

    id: bytes
    ordinal: int
    close: bytes
    state: int = 1
    path: Path | None = None
    leaves: list[bytes] = field(default_factory=list)

    @property
    def head_hash(self) -> bytes:
        return h(payload_of(self.close))

    def entry(self) -> list[Any]:
        if self.path is None:
            return [self.ordinal, self.id, None, 0, bytes(32), self.head_hash, self.state]
        raw = self.path.read_bytes()
        return [self.ordinal, self.id, self.path.name, len(raw), h(raw), self.head_hash, self.state]


@dataclass
class Run:
    """What the segments of a run share."""

    agent: Agent
    folder: Path
    number: int = 1
    id: bytes = field(default_factory=lambda: os.urandom(16))
    policy: bytes = field(default_factory=lambda: h(cbor({1: "closed", 2: []})))
    parts: list[Part] = field(default_factory=list)

    @property
    def sidecar(self) -> Path:
        return self.folder / f"{self.folder.name}.hsc"

    @property
    def receipts(self) -> Path:
        return self.folder / f"{self.folder.name}.receipts"


def opening(run: Run, segment_id: bytes, ordinal: int, series: str, previous: Part | None, last: dict[str, int]) -> bytes:
    before = [previous.id, previous.head_hash] if previous else None
    return leaf(7, {1: run.agent.id, 2: run.id, 3: run.number, 4: ordinal, 5: before, 6: last, 7: run.policy, 8: run.agent.boot,
                    9: segment_id, 10: series})  # fmt: skip


def chunk_leaf(segment_id: bytes, dsd: bytes, offset: tuple[int, ...], mask: int, data: bytes, number: int = NOBODY) -> bytes:
    numbers = struct.pack(">QI", 0, 0)[:0] + struct.pack(f">{len(offset)}Q", *offset)
    tail = struct.pack(">IQ", mask, len(data)) + h(data) + struct.pack(">qQQ", 1_700_000_000_000_000_000, number, number)
    return leaf(1, segment_id + dsd + bytes([len(offset)]) + numbers + tail)


FRAMES = "/entry/camera/data"
VALUES = "/entry/balance/value"
FLAGS = "/entry/balance/flag"
BITSHUFFLE = [32008, 1, [0, 5, 2, 0, 2]]


def fill_file(file: h5py.File) -> dict[str, Any]:
    """Write everything outside the chunks; returns META's map, made by hand from the page."""
    entry = file.create_group("entry")
    camera, balance = entry.create_group("camera"), entry.create_group("balance")
    string = h5py.string_dtype()
    entry.attrs.create("NX_class", "NXentry", dtype=string)
    entry.attrs.create("limits", np.array([[1.5, 2.5], [3.5, np.nan]], ">f8"))
    camera.attrs.create("mode", np.bytes_(b"fast"), dtype="S6")
    balance.attrs.create("enabled", np.bool_(True))
    entry.create_dataset("title", data="測定", dtype=string)
    entry.create_dataset("words", data=["a", "", "b c"], dtype=string)
    table = np.zeros(2, np.dtype({"names": ["n", "x"], "formats": ["u1", "<f8"], "offsets": [0, 8], "itemsize": 16}))
    raw = table.view("V16").view(np.uint8)
    raw[:] = 0xEE
    table["n"], table["x"] = [1, 2], [0.5, -0.5]
    entry.create_dataset("table", data=table)
    entry["number"] = np.uint8(7)
    entry["a-link"] = h5py.SoftLink("/entry/title")
    entry["same"] = file["entry/camera"]
    entry["a"] = entry["number"]
    compound = ["cmp", 16, [["n", 0, U8], ["x", 8, F64]]]
    cells = b"".join(struct.pack("<B7xd", n, x) for n, x in ((1, 0.5), (2, -0.5)))
    yes = ["enum", ["int", 1, 0, 1, 8, 0], [["FALSE", 0], ["TRUE", 1]]]
    big = ["flt", 8, 1, [63, 52, 11, 0, 52], 1023, 64]
    limits = np.array([[1.5, 2.5], [3.5, np.nan]], ">f8").tobytes()
    return {
        "/": {"k": "g", "a": {}},
        "/entry": {"k": "g", "a": {"NX_class": [TEXT, None, [b"NXentry"]], "limits": [big, [2, 2], limits]}},
        "/entry/a": {"k": "d", "a": {}, "t": U8, "s": None, "v": b"\7"},
        "/entry/a-link": {"l": "soft", "t": "/entry/title"},
        "/entry/balance": {"k": "g", "a": {"enabled": [yes, None, b"\1"]}},
        "/entry/camera": {"k": "g", "a": {"mode": [["str", 6, 1, 0], None, b"fast\0\0"]}},
        "/entry/number": {"l": "hard", "t": "/entry/a"},
        "/entry/same": {"l": "hard", "t": "/entry/camera"},
        "/entry/table": {"k": "d", "a": {}, "t": compound, "s": [2], "v": cells},
        "/entry/title": {"k": "d", "a": {}, "t": TEXT, "s": None, "v": ["測定".encode()]},
        "/entry/words": {"k": "d", "a": {}, "t": TEXT, "s": [3], "v": [b"a", b"", b"b c"]},
        FRAMES: {"k": "d", "a": {"units": [TEXT, None, [b"counts"]]}, "t": U16},
        VALUES: {"k": "d", "a": {"units": [TEXT, None, [b"g"]]}, "t": F64},
        FLAGS: {"k": "d", "a": {"units": [TEXT, None, [b""]]}, "t": I32},
    }


def make_segment(
    run: Run,
    name: str,
    ordinal: int = 1,
    *,
    series: str = "camera",
    previous: Part | None = None,
    first: int = 100,
    frames: int = 5,
    last: dict[str, int] | None = None,
    more: Callable[[h5py.File], None] = lambda file: None,
    after: Callable[[h5py.File], None] = lambda file: None,
    signed: Leaves = lambda leaves: leaves,
    stored: Leaves = lambda leaves: leaves,
    heads: Callable[[list[bytes]], list[bytes]] = lambda heads: heads,
    state: int = 1,
) -> Part:
    """A segment with a frame stream that has a hole, and rows without counter."""
    rng = np.random.default_rng(ordinal)
    path, segment_id, agent = run.folder / name, os.urandom(16), run.agent
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        meta = fill_file(file)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 4, 6))
        plist.set_filter(BITSHUFFLE[0], BITSHUFFLE[1], tuple(BITSHUFFLE[2]))
        space = h5py.h5s.create_simple((frames, 4, 6), (h5py.h5s.UNLIMITED, 4, 6))
        h5py.Dataset(h5py.h5d.create(file["entry/camera"].id, b"data", h5py.h5t.STD_U16LE, space, plist)).attrs["units"] = "counts"
        values = file.create_dataset(VALUES, (20,), "<f8", chunks=(8,), maxshape=(None,))
        flags = file.create_dataset(FLAGS, (4,), "<i4", chunks=(2,), maxshape=(None,), fillvalue=-1)
        values.attrs["units"], flags.attrs["units"] = "g", ""
        stored_filter = file[FRAMES].id.get_create_plist().get_filter(0)
        filters = [[stored_filter[0], stored_filter[1], [int(v) for v in stored_filter[2]]]]
        dsds = [
            {1: FRAMES, 2: U16, 3: [1, 4, 6], 4: [None, 4, 6], 5: filters, 6: bytes(2), 7: 0, 8: ["camera/image", 1, 1]},
            {1: VALUES, 2: F64, 3: [8], 4: [None], 5: [], 6: bytes(8), 7: 0, 8: ["balance/weight", 0, 1]},
            {1: FLAGS, 2: I32, 3: [2], 4: [None], 5: [], 6: b"\xff" * 4, 7: 0, 8: ["balance/weight", 0, 1]},
        ]
        names = [h(b"HSC1-dsd\0", cbor(d)) for d in dsds]
        leaves = [opening(run, segment_id, ordinal, series, previous, last or {}), leaf(2, {1: names[0]})]

        def put(which: int, offset: tuple[int, ...], data: bytes, mask: int = 0, number: int = NOBODY) -> None:
            file[dsds[which][1]].id.write_direct_chunk(offset, data, mask)
            leaves.append(chunk_leaf(segment_id, names[which], offset, mask, data, number))

        number = first
        for frame in range(frames):
            if frame == 2:
                leaves.append(leaf(4, {1: "camera/image", 2: number, 3: number + 2, 4: "lost", 5: 3, 6: UNKNOWN, 7: UNKNOWN, 8: ""}))
                number += 3
            put(0, (frame, 0, 0), rng.bytes(30 + frame), 1 if frame == 3 else 0, number)
            number += 1
        leaves += [leaf(2, {1: names[1]}), leaf(2, {1: names[2]})]
        for row in range(3):
            put(1, (8 * row,), rng.bytes(64))
        for row in range(2):
            put(2, (2 * row,), rng.bytes(8))
        more(file)
        leaves.append(leaf(3, {1: h(b"HSC1-meta\0", cbor(meta))}))
        shapes = [[names[0], [frames, 4, 6], frames], [names[1], [20], 3], [names[2], [4], 2]]
        leaves.append(leaf(6, {1: shapes, 2: h(b"HSC1-meta\0", cbor(meta)), 3: run.policy, 4: "complete", 5: "run-end"}))
        leaves = signed(leaves)
        anchors = [agent.head(segment_id, leaves[:2], 0, None, 0)]
        anchors.append(agent.head(segment_id, leaves[:7], 1, h(payload_of(anchors[-1])), 0))
        anchors.append(agent.head(segment_id, leaves, 2, h(payload_of(anchors[-1])), state))
        write_integrity(file, stored(leaves), dsds, heads(anchors), agent.chain())
        after(file)
    return Part(segment_id, ordinal, anchors[-1], state, path, leaves)


def write_integrity(file: h5py.File, leaves: list[bytes], dsds: list[dict[int, Any]], heads: list[bytes], chain: Any) -> None:
    group = file.create_group("/entry/integrity")
    group.attrs["NX_class"], group.attrs["format"] = "NXcollection", "HSC/1"
    width, rows, events = 4 + 122 + 24, [], b""
    numbers: dict[bytes, list[int]] = {h(b"HSC1-dsd\0", cbor(d)): [] for d in dsds}
    for n, payload in enumerate(leaves):
        if payload[4] == 1:
            numbers[payload[21:53]].append(n)
            rows.append((len(payload).to_bytes(4) + payload).ljust(width, b"\0"))
        else:
            rows.append((b"\xff" * 4 + struct.pack(">QI", len(events), len(payload))).ljust(width, b"\0"))
            events += payload

    def table(name: str, raw: bytes) -> None:
        group.create_dataset(name, data=np.frombuffer(raw, np.uint8))

    group.create_dataset("leaves", data=np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width))
    table("events", events)
    table("descriptors", cbor([cbor(d) for d in dsds]))
    table("heads", cbor(heads))
    table("keychain", cbor(chain))
    if len(leaves) > 4096:
        roots = b"".join(root_of(leaves[at : at + 256]) for at in range(0, len(leaves), 256))
        group.create_dataset("epochs", data=np.frombuffer(roots, np.uint8).reshape(-1, 32))
    group.create_dataset("README", data=README)
    group.create_group("index").attrs["NX_class"] = "NXcollection"
    for n, indices in enumerate(numbers.values()):
        group.create_dataset(f"index/{n}", data=np.array(indices, "<u4"))


def make_file_series(run: Run, ordinal: int, files: dict[str, bytes]) -> Part:
    """Vendor files and the tree that stands in the sidecar."""
    segment_id = os.urandom(16)
    leaves = [opening(run, segment_id, ordinal, "files", None, {})]
    for name, raw in files.items():
        path = run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        pieces = [raw[at : at + 8388608] for at in range(0, len(raw), 8388608)]
        leaves.append(leaf(10, {1: name, 2: len(raw), 3: 8388608, 4: root_of(pieces), 5: h(raw), 6: 5}))
    leaves.append(leaf(6, {1: [], 2: None, 3: run.policy, 4: "complete", 5: "run-end"}))
    return Part(segment_id, ordinal, run.agent.head(segment_id, leaves, 0, None, 1), 1, None, leaves)


def write_sidecar(run: Run, agent: Agent | None = None, **change: Any) -> None:
    """The run statement over what is on the disk now; the signer may be somebody else."""
    signer = agent or run.agent
    names = ("preview.png", "manifest-sha256.txt", "ro-crate-metadata.json")
    extra = {name: h((run.folder / name).read_bytes()) for name in names}
    files = [cbor2.loads(raw[5:]) for part in run.parts for raw in part.leaves if raw[4] == 10]
    master = run.folder / f"{run.folder.name}.nxs"
    gaps = sum(raw[4] == 4 for part in run.parts for raw in part.leaves)
    statement = {
        1: "HSC/1/run", 2: signer.id, 3: run.number, 4: run.id, 5: [part.entry() for part in run.parts],
        6: [[f[1], f[2], f[5]] for f in files], 7: [master.name, master.stat().st_size, h(master.read_bytes())], 8: extra,
        9: [["camera/image", gaps, 3 * gaps], ["balance/weight", 0, 0]], 10: "complete", 11: run.policy,
    }  # fmt: skip
    trees = [{1: part.id, 2: part.leaves} for part in run.parts if part.path is None]
    chain = run.agent.chain()
    if agent:
        chain = {key: chain[key] + agent.chain()[key] for key in (1, 2)}
    cose = sign_all(signer.keys, "run", statement | {int(k[1:]): v for k, v in change.items()})
    run.sidecar.write_bytes(cbor({1: "HSC/1", 2: cose, 3: [part.close for part in run.parts], 4: chain, 5: trees}))


def write_receipts(
    run: Run,
    ca: Authority,
    *,
    uri: str = "urn:hsc:receipts",
    skip: int | None = None,
    witness: Callable[[bytes], bytes] = lambda cose: cose,
    custody: Callable[[dict[int, Any]], dict[int, Any]] = lambda body: body,
) -> None:
    """A landing's WITNESS over the agent log, CUSTODY of each file, and the inclusion proofs."""
    agent, key = run.agent, Ed25519PrivateKey.generate()
    log = [*agent.log, leaf(66, {1: run.number, 2: run.id, 3: run.policy, 4: 2})]
    closes = {}
    for part in run.parts:
        closes[len(log)] = leaf(68, {1: part.id, 2: part.head_hash, 3: run.id, 4: part.ordinal, 5: 3})
        log.append(closes[len(log)])
    log.append(leaf(67, {1: run.number, 2: run.id, 3: h(run.sidecar.read_bytes()), 4: 4}))
    seen = {1: "HSC/1/witness", 2: agent.id, 3: agent.log_id, 4: len(log), 5: root_of(log), 6: h(b"head"), 7: 99}
    receipts = [witness(sign(key, "witness", seen))]
    for part in run.parts:
        if part.path:
            raw = part.path.read_bytes()
            body = {1: "HSC/1/custody", 2: agent.id, 3: part.id, 4: part.head_hash, 5: h(raw), 6: len(raw), 7: "space",
                    8: "fsynced", 9: 99, 10: part.path.name}  # fmt: skip
            receipts.append(sign(key, "custody", custody(body)))
    proofs = [{1: agent.log_id, 2: len(log), 3: n, 4: raw, 5: proof_of(n, log)} for n, raw in closes.items()]
    del proofs[slice(skip, None if skip is None else skip + 1) if skip is not None else slice(0, 0)]
    late = {5: [], 6: [], 7: {1: [], 2: []}}
    run.receipts.write_bytes(cbor({1: "HSC/1/receipts", 2: [ca.issue(uri, key)], 3: receipts, 4: proofs} | late))


def make_run(folder: Path, ca: Authority, agent: Agent | None = None, number: int = 1) -> Run:
    """Two camera segments, one of rows, vendor files, a master, crate, preview, sidecar and receipts."""
    folder.mkdir(parents=True)
    run = Run(agent or Agent(ca), folder, number)
    first = make_segment(run, f"{folder.name}_camera_000001.h5", 1)
    second = make_segment(run, f"{folder.name}_camera_000002.h5", 2, previous=first, first=108, last={"camera/image": 107})
    rows = make_segment(run, f"{folder.name}_rows_000001.h5", 3, series="rows", first=900)
    run.parts = [first, second, rows]
    run.parts.append(make_file_series(run, 4, {"files/scan.dat": b"vendor" * 1_400_000, "files/ゼロ.txt": b""}))
    for name in ("preview.png", "manifest-sha256.txt", "ro-crate-metadata.json", f"{folder.name}.nxs"):
        (folder / name).write_bytes(name.encode())
    write_sidecar(run)
    write_receipts(run, ca)
    return run


def verify(*paths: Path, root: Path | str | None = None, level: int = 2, python: str = sys.executable) -> tuple[int, dict[str, Any]]:
    """Run the tool as a user would; exit code and its JSON."""
    options = [*(["--root", str(root)] if root else []), "--level", str(level), "--json"]
    if python == sys.executable:
        done = ask(*options, *paths)
    else:
        done = subprocess.run([python, TOOL, *options, *paths], capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="session")
def hsc() -> SimpleNamespace:
    """The writer's functions and the way to run the tool."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    """The verifier as a module, for its pure functions."""
    return module()


@pytest.fixture(scope="session")
def ca() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def root(ca: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "root.pem"
    path.write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def run(ca: Authority, tmp_path: Path) -> Run:
    """Room for segments: a run without sidecar."""
    folder = tmp_path / "000001"
    folder.mkdir()
    return Run(Agent(ca), folder)


@pytest.fixture(scope="session")
def finished(ca: Authority, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run that no test may change."""
    return make_run(tmp_path_factory.mktemp("space") / "000001", ca)


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    """A copy of the complete run, to tamper with."""
    folder = tmp_path / finished.folder.name
    shutil.copytree(finished.folder, folder)
    parts = [Part(p.id, p.ordinal, p.close, p.state, p.path and folder / p.path.name, p.leaves) for p in finished.parts]
    return Run(finished.agent, folder, finished.number, finished.id, finished.policy, parts)
