"""Builds signed segments by hand: a small facility with a CA and an agent, and a builder whose every step a test can change."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_agent.codec import encoder
from edge_agent.model import NO_TIME, Kind, RunContext, Stream
from edge_agent.provenance.jsonld import canonical
from edge_agent.provenance.record import (
    NOT_COUNTED,
    Calibration,
    ClockFacts,
    Organisation,
    Project,
    Software,
    Step,
    build_record,
    instrument,
)
from edge_agent.seal import cose, leaf
from edge_agent.seal.algorithm import MlDsaSigner
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import Head, State, head_hash
from edge_agent.seal.keys import AGENT_URN, RECEIPTS_URN, KeyChain, SessionRecord
from edge_agent.seal.meta import meta_digest
from edge_agent.seal.policy import policy_digest
from edge_agent.seal.receipt import Inclusion, Receipts, Witness
from edge_agent.seal.sidecar import NamedFile, RunStatement, SegmentEntry, Sidecar
from edge_agent.seal.tree import Frontier, inclusion_proof, leaf_hash, root_of
from edge_agent.segment import layout, nexus, tags
from edge_agent.segment.file import SegmentFile
from edge_agent.segment.integrity import Tables
from edge_agent.segment.layout import StreamLayout, TableLayout

T0 = 1_795_000_000_000_000_000
POLICY = policy_digest("closed", ["cloud"])
CAMERA = Stream("camera", "image", Kind.FRAMES, "<u2", (12, 16), source_uri="pva://CAM:Pva1:Image", source_type="NTNDArray", counted=True)
BALANCE = Stream("balance", "weight", Kind.ROWS, "<f8", (), unit="g", source_uri="serial:///dev/ttyUSB0", source_type="mettler-sics")
LINES = Stream(
    "balance", "line", Kind.ROWS, "|S24", source_uri="serial:///dev/ttyUSB0", attributes={"baud": 9600, "gain": 1.5, "maker": "Größe"}
)
MOTOR = "opc.tcp://motor:4840#nsu=urn:m;s=x"
COUNTED = Stream("motor", "position", Kind.ROWS, "<i4", (3,), unit="mm", source_uri=MOTOR, counted=True, step=2)


def said(run: RunContext) -> str:
    """What is known of a run whose camera and balance say who they are; canonical JSON."""
    made = build_record(
        run, Software("edge-agent", "0.1.0", "aa" * 32, "bb" * 32, "cc" * 32),
        (
            instrument(
                "camera", "epics", CAMERA.source_uri, "unauthenticated", described={"maker": "Dectris", "model": "EIGER2"}, delivers=("frames",),
            ),
            instrument(
                "balance", "serial", BALANCE.source_uri, "unauthenticated", configured={"pid": "https://doi.org/10.21938/abc", "owner": "RIKEN"},
                calibration=Calibration("C-2026-118", "2027-03-31"), delivers=("rows",),
            ),
        ),
        NOT_COUNTED,
        project=Project(run.project, "2026B1234", "JP26K00001", "JSPS"), organisation=Organisation("Facility", "https://ror.org/01x2y3z45"),
        steps=(Step("capture", "edge-agent", "0.1.0"),), clock=ClockFacts("chrony", -1500, 20000, True),
        authority="configuration of BL05", licence="CC-BY-4.0",
    )  # fmt: skip
    return canonical(made).decode()


def certificate(name: str, key: Any, issuer: x509.Certificate | None, issuer_key: Any, uri: str | None) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=uri is None, path_length=None), critical=True)
    )
    if uri is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    return builder.sign(issuer_key, None if isinstance(issuer_key, Ed25519PrivateKey) else hashes.SHA256())


def der(one: x509.Certificate) -> bytes:
    return one.public_bytes(Encoding.DER)


@dataclass
class Facility:
    """A CA, one enrolled agent in one session, and a landing service that signs receipts."""

    agent_id: bytes = field(default_factory=lambda: os.urandom(16))
    boot_id: bytes = field(default_factory=lambda: os.urandom(16))
    ca_key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    identity: Any = field(default_factory=Ed25519PrivateKey.generate)
    sign_identity: Any = None
    session: Any = field(default_factory=Ed25519PrivateKey.generate)
    post_quantum: MlDsaSigner = field(default_factory=lambda: MlDsaSigner(MLDSA65PrivateKey.generate()))
    receipts_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.root = certificate("Test facility", self.ca_key, None, self.ca_key, None)
        urn = AGENT_URN + self.agent_id.hex()
        self.identity_cert = certificate("agent", self.identity, self.root, self.ca_key, urn)
        self.self_signed = certificate("agent", self.identity, None, self.identity, urn)
        self.receipts_cert = certificate("receipts", self.receipts_key, self.root, self.ca_key, RECEIPTS_URN)
        record = SessionRecord(
            self.agent_id, tuple(key.public_key() for key in self.keys), self.boot_id, T0, T0 + 86_400 * 10**9
        )  # fmt: skip
        self.record = cose.sign(self.sign_identity or self.identity, cose.SESSION, record.payload())
        self.chain = KeyChain((der(self.identity_cert),), (self.record,))
        self.own_chain = KeyChain((der(self.self_signed),), (self.record,))

    @property
    def keys(self) -> list[cose.Signer]:
        """What signs an anchor head, in order."""
        return [self.session, self.post_quantum]

    def head(self, tree_id: bytes, frontier: Frontier, number: int, previous: bytes | None, state: State) -> bytes:
        head = Head(
            self.agent_id, tree_id, frontier.size, frontier.root(), number, previous, T0 + number, 10**9 + number, self.boot_id,
            Clock("chrony", 1000, 5000, True), state,
        )  # fmt: skip
        return head.payload()

    def sign_head(self, payload: bytes) -> bytes:
        return cose.sign_all(self.keys, cose.HEAD, payload)


@dataclass
class Built:
    """A finished segment: its path, leaf payloads, anchor heads (COSE) and close head hash."""

    path: Path
    segment_id: bytes
    ordinal: int
    leaves: list[bytes]
    heads: list[bytes]
    head: bytes
    state: State = State.CLOSED


class Builder:
    """One segment under construction; ``told``: it says of its run what `said` says.

    `close` takes hooks that change leaves, heads and tables before they are signed and written.
    """

    def __init__(
        self, facility: Facility, path: Path, run: RunContext, *, ordinal: int = 1, series: str = "camera/image",
        previous: tuple[bytes, bytes] | None = None, last_seq: dict[str, int] | None = None, told: bool = False,
    ) -> None:  # fmt: skip
        self.facility, self.run, self.ordinal = facility, run, ordinal
        self.segment_id = os.urandom(16)
        self.file = SegmentFile(path)
        self.file.add(layout.entry_objects(run, "BL05", ordinal, series, said(run) if told else "{}"))
        opening = leaf.Open(
            facility.agent_id, run.run_id, run.run_no, ordinal, previous, POLICY, facility.boot_id, self.segment_id, series, last_seq or {}
        )
        self.leaves: list[leaf.Leaf] = [opening]
        self.anchors: list[int] = []
        self.frames = 0
        self.gaps: dict[str, list[leaf.GapLeaf]] = {}
        self.streams: dict[str, Stream] = {}

    def add(self, stream: Stream, *, default: bool = False) -> StreamLayout:
        made = layout.stream_layout(stream, default=default)
        dsds = (*((made.data,) if made.data else ()), *made.table.dsds)
        self.file.add(made.objects, dsds)
        self.leaves += [leaf.Dataset(d.digest()) for d in dsds]
        self.streams[stream.key] = stream
        return made

    def meta(self) -> None:
        self.leaves.append(leaf.Meta(meta_digest(self.file.objects)))

    def anchor(self) -> None:
        """Sign a head over the leaves so far."""
        self.anchors.append(len(self.leaves))

    def frame(self, made: StreamLayout, data: np.ndarray[Any, Any], number: int) -> None:
        assert made.data is not None
        self._chunk(made.data, made.codec, (self.frames, 0, 0), data[None], self.frames + 1, number)
        self.frames += 1

    def rows(self, table: TableLayout, columns: dict[str, np.ndarray[Any, Any]]) -> None:
        """Write whole columns, as many chunks as they need."""
        for column, dsd in zip(table.columns, table.dsds, strict=True):
            values = columns[column.name].astype(column.dtype)
            for start in range(0, len(values), table.chunk):
                part = values[start : start + table.chunk]
                padded = np.zeros((table.chunk, *values.shape[1:]), values.dtype)
                padded[: len(part)] = part
                self._chunk(dsd, table.codec, (start,) + (0,) * (values.ndim - 1), padded, start + len(part), leaf.NO_COUNTER)

    def _chunk(self, dsd: Any, codec: str, offset: tuple[int, ...], raw: np.ndarray[Any, Any], rows: int, seq: int) -> None:
        raw = np.ascontiguousarray(raw)
        out = bytearray(encoder(codec).bound(raw.nbytes, raw.itemsize))
        size, mask = encoder(codec).encode(raw, out, raw.itemsize)
        stored = bytes(out[:size])
        self.file.write_chunk(dsd.path, offset, stored, mask, rows)
        digest = hashlib.sha256(stored).digest()
        self.leaves.append(leaf.Chunk(self.segment_id, dsd.digest(), offset, mask, size, digest, T0 + rows, seq, seq))

    def gap(self, source: str, first: int | None, last: int | None, count: int | None, cause: str = "overload") -> None:
        made = leaf.GapLeaf(source, first, last, cause, count, T0, T0 + 10**9, "for a test")
        self.leaves.append(made)
        self.gaps.setdefault(source, []).append(made)

    def conclude(self) -> None:
        """What is added to the file at its end, for people."""
        received = {stream.key: self.frames if stream is CAMERA else 20 for stream in self.streams.values()}
        counted = {stream.key: stream.counted for stream in self.streams.values()}
        self.file.add(nexus.segment_completeness(received, self.gaps, counted) | layout.closing_objects(T0 + 10**10, "complete"))

    def close(
        self, *, leaves: Callable[[list[leaf.Leaf]], Iterable[leaf.Leaf]] = lambda given: given,
        heads: Callable[[list[bytes]], list[bytes]] = lambda given: given, tables: Callable[[Tables], Tables] = lambda given: given,
        head: Callable[[Head], Head] = lambda given: given, before: Callable[[SegmentFile], None] = lambda file: None,
        state: State = State.CLOSED, reason: str = "run-end",
    ) -> Built:  # fmt: skip
        """META, CLOSE, sign, write."""
        for source, stream in self.streams.items():
            self.file.add(layout.gap_objects(layout.stream_group(stream), self.gaps.get(source, [])))
        self.conclude()
        self.meta()
        datasets = tuple((d.digest(), self.file.shapes[path], self.file.chunks[path]) for path, d in self.file.dsds.items())
        self.leaves.append(leaf.Close(datasets, meta_digest(self.file.objects), POLICY, "complete", reason))
        payloads = [item.payload() for item in leaves(self.leaves)]
        signed, digest = self._sign(payloads, head, state)
        descriptors = tuple(d.encode() for d in self.file.dsds.values())
        signed = heads(signed)
        before(self.file)
        self.file.finish(tables(Tables(tuple(payloads), descriptors, tuple(signed), self.facility.chain)))
        return Built(self.file.path, self.segment_id, self.ordinal, payloads, signed, digest, state)

    def _sign(self, payloads: list[bytes], change: Callable[[Head], Head], state: State) -> tuple[list[bytes], bytes]:
        frontier, signed, previous = Frontier(), [], None
        ends = [*self.anchors, len(payloads)]
        for number, end in enumerate(ends):
            while frontier.size < min(end, len(payloads)):
                frontier.append(payloads[frontier.size])
            last = number == len(ends) - 1
            head = Head(
                self.facility.agent_id, self.segment_id, frontier.size, frontier.root(), number, previous, T0 + number, number,
                self.facility.boot_id, Clock(), state if last else State.OPEN,
            )  # fmt: skip
            payload = (change(head) if last else head).payload()
            previous = head_hash(payload)
            signed.append(self.facility.sign_head(payload))
        assert previous is not None
        return signed, previous


def columns(n: int, first: int = 0, **more: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The columns that every table has, for ``n`` rows."""
    times = T0 + np.arange(n, dtype="<i8") * 10**8
    return {
        "time": times, "time_server": np.full(n, NO_TIME), "time_arrival": times + 1000,
        "valid": np.ones(n, "u1"), "status": np.zeros(n, "<u4"),
        "frame_number": np.arange(first, first + n, dtype="<u8"), "sequence": np.arange(first, first + n, dtype="<u8"), **more,
    }  # fmt: skip


def images(n: int) -> np.ndarray[Any, Any]:
    """``n`` seeded frames of CAMERA."""
    return np.random.default_rng(7).poisson(3.0, (n, *CAMERA.shape)).astype("<u2")


@dataclass
class Forge:
    """What a test needs to make segments and runs."""

    facility: Facility
    run: RunContext

    def frames(self, path: Path, *, n: int = 6, first: int = 10, ordinal: int = 1, **options: Any) -> Builder:
        """An unfinished segment of ``n`` frames with a gap of two after the third, and one anchor."""
        builder = Builder(self.facility, path, self.run, ordinal=ordinal, **options)
        made = builder.add(CAMERA, default=True)
        builder.meta()
        builder.anchor()
        data, numbers = images(n), []
        for i in range(n):
            if i == 3:
                builder.gap(CAMERA.key, first + 3, first + 4, 2)
            numbers.append(first + i + (2 if i >= 3 else 0))
            builder.frame(made, data[i], numbers[-1])
            if i == n // 2:
                builder.anchor()
        builder.rows(made.table, columns(n, frame_number=np.array(numbers, "<u8")))
        return builder

    def rows(self, path: Path, *, n: int = 20, ordinal: int = 1, **options: Any) -> Builder:
        """An unfinished segment of three row streams."""
        builder = Builder(self.facility, path, self.run, ordinal=ordinal, **{"series": "rows"} | options)
        rng = np.random.default_rng(3)
        weights = builder.add(BALANCE, default=True)
        lines = builder.add(LINES)
        motor = builder.add(COUNTED)
        builder.meta()
        shared = columns(n, value=rng.normal(10, 0.1, n))
        # The last known value first, and one whose source gave no time.
        shared["valid"][:1], shared["time"][1:2] = 2, NO_TIME
        builder.rows(weights.table, shared)
        builder.gap(BALANCE.key, None, None, None, "disconnect")
        builder.rows(lines.table, columns(n, value=np.array([f"S S {i:8.3f} g".encode() for i in range(n)])))
        builder.rows(motor.table, columns(n, value=rng.integers(-9, 9, (n, 3))))
        return builder

    def tags(self, path: Path, *, ordinal: int = 1, **options: Any) -> Builder:
        """An unfinished segment in which two streams share a table: one row of the first, three of the second."""
        builder = Builder(self.facility, path, self.run, ordinal=ordinal, **{"series": "rows"} | options)
        streams = [
            Stream("plc", f"TC{n:02d}", Kind.ROWS, unit="degC", source_uri=f"opc.tcp://plc:4840#ns=2;i={n}", attributes={"low": -5.0})
            for n in (1, 2)
        ]
        made = tags.table_of("f8", default=True)
        builder.file.add(made.objects, made.table.dsds)
        builder.leaves += [leaf.Dataset(d.digest()) for d in made.table.dsds]
        builder.rows(made.table, columns(4, value=np.array([20.0, 7.0, 20.5, 21.0]), tag=np.array([1, 0, 1, 1], "<u4")))
        builder.gap(streams[1].key, None, None, None, "disconnect")
        builder.file.add(tags.closing_objects([tags.tag_of(stream) for stream in streams], builder.gaps))
        return builder

    def file_series(self, folder: Path, *, ordinal: int = 1, content: bytes = b"vendor data\n" * 1000) -> tuple[Built, list[NamedFile]]:
        """A series of one vendor file below ``folder``/files."""
        path = folder / "files" / "scan 01.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        segment_id = os.urandom(16)
        pieces = [leaf_hash(content[i : i + leaf.PIECE]) for i in range(0, len(content), leaf.PIECE)]
        digest = hashlib.sha256(content).digest()
        leaves = [
            leaf.Open(
                self.facility.agent_id, self.run.run_id, self.run.run_no, ordinal, None, POLICY, self.facility.boot_id, segment_id, "files"
            ),
            leaf.FileLeaf("files/scan 01.csv", len(content), root_of(pieces), digest, T0),
            leaf.Close((), bytes(32), POLICY, "complete", "run-end"),
        ]  # fmt: skip
        payloads = [item.payload() for item in leaves]
        frontier = Frontier()
        for payload in payloads:
            frontier.append(payload)
        head = self.facility.head(segment_id, frontier, 0, None, State.CLOSED)
        built = Built(path, segment_id, ordinal, payloads, [self.facility.sign_head(head)], head_hash(head))
        return built, [NamedFile("files/scan 01.csv", len(content), digest)]

    def sidecar(
        self, folder: Path, segments: list[Built], *, series: list[Built] | None = None, files: list[NamedFile] | None = None,
        change: Callable[[RunStatement], RunStatement] = lambda given: given, **others: bytes,
    ) -> Path:  # fmt: skip
        """``<run>.hsc`` for segments (with files) and series (without)."""
        series = series or []
        entries = []
        for built in sorted([*segments, *series], key=lambda b: b.ordinal):
            if built in series:
                entry = SegmentEntry(built.ordinal, built.segment_id, None, 0, bytes(32), built.head, int(built.state))
            else:
                data = built.path.read_bytes()
                digest = hashlib.sha256(data).digest()
                entry = SegmentEntry(built.ordinal, built.segment_id, built.path.name, len(data), digest, built.head, int(built.state))
            entries.append(entry)
        for name, data in others.items():
            (folder / name).write_bytes(data)
        counted: dict[str, list[int | None]] = {}
        for built in (*segments, *series):
            for item in map(leaf.parse, built.leaves):
                if isinstance(item, leaf.GapLeaf):
                    counted.setdefault(item.source_id, []).append(item.count)
        gaps = tuple((key, len(n), None if None in n else sum(c for c in n if c)) for key, n in sorted(counted.items()))
        statement = RunStatement(
            self.facility.agent_id, self.run.run_no, self.run.run_id, tuple(entries), tuple(files or []), None,
            {name: hashlib.sha256(data).digest() for name, data in others.items()}, gaps, "complete", POLICY,
        )  # fmt: skip
        signed = cose.sign_all(self.facility.keys, cose.RUN, change(statement).payload())
        heads = tuple(b.heads[-1] for b in sorted([*segments, *series], key=lambda b: b.ordinal))
        made = Sidecar(signed, heads, self.facility.chain, {b.segment_id: tuple(b.leaves) for b in series})
        path = folder / f"{self.run.name}.hsc"
        path.write_bytes(made.encode())
        return path

    def receipts(
        self, folder: Path, segments: Sequence[Built | SegmentEntry], *, change: Callable[[Receipts], Receipts] = lambda given: given, seconds: int = 0,
        before: tuple[leaf.Leaf, ...] = (), after: tuple[leaf.Leaf, ...] = (),
    ) -> Path:  # fmt: skip
        """``<run>.receipts``: a log that holds the close of each segment, other leaves around them, and a witness, ``seconds`` after T0."""
        log = [leaf.Boot(self.facility.agent_id, self.facility.boot_id, "0.1", T0).payload()]
        log += [item.payload() for item in before]
        log += [leaf.SegmentClose(b.segment_id, b.head, self.run.run_id, b.ordinal, T0).payload() for b in segments]
        log += [item.payload() for item in after]
        hashed = [leaf_hash(payload) for payload in log]
        log_id = b"agent log id 016"
        witness = Witness(self.facility.agent_id, log_id, len(log), root_of(hashed), bytes(32), T0 + 5 + seconds * 10**9)
        inclusions = tuple(
            Inclusion(log_id, len(log), index, payload, tuple(inclusion_proof(hashed, index))) for index, payload in enumerate(log) if index
        )
        signed = cose.sign(self.facility.receipts_key, cose.WITNESS, witness.payload())
        made = change(Receipts((der(self.facility.receipts_cert),), (signed,), inclusions))
        path = folder / f"{self.run.name}.receipts"
        path.write_bytes(made.encode())
        return path


@pytest.fixture(scope="session")
def facility() -> Facility:
    return Facility()


@pytest.fixture(scope="session")
def shared_forge(facility: Facility) -> Forge:
    """For files that a whole module only reads or copies."""
    return Forge(
        facility, RunContext(os.urandom(16), 123, "demo-project", "beamline", T0, "demo-project/beamline/2026-11-24/000123", user="Tester")
    )


@pytest.fixture
def forge(facility: Facility) -> Forge:
    return Forge(
        facility, RunContext(os.urandom(16), 123, "demo-project", "beamline", T0, "demo-project/beamline/2026-11-24/000123", sample="Si")
    )


@pytest.fixture(scope="session")
def stranger() -> Facility:
    """Another facility, with an agent of its own."""
    return Facility()


@pytest.fixture(scope="session")
def frames_file(shared_forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed segment of frames, to be copied before it is changed."""
    return shared_forge.frames(tmp_path_factory.mktemp("frames") / "000123_camera_image_000001.h5").close().path


@pytest.fixture(scope="session")
def rows_file(shared_forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed segment of rows, to be copied before it is changed."""
    return shared_forge.rows(tmp_path_factory.mktemp("rows") / "000123_rows_000002.h5").close().path


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., dict[str, np.ndarray[Any, Any]]]:
    """`columns`: what a table needs for n rows."""
    return columns
