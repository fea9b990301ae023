"""What the format has no place for, signed by the agent's own key or put into its file by hand: both verifiers refuse each of it.

The signer lies here in ways that no writer of segments does, so each case is made from the bytes of a good one.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cbor2
import h5py
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_agent.seal import cose, leaf
from edge_agent.seal.algorithm import Es256Signer, algorithm
from edge_agent.seal.cbor import loads
from edge_agent.seal.keys import AGENT_URN, KeyChain
from edge_agent.segment import layout
from edge_agent.segment.proof import export, verify_proof
from edge_agent.segment.run import verify_run
from edge_agent.segment.slice import verify_slice
from edge_agent.segment.verify import verify_segment
from tests.golden.findings import module

DATA = "/entry/instrument/camera/image/data"
NUMBER = "/entry/instrument/camera/image/frame_number"
TABLES = "/entry/integrity"
ORDER_OF_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def levels(facility: Any, tmp_path: Path) -> Callable[[Path], tuple[int, int]]:
    """What both verifiers say of a segment, or of a run by its sidecar, under the facility's root."""
    root = tmp_path / "root.pem"
    root.write_bytes(facility.root.public_bytes(Encoding.PEM))
    tool = module()

    def judged(path: Path) -> tuple[int, int]:
        (item,) = tool.items([str(path)], tool.load_roots(str(root)))
        ours = verify_run(path, facility.root, judge=verify_segment) if path.suffix == ".hsc" else verify_segment(path, facility.root)
        return ours.level, item["level"]

    return judged


def encoded(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


@dataclass
class Raw:
    """A leaf that is these bytes."""

    data: bytes

    def payload(self) -> bytes:
        return self.data


GAP = {1: "other/x", 2: None, 3: None, 4: "c", 5: None, 6: 0, 7: 0, 8: ""}
SHORT = {"run_id": b"run", "boot_id": bytes(15), "previous": (b"a", b"b"), "policy": b"p"}
LEAVES: dict[str, bytes] = {
    "a key twice": b"\x03\xa2\x01\x58\x20" + bytes(32) + b"\x01\x58\x20" + bytes(32),
    "a long length": b"\x03\xa1\x01\x59\x00\x20" + bytes(32),
    "a long key": b"\x03\xa1\x18\x01\x58\x20" + bytes(32),
    "no length": b"\x03\xbf\x01\x58\x20" + bytes(32) + b"\xff",
    "True for the key 1": b"\x03" + encoded({True: bytes(32)}),
    "a short digest": b"\x03" + encoded({1: b"meta"}),
    "True for a number": b"\x04" + encoded(GAP | {5: True}),
    "no detail": b"\x04" + encoded(GAP | {8: None}),
    "a float": b"\x04" + encoded(GAP | {8: 1.5}),
    "a big number": b"\x05" + encoded({1: 2**70, 2: None, 3: 0, 4: 0}),
    "a leaf of the agent log": leaf.Boot(bytes(16), bytes(16), "1", 1).payload()[4:],
}


@pytest.mark.parametrize("case", LEAVES)
def test_a_leaf_that_is_not_the_one_encoding_of_its_map_is_damage(case: str, forge: Any, levels: Any, tmp_path: Path) -> None:
    raw = Raw(b"HSC1" + LEAVES[case])
    assert levels(forge.frames(tmp_path / "a.h5").close(leaves=lambda given: [*given[:4], raw, *given[4:]]).path) == (0, 0)


@pytest.mark.parametrize("field", SHORT)
def test_an_identifier_or_digest_of_another_length_is_damage(field: str, forge: Any, levels: Any, tmp_path: Path) -> None:
    def change(given: list[Any]) -> list[Any]:
        close = replace(given[-1], policy=SHORT["policy"]) if field == "policy" else given[-1]
        return [replace(given[0], **{field: SHORT[field]}), *given[1:-1], close]

    assert levels(forge.frames(tmp_path / "a.h5").close(leaves=change).path) == (0, 0)


def test_a_leaf_behind_close_a_second_one_and_an_open_that_is_not_first_are_damage(forge: Any, levels: Any, tmp_path: Path) -> None:
    for number, change in enumerate(
        (lambda g: [*g, g[-1]], lambda g: [*g, g[4]], lambda g: [g[1], g[0], *g[2:]], lambda g: [g[0], *g])
    ):
        assert levels(forge.frames(tmp_path / f"{number}.h5").close(leaves=change).path) == (0, 0), number


# ---- COSE


def signed(signers: Any, payload: bytes, *, body: Any = None, header: Any = lambda h: h, signature: Any = lambda s: s, outer: Any = None) -> bytes:
    """`cose.sign_all`, by hand: everything but the payload can be another."""
    around, found = encoded({3: cose.HEAD} if body is None else body), []
    for signer in signers:
        key = signer.public_key()
        protected = encoded(header({1: algorithm(key), 4: cose.thumbprint(key)}))
        found.append([protected, {}, signature(signer.sign(encoded(["Signature", around, protected, b"", payload])))])
    return encoded(cbor2.CBORTag(98, [around, outer or {}, payload, found]))


COSE: dict[str, dict[str, Any]] = {
    "a further header": {"body": {3: cose.HEAD, 99: 1}},
    "crit": {"body": {2: [3], 3: cose.HEAD}},
    "crit of a signature": {"header": lambda h: h | {2: [1]}},
    "an unprotected header": {"outer": {4: b"kid"}},
    "a content type that is a number": {"body": {3: 60}},
    "EdDSA": {"header": lambda h: h | {1: -8}},
    "the algorithm of another key": {"header": lambda h: h | {1: -9}},
    "True for the key 1": {"header": lambda h: {True: h[1], 4: h[4]}},
    "a longer signature": {"signature": lambda s: s + b"\0"},
    "a shorter signature": {"signature": lambda s: s[:-1]},
}


@pytest.mark.parametrize("case", COSE)
def test_cose_of_another_form_is_damage(case: str, forge: Any, levels: Any, tmp_path: Path) -> None:
    def change(heads: list[bytes]) -> list[bytes]:
        return [*heads[:-1], signed(forge.facility.keys, cose.payload_of(heads[-1]), **COSE[case])]

    assert levels(forge.frames(tmp_path / "a.h5").close(heads=change).path) == (0, 0)


HEADS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "True for the key 1": lambda h: {(key if key > 1 else True): value for key, value in h.items()},
    "True for a state": lambda h: h | {13: True},
    "True for a hash": lambda h: h | {14: True},
    "a short hash": lambda h: h | {7: b"x"},
    "a fifth of a clock": lambda h: h | {11: [*h[11], 1]},
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_with_another_field_is_damage(case: str, forge: Any, levels: Any, tmp_path: Path) -> None:
    def change(heads: list[bytes]) -> list[bytes]:
        return [*heads[:-1], cose.sign_all(forge.facility.keys, cose.HEAD, encoded(HEADS[case](cbor2.loads(cose.payload_of(heads[-1])))))]

    assert levels(forge.frames(tmp_path / "a.h5").close(heads=change).path) == (0, 0)


def test_an_anchor_over_no_leaf_has_the_root_of_the_empty_tree(forge: Any, levels: Any, tmp_path: Path) -> None:
    builder = forge.frames(tmp_path / "a.h5")
    builder.anchors.insert(0, 0)
    assert levels(builder.close().path) == (2, 2)


def other_s(signature: bytes) -> bytes:
    return signature[:32] + (ORDER_OF_P256 - int.from_bytes(signature[32:])).to_bytes(32)


def test_es256_has_two_values_of_s_and_one_length(facility: Any, forge: Any, levels: Any, tmp_path: Path) -> None:
    """RFC 9053 asks for no low s; a signature is no name of anything, so the other one changes nothing."""
    identity, session = (Es256Signer(ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    made = type(facility)(ca_key=facility.ca_key, session=session, identity=identity.key, sign_identity=identity)
    made.root, forge.facility = facility.root, made
    changes: dict[str, tuple[Callable[[bytes], bytes], int]] = {
        "as it is": (lambda s: s, 2), "the other s": (other_s, 2), "a byte more": (lambda s: s + b"\0", 0), "a zero before": (lambda s: b"\0" + s, 0),
        "a byte less": (lambda s: s[:-1], 0), "zeros": (lambda s: bytes(64), 0),
    }  # fmt: skip
    for name, (change, level) in changes.items():

        def again(heads: list[bytes], change: Callable[[bytes], bytes] = change) -> list[bytes]:
            payload = cose.payload_of(heads[-1])
            return [*heads[:-1], signed(made.keys, payload, signature=lambda s: change(s) if len(s) == 64 else s)]

        assert levels(forge.frames(tmp_path / f"{name}.h5").close(heads=again).path) == (level, level), name


# ---- Keys


def identity(facility: Any, *names: str) -> bytes:
    """A certificate of the agent's identity key with these URI names."""
    start, key = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), facility.identity.public_key()
    builder = x509.CertificateBuilder(
        facility.root.subject, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")]), key, x509.random_serial_number(), start,
        start + datetime.timedelta(days=30),
    )  # fmt: skip
    names_of_it = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])
    made = builder.add_extension(names_of_it, critical=False).sign(facility.ca_key, hashes.SHA256())
    return made.public_bytes(Encoding.DER)


def test_a_key_chain_names_one_agent_and_each_certificate_once(facility: Any, forge: Any, levels: Any, tmp_path: Path) -> None:
    mine, other = AGENT_URN + facility.agent_id.hex(), AGENT_URN + "00" * 16
    record, ca = facility.record, facility.root.public_bytes(Encoding.DER)
    bad = {
        "a second name that is none": (identity(facility, mine, AGENT_URN + "zz"),),
        "a name twice": (identity(facility, mine, mine),),
        "another agent first": (identity(facility, other), identity(facility, mine)),
        "another agent last": (identity(facility, mine), identity(facility, other)),
        "a name in capitals": (identity(facility, AGENT_URN + facility.agent_id.hex().upper()),),
        "the authority twice": (identity(facility, mine), ca, ca),
    }
    for name, certificates in bad.items():
        path = forge.frames(tmp_path / f"{name}.h5").close(tables=lambda t, c=certificates: replace(t, chain=KeyChain(c, (record,)))).path
        assert levels(path) == (0, 0), name


def test_a_session_record_is_read_exactly_and_its_dates_do_not_count(facility: Any, forge: Any, levels: Any, tmp_path: Path) -> None:
    said = loads(cose.parse(facility.record).payload, "record")
    first, second = said[3]
    bad = {
        "no key": {3: []}, "ML-DSA first": {3: [second, first]}, "three": {3: [first, second, second]}, "a short boot": {4: b"boot"},
        "True for a kind": {3: [first | {1: True}, second]}, "True for the key 1": {3: [{True: 1, -1: 6, -2: first[-2]}, second]},
        "an algorithm": {3: [first | {3: -19}, second]},
    }  # fmt: skip
    for name, change in ({"dates": {5: 5, 6: 1}} | bad).items():
        record = cose.sign(facility.identity, cose.SESSION, encoded(said | change))
        chain = KeyChain(facility.chain.certificates, (record,))
        path = forge.frames(tmp_path / f"{name}.h5").close(tables=lambda t, c=chain: replace(t, chain=c)).path
        assert levels(path) == ((0, 0) if name in bad else (2, 2)), name


# ---- Descriptors and chunks


def with_descriptor(builder: Any, path: str, change: Callable[[dict[int, Any]], Any]) -> Path:
    """The segment with another descriptor of a dataset, in the table and in all leaves."""
    good = builder.file.dsds[path].encode()
    bad = encoded(change(loads(good, "descriptor")))
    before, after = (hashlib.sha256(b"HSC1-dsd\0" + one).digest() for one in (good, bad))
    closed = builder.close(
        leaves=lambda given: [Raw(item.payload().replace(before, after)) for item in given],
        tables=lambda t: replace(t, descriptors=tuple(bad if one == good else one for one in t.descriptors)),
    )
    return closed.path  # type: ignore[no-any-return]


DESCRIPTORS: dict[str, tuple[str, Callable[[dict[int, Any]], Any]]] = {
    "False for a number of its type": (DATA, lambda d: d | {2: ["int", 2, False, False, 16, False]}),
    "True for the key 1": (DATA, lambda d: {(key if key > 1 else True): value for key, value in d.items()}),
    "a rank more": (DATA, lambda d: d | {4: [*d[4], None]}),
    "no step": (NUMBER, lambda d: d | {8: [d[8][0], 0, None]}),
    "a step of 0": (NUMBER, lambda d: d | {8: [d[8][0], 0, 0]}),
    "rows that count": (NUMBER, lambda d: d | {8: [d[8][0], 2, 1]}),
}


@pytest.mark.parametrize("case", DESCRIPTORS)
def test_a_descriptor_of_another_form_is_damage(case: str, forge: Any, levels: Any, tmp_path: Path) -> None:
    assert levels(with_descriptor(forge.frames(tmp_path / "a.h5"), *DESCRIPTORS[case])) == (0, 0)


def test_frame_numbers_that_people_read_are_compared_by_both(forge: Any, levels: Any, rows_of: Any, tmp_path: Path) -> None:
    for numbers, level in (([4, 5, 6], 2), ([4, 6, 5], 0), ([], 0)):
        builder = forge.frames(tmp_path / f"{numbers}.h5", n=0)
        stream = next(iter(builder.streams.values()))
        made = layout.stream_layout(stream, default=True)
        for number in (4, 5, 6):
            builder.frame(made, np.zeros(stream.shape, stream.dtype), number)
        builder.rows(made.table, rows_of(len(numbers), frame_number=np.array(numbers, "<u8")))
        assert levels(builder.close().path) == (level, level), numbers


def test_a_filter_mask_names_no_filter_that_is_not_there(forge: Any, facility: Any, levels: Any, tmp_path: Path) -> None:
    """The file says the same as the leaf, and HDF5 does not mind; in a slice, too, it is asked."""
    builder = forge.frames(tmp_path / "a.h5", n=0)
    stream, write = next(iter(builder.streams.values())), builder.file.write_chunk
    builder.file.write_chunk = lambda path, offset, stored, mask, rows: write(path, offset, stored, mask | 8, rows)
    builder.frame(layout.stream_layout(stream, default=True), np.zeros(stream.shape, stream.dtype), 4)
    builder.leaves[-1] = replace(builder.leaves[-1], filter_mask=builder.leaves[-1].filter_mask | 8)
    path = builder.close().path
    assert levels(path) == (0, 0)
    said, tool = verify_slice(path, DATA, ((0, 1),), facility.root), module()
    item = tool.slice_item(str(path), tool.Roots(), DATA, "0:1")
    assert (said.level, item["level"]) == (0, 0)
    assert "names filters that the dataset does not have" in said.reason
    assert "names filters that the dataset does not have" in item["reason"]


# ---- The file


def text_of_another_type(file: h5py.File) -> None:
    del file[TABLES].attrs["format"]
    opaque = h5py.h5t.create(h5py.h5t.OPAQUE, 5)
    opaque.set_tag(b"text")
    made = h5py.h5a.create(file[TABLES].id, b"format", opaque, h5py.h5s.create(h5py.h5s.SCALAR))
    made.write(np.array(b"HSC/1", "V5"), mtype=opaque)


def in_chunks(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        data = file[f"{TABLES}/{name}"][()]
        del file[f"{TABLES}/{name}"]
        file.create_dataset(f"{TABLES}/{name}", data=data, chunks=True)

    return change


def elsewhere(file: h5py.File) -> None:
    data = file[f"{TABLES}/events"][()]
    del file[f"{TABLES}/events"]
    beside = Path(file.filename).with_suffix(".bin")
    beside.write_bytes(data.tobytes())
    file.create_dataset(f"{TABLES}/events", data.shape, data.dtype, external=[(str(beside), 0, data.nbytes)])


def virtual(file: h5py.File) -> None:
    file.move(DATA, "/entry/real")
    shape, dtype = file["/entry/real"].shape, file["/entry/real"].dtype
    made = h5py.VirtualLayout(shape, dtype)
    made[...] = h5py.VirtualSource(".", "/entry/real", shape)
    file.create_virtual_dataset(DATA, made)


def huge(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    h5py.h5d.create(file.id, b"/entry/huge", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((1 << 40,)), properties)


EDITS: dict[str, Callable[[h5py.File], Any]] = {
    "the format as another type": text_of_another_type,
    "an attribute more": lambda f: f[TABLES].attrs.create("more", 1),
    "an index in chunks": in_chunks("index/0"),
    "heads in chunks": in_chunks("heads"),
    "events in another file": elsewhere,
    "a virtual dataset over the signed one": virtual,
    "a soft link over the signed one": lambda f: (f.move(DATA, "/entry/real"), f.__setitem__(DATA, h5py.SoftLink("/entry/real"))),
    "more elements than any disk has": huge,
    "epochs of a short segment": lambda f: f.create_dataset(f"{TABLES}/epochs", data=np.zeros((1, 32), "u1")),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_file_that_was_made_over_is_damage(case: str, frames_file: Path, facility: Any, levels: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    shutil.copy(frames_file, path)
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        EDITS[case](file)
    assert levels(path) == (0, 0)


@pytest.mark.parametrize("first", ["the signed one", "the other"])
def test_an_attribute_that_stands_there_twice_is_damage(first: str, frames_file: Path, levels: Any, tmp_path: Path) -> None:
    """HDF5 makes no such file, and reads it: which of the two a program sees is by chance."""
    path = tmp_path / "a.h5"
    shutil.copy(frames_file, path)
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        attributes = file[DATA].attrs
        if first == "the other":
            good = attributes["units"]
            del attributes["units"]
            attributes["unitx"], attributes["unity"] = "photon", good
        else:
            attributes["unitx"] = "photon"
    path.write_bytes(path.read_bytes().replace(b"unitx\0", b"units\0").replace(b"unity\0", b"units\0"))
    with h5py.File(path) as file:
        assert list(file[DATA].attrs).count("units") == 2
    assert levels(path) == (0, 0)


@pytest.mark.parametrize("name", ["/entry/title", f"{TABLES}/heads"])
def test_a_link_that_stands_there_twice_is_damage(name: str, frames_file: Path, facility: Any, levels: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    shutil.copy(frames_file, path)
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        file[name[:-1] + "~"] = file[name][()]
    path.write_bytes(path.read_bytes().replace(name[-5:-1].encode() + b"~\0", name[-5:].encode() + b"\0"))
    with h5py.File(path) as file:
        assert list(file[name].parent).count(name.rpartition("/")[2]) == 2
    assert levels(path) == (0, 0)
    assert verify_slice(path, DATA, ((0, 1),), facility.root).level == 0


# ---- Beside a run


PROOFS = {
    "a leaf of an unknown type": b"HSC1\x60\xa0",
    "a BOOT without fields": b"HSC1\x40\xa0",
    "a leaf of a segment": leaf.Meta(bytes(32)).payload(),
    "no leaf": b"zz",
    "a KEY_ADD of no key": b"HSC1\x41" + encoded({1: [], 2: bytes(32), 3: 1}),
    "a SEGMENT_CLOSE with a short id": b"HSC1\x44" + encoded({1: b"x", 2: bytes(32), 3: bytes(16), 4: 1, 5: 1}),
}


def test_a_proof_of_what_no_agent_log_holds_takes_all_worth_from_the_receipts(forge: Any, facility: Any, levels: Any, tmp_path: Path) -> None:
    folder = tmp_path / "000123"
    folder.mkdir()
    built = forge.frames(folder / "000123_camera_image_000001.h5", n=1).close()
    sidecar = forge.sidecar(folder, [built])
    others = (leaf.RunOpen(123, bytes(16), bytes(32), 1), leaf.Amended(bytes(16), 1, bytes(32), 1))
    for name, after in ({"good": others} | {name: (Raw(data),) for name, data in PROOFS.items()}).items():
        forge.receipts(folder, [built], after=after)
        assert levels(sidecar) == ((3, 3) if name == "good" else (2, 2)), name


def test_a_statement_that_counts_the_gaps_of_a_source_twice_is_damage(forge: Any, levels: Any, tmp_path: Path) -> None:
    folder = tmp_path / "000123"
    folder.mkdir()
    built = forge.frames(folder / "000123_camera_image_000001.h5").close()
    for number, other in enumerate((("camera/image", 9, 9), ("camera/image", 0, 0), ("camera/image", 1, 2))):
        sidecar = forge.sidecar(folder, [built], change=lambda said, other=other: replace(said, gaps=(other, *said.gaps)))
        assert levels(sidecar) == (0, 0), number


def test_the_bounds_of_an_exported_slice_name_elements_of_its_chunks_and_no_others(
    forge: Any, facility: Any, tmp_path: Path
) -> None:
    """They are not signed: within the chunks that are proven, another slice is as true."""
    built, path = forge.frames(tmp_path / "a.h5").close(), tmp_path / "a.hsc1"
    export([(built.path, DATA, ((1, 3),))], path)
    root = tmp_path / "root.pem"
    root.write_bytes(facility.root.public_bytes(Encoding.PEM))
    tool, good = module(), loads(path.read_bytes(), "slice")
    cases = {
        2: ([[1, 3], [0, 12], [0, 16]], [[1, 3], [3, 5], [0, 1]]),
        0: (
            [[1, 4], [0, 12], [0, 16]], [[2, 4], [0, 12], [0, 16]], [[1, 2], [0, 12], [0, 16]], [[1, 1], [0, 12], [0, 16]], [[1, 3]],
            [[-1, 3], [0, 12], [0, 16]], [[0, 2**63], [0, 12], [0, 16]], [[1, 3], [0, 13], [0, 16]], [[True, 3], [0, 12], [0, 16]],
        ),
    }  # fmt: skip
    for level, bounds in cases.items():
        for one in bounds:
            path.write_bytes(encoded(good | {3: [good[3][0] | {6: one}]}))
            (item,) = tool.items([str(path)], tool.load_roots(str(root)))
            assert (verify_proof(path, facility.root).level, item["level"]) == (level, level), one
