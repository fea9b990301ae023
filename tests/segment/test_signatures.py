"""Who signed: a missing signature is a downgrade, a wrong or strange one is damage, ES256 is as good; both verifiers agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.seal import cose
from edge_agent.seal.algorithm import Es256Signer
from edge_agent.seal.cbor import dumps, loads
from edge_agent.seal.keys import KeyChain, parse_session
from edge_agent.seal.leaf import SegmentClose
from edge_agent.seal.log_leaf import KeyAdd, KeyCompromised, KeyRetire
from edge_agent.seal.sidecar import parse_sidecar
from edge_agent.segment.integrity import Tables
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from tests.independent import item

Heads = Callable[[list[bytes]], list[bytes]]


def independent(path: Path, root: Any, beside: Path) -> tuple[int, str]:
    """Level and reason of the first thing that the other verifier reports."""
    pem = beside / "root.pem"
    pem.write_bytes(root.public_bytes(Encoding.PEM))
    found = item(path, "--root", pem)
    return int(found["level"]), str(found["reason"])


def again(facility: Any, number: int, *signers: Any) -> Heads:
    """Signs head ``number`` again with other keys."""

    def change(heads: list[bytes]) -> list[bytes]:
        made = cose.sign_all(signers, cose.HEAD, cose.payload_of(heads[number]))
        return [*heads[:number], made, *heads[number:][1:]]

    return change


def test_an_anchor_without_its_ml_dsa_signature_is_a_downgrade(forge: Any, tmp_path: Path) -> None:
    facility = forge.facility
    for number, keys, lacks in ((0, [facility.session], "ML-DSA-65"), (2, [facility.post_quantum], "Ed25519")):
        path = forge.frames(tmp_path / f"{number}.h5").close(heads=again(facility, number, *keys)).path
        report, (level, reason) = verify_segment(path, facility.root), independent(path, facility.root, tmp_path)
        said = f"head {number} has no {lacks} signature that holds, and its session record promises one"
        assert (report.level, report.rooted, report.reason) == (1, True, said)
        assert level == 1
        assert said in reason


def test_an_anchor_with_a_wrong_ml_dsa_signature_is_damage(forge: Any, stranger: Any, tmp_path: Path) -> None:
    def forged(heads: list[bytes]) -> list[bytes]:
        tag = loads(heads[-1], "head")
        body, _, payload, (first, second) = tag.value
        return [*heads[:-1], dumps(type(tag)(98, [body, {}, payload, [list(first), [second[0], {}, bytes(3309)]]]))]

    cases = {
        "forged": (forged, "the signature is wrong"),
        "stranger": (again(forge.facility, 2, forge.facility.session, stranger.post_quantum), "another key"),
        "twice": (again(forge.facility, 2, forge.facility.session, forge.facility.session), "twice"),
        "turned round": (again(forge.facility, 2, forge.facility.post_quantum, forge.facility.session), "out of order"),
    }
    for name, (change, said) in cases.items():
        path = forge.frames(tmp_path / f"{name}.h5").close(heads=change).path
        report, (level, reason) = verify_segment(path, forge.facility.root), independent(path, forge.facility.root, tmp_path)
        assert (report.level, level) == (0, 0), name
        assert report.reason.startswith("head 2: COSE: "), name
        assert said in report.reason, name
        assert reason.startswith("head 2: "), name


def test_a_run_is_downgraded_by_its_statement_by_a_close_head_or_by_a_segment(forge: Any, tmp_path: Path) -> None:
    facility, root = forge.facility, forge.facility.root
    folder = tmp_path / "000123"
    folder.mkdir()
    built = forge.frames(folder / "000123_camera_image_000001.h5").close()
    series, files = forge.file_series(folder, ordinal=2)
    sidecar = forge.sidecar(folder, [built], series=[series], files=files)
    good = parse_sidecar(sidecar.read_bytes())
    assert verify_run(folder, root, judge=verify_segment).level == independent(folder, root, tmp_path)[0] == 2
    statement = cose.sign_all([facility.session], cose.RUN, cose.payload_of(good.statement))
    head = cose.sign_all([facility.session], cose.HEAD, cose.payload_of(good.heads[1]))
    for changed, what in ((replace(good, statement=statement), "the run statement"), (replace(good, heads=(good.heads[0], head)), "head")):
        sidecar.write_bytes(changed.encode())
        report, (level, reason) = verify_run(folder, root, judge=verify_segment), independent(folder, root, tmp_path)
        assert (report.level, level) == (1, 1)
        assert what in report.reason
        assert "has no ML-DSA-65 signature that holds" in report.reason
        assert "has no ML-DSA-65 signature that holds" in reason
    built.path.unlink()
    built = forge.frames(built.path).close(heads=again(facility, 0, facility.session))
    forge.sidecar(folder, [built], series=[series], files=files)
    report, (level, _) = verify_run(folder, root, judge=verify_segment), independent(folder, root, tmp_path)
    assert (report.level, level, report.reason.partition(" has no ")[0]) == (1, 1, "head 0")


@pytest.fixture
def es256(facility: Any) -> Any:
    """The same facility with an agent whose identity and session keys are P-256, as a TPM would hold them."""
    identity, session = Es256Signer(ec.generate_private_key(ec.SECP256R1())), Es256Signer(ec.generate_private_key(ec.SECP256R1()))
    made = type(facility)(ca_key=facility.ca_key, session=session, identity=identity.key, sign_identity=identity)
    made.root = facility.root
    return made


def test_a_segment_of_es256_keys_is_as_good(es256: Any, forge: Any, tmp_path: Path) -> None:
    forge.facility = es256
    path = forge.frames(tmp_path / "a.h5").close().path
    assert verify_segment(path, es256.root).level == independent(path, es256.root, tmp_path)[0] == 2
    path = forge.frames(tmp_path / "b.h5").close(heads=again(es256, 2, es256.post_quantum)).path
    assert "has no ES256 signature" in verify_segment(path, es256.root).reason
    assert "has no ES256 signature" in independent(path, es256.root, tmp_path)[1]


def test_es256_on_another_curve_is_damage(es256: Any, forge: Any, tmp_path: Path) -> None:
    forge.facility = es256
    payload = cose.parse(es256.record).payload
    keys = [dict(key) for key in loads(payload, "record")[3]]
    curve = {1: 2, -1: 2, -2: bytes(48), -3: bytes(48)}
    no_point = {1: 2, -1: 1, -2: keys[0][-2], -3: keys[0][-2]}
    assert parse_session(payload).keys[0] == es256.session.public_key()
    for name, key in (("P-384", curve), ("no point", no_point)):
        record = cose.sign(es256.sign_identity, cose.SESSION, dumps({**loads(payload, "record"), 3: [key, keys[1]]}))

        def tables(given: Tables, record: bytes = record) -> Tables:
            return replace(given, chain=KeyChain(given.chain.certificates, (record,)))

        path = forge.frames(tmp_path / f"{name}.h5").close(tables=tables).path
        assert verify_segment(path, es256.root).level == independent(path, es256.root, tmp_path)[0] == 0, name
    other = ec.generate_private_key(ec.SECP384R1())
    certificate = type(es256)(ca_key=es256.ca_key, identity=other, sign_identity=es256.sign_identity).identity_cert
    chain = KeyChain((certificate.public_bytes(Encoding.DER),), (es256.record,))
    path = forge.frames(tmp_path / "identity.h5").close(tables=lambda t: replace(t, chain=chain)).path
    report = verify_segment(path, es256.root)
    assert (report.level, report.reason) == (0, "certificate: the key is neither Ed25519 nor P-256")
    assert independent(path, es256.root, tmp_path)[0] == 0


def test_a_key_is_valid_by_its_place_in_the_agent_log(forge: Any, stranger: Any, tmp_path: Path) -> None:
    facility, root = forge.facility, forge.facility.root
    folder = tmp_path / "000123"
    folder.mkdir()
    built = forge.frames(folder / "000123_camera_image_000001.h5").close()
    forge.sidecar(folder, [built])
    kids = tuple(cose.thumbprint(key.public_key()) for key in facility.keys)
    others = tuple(cose.thumbprint(key.public_key()) for key in stranger.keys)
    added, retired, stolen = KeyAdd(kids, bytes(32), 1), KeyRetire(kids, "its day is over", 1), KeyCompromised(kids[1:], "stolen", 1)
    good: list[Any] = [
        {},
        {"before": (added,)},
        {"before": (added,), "after": (retired,)},
        {"before": (KeyRetire(others, "", 1),), "after": (stolen, KeyAdd(others, bytes(32), 1))},
    ]
    for leaves in good:
        forge.receipts(folder, [built], **leaves)
        assert verify_run(folder, root, judge=verify_segment).level == independent(folder, root, tmp_path)[0] == 3
    bad: list[Any] = [
        ({"before": (retired,)}, "retired before"),
        ({"before": (added, stolen)}, "compromised before"),
        ({"after": (added,)}, "announced only behind"),
        ({"after": (retired, SegmentClose(built.segment_id, built.head, forge.run.run_id, 9, 1))}, "retired before"),
    ]
    for leaves, said in bad:
        forge.receipts(folder, [built], **leaves)
        report, (level, reason) = verify_run(folder, root, judge=verify_segment), independent(folder, root, tmp_path)
        assert (report.level, level) == (1, 1)
        assert report.reason == f"segment 1 is signed by a key that was {said} its place in the agent log"
        assert report.reason in reason
