"""Makes the golden vectors of HSC/1 anew: ``python -m tests.golden.generate``. Needs openssl.

They are frozen (docs/signed-chunks.md, Frozen): this was run once, and is run again only to *add* a vector, by its name:
``python -m tests.golden.generate NAME...``; the others stay as they are, byte for byte. Keys, ids and times are fixed, so that a vector
that is made again says the same; its signatures of ML-DSA and ECDSA, which are random by nature, differ.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.model import RunContext
from edge_agent.seal import cose, leaf
from edge_agent.seal.algorithm import Es256Signer, MlDsaSigner
from edge_agent.seal.amendment import Amendment, Change
from edge_agent.seal.clock import Clock
from edge_agent.seal.head import State
from edge_agent.seal.log_leaf import KeyAdd, KeyCompromised
from edge_agent.seal.receipt import Custody, Receipts, Witness, parse_receipts, parse_witness
from edge_agent.seal.sidecar import NamedFile, parse_run, parse_sidecar
from edge_agent.seal.slice_proof import parse_slice_proof
from edge_agent.segment.joined import joined
from edge_agent.segment.master import Part, write_master
from edge_agent.segment.proof import export
from edge_agent.segment.run_slice import verify_run_slice
from edge_agent.segment.slice import parse_bounds, verify_slice
from tests.segment.conftest import T0, Builder, Facility, Forge, columns
from tests.tsa import Tsa

VECTORS = Path(__file__).parent / "vectors"
CAMERA = "/entry/instrument/camera/image/data"
S = 10**9
PACKED = 300_000
"""Bytes of a file beyond which it is kept packed."""


def secret(name: str) -> bytes:
    """32 bytes that anybody can make again: these keys protect nothing."""
    return hashlib.sha256(b"HSC/1 golden vectors: " + name.encode()).digest()


def ed25519(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(secret(name))


def p256(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(secret(name), "big") >> 1, ec.SECP256R1())


class Classical(Facility):
    """An agent whose library has no ML-DSA: its session record promises none."""

    @property
    def keys(self) -> list[cose.Signer]:
        return [self.session]


def facility(kind: type[Facility] = Facility, *, agent: str = "agent", **more: Any) -> Facility:
    given = {"identity": ed25519(f"{agent} identity"), "session": ed25519(f"{agent} session")} | more
    return kind(
        agent_id=secret(f"{agent} id")[:16], boot_id=secret(f"{agent} boot")[:16], ca_key=p256("facility"),
        post_quantum=MlDsaSigner(MLDSA65PrivateKey.from_seed_bytes(secret(f"{agent} ML-DSA"))), receipts_key=ed25519("receipts"), **given,
    )  # fmt: skip


@contextmanager
def fixed(name: str) -> Iterator[None]:
    """No random ids and serial numbers: those that a vector of this name always has."""
    count = 0

    def urandom(n: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name} {count}".encode()).digest(n)

    real, serial = os.urandom, x509.random_serial_number
    os.urandom, x509.random_serial_number = urandom, lambda: int.from_bytes(urandom(19), "big")  # type: ignore[assignment]
    try:
        yield
    finally:
        os.urandom, x509.random_serial_number = real, serial


def forge(who: Facility | None = None, number: int = 123) -> Forge:
    run = RunContext(
        secret(f"run {number}")[:16], number, "golden", "bl", T0, f"golden/bl/2026-11-18/{number:06d}", title="測定", sample="Si"
    )
    return Forge(who or facility(), run)


# ---- segments


def frames(path: Path) -> Builder:
    return forge().frames(path, n=4, told=True)


def rows(path: Path) -> Builder:
    return forge().rows(path, n=12)


def tags(path: Path) -> Builder:
    return forge().tags(path)


def before_chunks(given: list[Any], *items: Any) -> list[Any]:
    at = next(n for n, item in enumerate(given) if isinstance(item, leaf.Chunk))
    return [*given[:at], *items, *given[at:]]


def early(path: Path) -> None:
    """ROWS leaves of two columns, and a clock that was set forward and said so."""
    n = 12
    values = columns(n, value=np.random.default_rng(3).normal(10, 0.1, n))
    values["valid"][:1], values["time"][1:2] = 2, -(2**63)

    def told(given: list[Any]) -> list[Any]:
        value, time = [item.dsd for item in given if isinstance(item, leaf.Dataset)][:2]
        raw = values["value"][3:7].astype("<f8").tobytes() + values["time"][3:7].astype("<i8").tobytes()
        signed = leaf.RowsLeaf((value, time), 3, 4, hashlib.sha256(raw).digest())
        whole = leaf.RowsLeaf((time,), 0, n, hashlib.sha256(values["time"].astype("<i8").tobytes()).digest())
        step = leaf.ClockLeaf(7 * S, Clock("chrony", -5, 20_000, True), T0 + 7 * S, 1)
        return [*before_chunks(given, signed, whole)[:-2], step, *given[-2:]]

    builder = forge().rows(path, n=n)
    builder.anchor()
    builder.close(leaves=told, head=lambda head: replace(head, t_utc_ns=head.t_utc_ns + 7 * S, clock=Clock("chrony", -4, 20_000, True)))


def epochs(path: Path) -> None:
    """4,100 leaves: META over and over between few chunks."""
    builder = forge().rows(path, n=12)
    while len(builder.leaves) < 4098:
        builder.meta()
    builder.close()


def es256(path: Path) -> None:
    identity, session = Es256Signer(p256("es256 identity")), Es256Signer(p256("es256 session"))
    who = facility(agent="es256", session=session, identity=identity.key, sign_identity=identity)
    forge(who).frames(path, n=2).close()


def classical(path: Path) -> None:
    forge(facility(Classical)).frames(path, n=2).close()


def downgraded(path: Path) -> None:
    one = forge()

    def without(heads: list[bytes]) -> list[bytes]:
        return [*heads[:-1], cose.sign_all([one.facility.session], cose.HEAD, cose.payload_of(heads[-1]))]

    one.frames(path, n=2).close(heads=without)


def recovered(path: Path) -> None:
    forge().frames(path, n=2).close(state=State.RECOVERED, reason="recovered")


def recovered_later(path: Path) -> None:
    """The agent died, and the session of its next start closed what it found."""
    taken_over(path, State.RECOVERED, "recovered")


def two_sessions(path: Path) -> None:
    """The same, and it says that nothing happened."""
    taken_over(path, State.CLOSED, "run-end")


def taken_over(path: Path, state: State, reason: str) -> None:
    """The close head is of another session than the heads before it."""
    who = facility()
    later = replace(
        who, boot_id=secret("agent later boot")[:16], session=ed25519("agent later session"),
        post_quantum=MlDsaSigner(MLDSA65PrivateKey.from_seed_bytes(secret("agent later ML-DSA"))),
    )  # fmt: skip

    def signed(heads: list[bytes]) -> list[bytes]:
        return [*heads[:-1], later.sign_head(cose.payload_of(heads[-1]))]

    forge(who).frames(path, n=2).close(
        head=lambda head: replace(head, boot_id=later.boot_id), heads=signed, state=state, reason=reason,
        tables=lambda tables: replace(tables, chain=replace(who.chain, sessions=(who.record, later.record))),
    )  # fmt: skip


def damaged(path: Path) -> None:
    forge().frames(path, n=2).close(state=State.DAMAGED)


def unenrolled(path: Path) -> None:
    one = forge()
    one.frames(path, n=2).close(tables=lambda tables: replace(tables, chain=one.facility.own_chain))


def flipped(path: Path) -> None:
    """One byte of the third frame is another."""
    forge().frames(path, n=4).close()
    with h5py.File(path) as file:
        at = file[CAMERA].id.get_chunk_info_by_coord((2, 0, 0)).byte_offset
    data = bytearray(path.read_bytes())
    data[at + 20] ^= 1
    path.write_bytes(data)


def relabelled(path: Path) -> None:
    """Somebody thought that the unit should be another."""
    forge().frames(path, n=2).close()
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        file[CAMERA].attrs.modify("units", "photon")


def twice(path: Path) -> None:
    """Somebody gave the frames a second unit, beside the signed one."""
    forge().frames(path, n=1).close()
    with h5py.File(path, "r+", libver=("earliest", "v110")) as file:
        file[CAMERA].attrs["unitx"] = "photon"
    path.write_bytes(path.read_bytes().replace(b"unitx\0", b"units\0"))


def shortened(path: Path) -> None:
    """A run whose id is three bytes long."""
    forge().frames(path, n=1).close(leaves=lambda given: [replace(given[0], run_id=b"run"), *given[1:]])


SEGMENTS: dict[str, Callable[[Path], Builder | None]] = {
    "frames.h5": frames, "rows.h5": rows, "tags.h5": tags, "early.h5": early, "epochs.h5": epochs, "es256.h5": es256,
    "classical.h5": classical, "downgraded.h5": downgraded, "recovered.h5": recovered, "damaged.h5": damaged,
    "unenrolled.h5": unenrolled, "flipped.h5": flipped, "relabelled.h5": relabelled, "twice.h5": twice, "shortened.h5": shortened,
    "recovered-later.h5": recovered_later, "two-sessions.h5": two_sessions,
}  # fmt: skip


# ---- a run


def part_of(path: Path) -> Part:
    """A segment as the master needs it."""
    with h5py.File(path) as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(f"/{name}") if isinstance(node, h5py.Dataset) and node.chunks else None)
        mine = [name for name in names if not name.startswith("/entry/integrity")]
        return Part(path.name, {n: file[n].shape for n in mine}, {n: file[n].dtype.str for n in mine})


def run(folder: Path) -> None:
    """Two camera segments, one of rows, a vendor's file, master, sidecar; receipts of several kinds, an amendment, a time-stamp."""
    one = forge(number=124)
    who, folder = one.facility, folder / "000124"
    folder.mkdir()
    named = witness(who, T0 - 30 * S, b"the log before")
    first = one.frames(folder / "000124_camera_image_000001.h5", n=4).close(reason="rolled")
    follow = {"first": 16, "previous": (first.segment_id, first.head), "last_seq": {"camera/image": 15}}
    second = one.frames(folder / "000124_camera_image_000002.h5", n=3, ordinal=2, **follow).close(
        head=lambda head: replace(head, not_before=hashlib.sha256(named).digest())
    )
    third = one.rows(folder / "000124_rows_000003.h5", n=4, ordinal=3).close()
    series, files = one.file_series(folder, ordinal=4, content=b"angle,counts\n1,2\n")
    built = [first, second, third]
    master = folder / "000124.nxs"
    write_master(master, one.run, "BL05", "complete", "{}", [part_of(each.path) for each in built])
    data = master.read_bytes()
    listed = NamedFile(master.name, len(data), hashlib.sha256(data).digest())
    crate = {"ro-crate-metadata.json": b"{}\n", "manifest-sha256.txt": b""}
    sidecar = one.sidecar(folder, built, series=[series], files=files, change=lambda said: replace(said, master=listed), **crate)
    digest = hashlib.sha256(sidecar.read_bytes()).digest()
    added = KeyAdd(tuple(cose.thumbprint(key.public_key()) for key in who.keys), hashlib.sha256(who.record).digest(), T0)
    amendment = Amendment(
        who.agent_id, one.run.run_id, digest, 1, None, (Change("sample.name", "Si", "SiC"),), "Ada", "mixed up", T0 + 86_400 * S
    )
    tsa = Tsa(folder.parent / "tsa")
    shutil.copy(tsa.root_file, folder.parent / "tsa-root.pem")
    held = Custody(who.agent_id, first.segment_id, first.head, sha(first.path), first.path.stat().st_size, "space", "fsynced", T0, "p/a")
    custody = cose.sign(who.receipts_key, cose.CUSTODY, held.payload())
    token = tsa.token(sidecar.read_bytes())

    def whole(receipts: Receipts) -> Receipts:
        return replace(
            receipts, receipts=(*receipts.receipts, named, custody), tokens=(token,), chain=who.chain,
            amendments=(cose.sign_all(who.keys, cose.AMENDMENT, amendment.payload()),),
        )  # fmt: skip

    everything = [*built, series]
    path = one.receipts(folder, everything, change=whole, before=(added,))
    good = path.read_bytes()
    place = folder.parent / "receipts"
    place.mkdir()
    kids = added.kids[1:]
    one.receipts(folder, everything, change=whole, before=(added, KeyCompromised(kids, "stolen", T0)))
    path.rename(place / "compromised.receipts")
    one.receipts(folder, everything, change=lambda r: replace(whole(r), receipts=whole(r).receipts[:1] + whole(r).receipts[2:]))
    path.rename(place / "named-receipt-missing.receipts")
    one.receipts(folder, everything, change=whole, before=(added,), seconds=-10)
    path.rename(place / "witnessed-before-its-time.receipts")
    one.receipts(folder, everything, change=lambda r: replace(whole(r), inclusions=r.inclusions[:-1]))
    path.rename(place / "segment-not-witnessed.receipts")
    one.receipts(folder, everything, change=lambda r: replace(whole(r), receipts=(*whole(r).receipts, fork(who, r))))
    path.rename(place / "fork.receipts")
    stranger = facility(agent="stranger")
    forged = cose.sign(stranger.session, cose.WITNESS, cose.parse(parse_receipts(good).receipts[0]).payload)
    one.receipts(folder, everything, change=lambda r: replace(whole(r), receipts=(forged, *whole(r).receipts[1:])))
    path.rename(place / "forged.receipts")
    path.write_bytes(good)
    found = verify_run_slice(
        sidecar, CAMERA, parse_bounds("2:6"), who.root, sources=joined,
        judge=lambda path, dataset, given, root: verify_slice(path, dataset, parse_bounds(given), root),
    )  # fmt: skip
    export(found.places, folder.parent / "slice.hsc1")
    proof = parse_slice_proof((folder.parent / "slice.hsc1").read_bytes())
    part = proof.parts[0]
    chunk = bytearray(part.chunks[1])
    chunk[30] ^= 1
    changed = replace(part, chunks=(part.chunks[0], bytes(chunk)))
    (folder.parent / "slice-changed.hsc1").write_bytes(replace(proof, parts=(changed, *proof.parts[1:])).encode())
    shutil.rmtree(folder.parent / "tsa")
    closed_again(folder.parent)


def closed_again(place: Path) -> None:
    """Receipts of a log in which a segment's close stands a second time, for another place in the run, when its key was stolen."""
    one, folder = forge(number=124), place / "000124"
    good = parse_receipts((folder / "000124.receipts").read_bytes())
    statement = parse_run(cose.payload_of(parse_sidecar((folder / "000124.hsc").read_bytes()).statement))
    kids = tuple(cose.thumbprint(key.public_key()) for key in one.facility.keys)
    added = KeyAdd(kids, hashlib.sha256(one.facility.record).digest(), T0)
    again = leaf.SegmentClose(statement.segments[0].segment_id, statement.segments[0].head, statement.run_id, 9, T0)
    made = one.receipts(
        place / "receipts", statement.segments, before=(added,), after=(KeyCompromised(kids[1:], "stolen", T0), again),
        change=lambda made: replace(good, receipts=(*made.receipts, *good.receipts[1:]), inclusions=made.inclusions),
    )  # fmt: skip
    made.rename(place / "receipts/closed-again.receipts")


def sha(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def witness(who: Facility, t_ns: int, log: bytes) -> bytes:
    said = Witness(who.agent_id, secret("log")[:16], 3, hashlib.sha256(log).digest(), hashlib.sha256(b"head").digest(), t_ns)
    return cose.sign(who.receipts_key, cose.WITNESS, said.payload())


def fork(who: Facility, receipts: Receipts) -> bytes:
    seen = parse_witness(cose.parse(receipts.receipts[0]).payload)
    return cose.sign(who.receipts_key, cose.WITNESS, replace(seen, root=bytes(32)).payload())


def main(names: list[str]) -> None:
    """Make all vectors, or those named; never the manifest of findings, which people write."""
    VECTORS.mkdir(exist_ok=True)
    for name, make in SEGMENTS.items():
        if names and name not in names:
            continue
        with fixed(name), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            built = make(path)
            if built is not None:
                built.close()
            data = path.read_bytes()
        packed = len(data) > PACKED
        (VECTORS / f"{name}{'.xz' if packed else ''}").write_bytes(lzma.compress(data) if packed else data)
    if not names or "run" in names:
        with fixed("run"), tempfile.TemporaryDirectory() as folder:
            run(Path(folder))
            shutil.copytree(folder, VECTORS / "run", dirs_exist_ok=True)
    elif "closed-again.receipts" in names:
        with fixed("closed-again.receipts"):
            closed_again(VECTORS / "run")
    if not names:
        (VECTORS / "root.pem").write_bytes(facility().root.public_bytes(Encoding.PEM))
    sizes = {str(p.relative_to(VECTORS)): p.stat().st_size for p in sorted(VECTORS.rglob("*")) if p.is_file()}
    print(json.dumps(sizes, indent=1), sum(sizes.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
