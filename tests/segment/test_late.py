"""What comes after a run is closed: amendments and time-stamps, judged the same by both verifiers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.seal import cose
from edge_agent.seal.amendment import Amendment, Change, amendment_hash
from edge_agent.seal.receipt import Receipts, parse_witness
from edge_agent.segment.late import with_receipts
from edge_agent.segment.report import RunReport
from edge_agent.segment.run import verify_run
from edge_agent.segment.statement import open_sidecar
from edge_agent.segment.verify import verify_segment
from tests.independent import item, module
from tests.tsa import Tsa

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def tsa(tmp_path_factory: pytest.TempPathFactory) -> Tsa:
    return Tsa(tmp_path_factory.mktemp("tsa") / "a")


@dataclass
class Landed:
    """A witnessed run in its folder, and how both verifiers see it."""

    forge: Any
    folder: Path
    built: Any
    sidecar: bytes
    root: Path

    def receipts(self, **change: Any) -> None:
        self.forge.receipts(self.folder, [self.built], change=lambda receipts: replace(receipts, **change))

    def amendment(self, number: int = 1, before: Amendment | None = None, **other: Any) -> Amendment:
        run = self.forge.run
        return Amendment(
            **{
                "agent_id": self.forge.facility.agent_id, "run_id": run.run_id, "sidecar": hashlib.sha256(self.sidecar).digest(),
                "number": number, "previous": amendment_hash(before.payload()) if before else None,
                "changes": (Change("sample.name", "Si", "SiC"),), "author": "Ada", "reason": "mixed up", "t_ns": 5, **other,
            }
        )  # fmt: skip

    def amend(self, *amendments: Amendment, signer: Any = None, chain: Any = None, **change: Any) -> None:
        facility = self.forge.facility
        signed = [cose.sign_all(signer or facility.keys, cose.AMENDMENT, one.payload()) for one in amendments]
        self.receipts(amendments=tuple(signed), chain=chain or facility.chain, **change)

    def judged(self, *, rooted: bool = True, tsa: Tsa | None = None) -> tuple[RunReport, dict[str, Any]]:
        root = self.forge.facility.root if rooted else None
        ours = verify_run(self.folder, root, tsa_roots=[tsa.root] if tsa else (), judge=verify_segment)
        more = [*(("--root", self.root) if rooted else ()), *(("--tsa-root", tsa.root_file) if tsa else ())]
        theirs = item(self.folder, *more)
        assert ours.level == theirs["level"], (ours.notes, theirs["reason"])
        said = [[c.field, c.old, c.new] for a in ours.amendments for c in a.changes]
        assert said == [change for a in theirs["amendments"] for change in a["changes"]]
        return ours, theirs


@pytest.fixture
def landed(forge: Any, tmp_path: Path) -> Landed:
    folder = tmp_path / "000123"
    folder.mkdir()
    built = forge.frames(folder / "000123.nxs").close()
    sidecar = forge.sidecar(folder, [built])
    root = tmp_path / "root.pem"
    root.write_bytes(forge.facility.root.public_bytes(Encoding.PEM))
    made = Landed(forge, folder, built, sidecar.read_bytes(), root)
    made.receipts()
    return made


def test_amendments_are_verified_and_shown(landed: Landed) -> None:
    first = landed.amendment()
    second = landed.amendment(2, first, changes=(Change("sample.name", "SiC", "Si"), Change("title", None, "試料")))
    landed.amend(first, second)
    report, theirs = landed.judged()
    assert (report.level, report.amendments) == (3, (first, second))
    assert theirs["amendments"][1]["reason"] == "mixed up"
    assert report.as_json()["amendments"][1]["changes"][1] == {"field": "title", "old": None, "new": "試料"}
    report, _ = landed.judged(rooted=False)
    assert (report.level, len(report.amendments)) == (1, 2)


WRONG: dict[str, Callable[[Landed, Any], None]] = {
    "of another run": lambda run, _: run.amend(run.amendment(run_id=bytes(16))),
    "of another sidecar": lambda run, _: run.amend(run.amendment(sidecar=bytes(32))),
    "of another agent": lambda run, _: run.amend(run.amendment(agent_id=bytes(16))),
    "the first one is missing": lambda run, _: run.amend(run.amendment(2, run.amendment())),
    "twice the same": lambda run, _: run.amend(run.amendment(), run.amendment()),
    "of what it was not": lambda run, _: run.amend(run.amendment(), run.amendment(2, run.amendment())),
    "by a stranger with the run's chain": lambda run, stranger: run.amend(run.amendment(), signer=stranger.keys),
    "by a stranger with his own": lambda run, stranger: run.amend(run.amendment(), signer=stranger.keys, chain=stranger.chain),
    "by the agent's name with another key": lambda run, stranger: run.amend(
        run.amendment(agent_id=stranger.agent_id), signer=stranger.keys, chain=stranger.chain
    ),
    "with one key of two": lambda run, _: run.amend(run.amendment(), signer=[run.forge.facility.session]),
    "keys without amendments": lambda run, _: run.receipts(chain=run.forge.facility.chain),
    "amendments without keys": lambda run, _: run.amend(run.amendment(), chain=Receipts().chain),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_amendment_takes_all_worth_from_the_receipts(wrong: str, landed: Landed, stranger: Any) -> None:
    WRONG[wrong](landed, stranger)
    report, _ = landed.judged()
    assert (report.level, report.amendments) == (2, ())
    assert report.notes[0].startswith("000123.receipts: ")


def test_without_a_root_an_amendment_of_another_identity_is_not_shown(landed: Landed, stranger: Any) -> None:
    landed.amend(landed.amendment(), signer=stranger.keys, chain=stranger.own_chain)
    report, _ = landed.judged(rooted=False)
    assert (report.level, report.amendments) == (1, ())


def test_a_witnessed_run_with_a_time_stamp_over_its_sidecar_is_level_4(landed: Landed, tsa: Tsa) -> None:
    landed.receipts(tokens=(tsa.token(landed.sidecar),))
    report, theirs = landed.judged(tsa=tsa)
    assert report.level == 4
    assert report.stamped_ns > 0
    assert "time-stamped 20" in theirs["reason"]
    report, _ = landed.judged()
    assert (report.level, report.notes) == (3, ("1 time-stamps, not judged without their authority's root",))
    assert landed.judged(rooted=False)[0].level == 1


def test_a_time_stamp_over_a_witnessed_head_dates_the_log_and_not_the_run(landed: Landed, tsa: Tsa) -> None:
    seen: list[bytes] = []
    landed.forge.receipts(
        landed.folder, [landed.built], change=lambda r: (seen.append(parse_witness(cose.parse(r.receipts[0]).payload).head), r)[1]
    )
    assert seen == [bytes(32)]  # the forge's witness names no head: a real one is the hash of a payload
    head = b"the payload of a head"
    witness = replace(parse_witness(cose.parse(_receipts(landed).receipts[0]).payload), head=hashlib.sha256(head).digest())
    signed = cose.sign(landed.forge.facility.receipts_key, cose.WITNESS, witness.payload())
    landed.receipts(receipts=(signed,), tokens=(tsa.token(head),))
    report, _ = landed.judged(tsa=tsa)
    assert (report.level, report.stamped_ns, report.log_stamped_ns > 0) == (3, 0, True)


def test_a_time_stamp_does_not_stand_for_a_missing_witness(landed: Landed, tsa: Tsa) -> None:
    landed.receipts(tokens=(tsa.token(landed.sidecar),), receipts=(), inclusions=())
    report, _ = landed.judged(tsa=tsa)
    assert (report.level, report.stamped_ns > 0) == (2, True)


def test_a_time_stamp_that_does_not_hold_adds_nothing_and_takes_nothing(landed: Landed, tsa: Tsa, tmp_path: Path) -> None:
    good = tsa.token(landed.sidecar)
    at = good.rindex(b"\x04\x82\x01\x00") + 100  # in the signature of the service's RSA key
    broken = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    others = {
        "of something else": tsa.token(b"something else"), "broken": broken, "garbage": b"garbage",
        "unknown": Tsa(tmp_path / "unknown").token(landed.sidecar), "expired": Tsa(tmp_path / "expired", start=-20).token(landed.sidecar),
    }  # fmt: skip
    for token in others.values():
        landed.receipts(tokens=(token,))
        report, _ = landed.judged(tsa=tsa)
        assert (report.level, len(report.notes)) == (3, 1), report.notes
    landed.receipts(tokens=(*others.values(), good))
    report, _ = landed.judged(tsa=tsa)
    assert (report.level, len(report.notes)) == (4, len(others))


def test_no_flipped_byte_of_the_receipts_says_something_else_and_both_verifiers_agree_on_each(landed: Landed, tsa: Tsa) -> None:
    landed.amend(landed.amendment(), tokens=(tsa.token(landed.sidecar),))
    path, root = landed.folder / "000123.receipts", landed.forge.facility.root
    right = path.read_bytes()
    stated = open_sidecar(landed.folder / "000123.hsc", root)
    tool = module()
    roots = dataclasses.replace(tool.load_roots(str(landed.root)), stampers=tool.load_roots(str(tsa.root_file)).certificates)
    run, _, _, sidecar = tool.open_run(str(stated.path), roots)

    def judged() -> tuple[int, list[list[Any]]]:
        ours = with_receipts(RunReport(str(stated.path), 2), stated, root, [tsa.root])
        theirs = run | tool.late(str(stated.path), run, roots, sidecar)
        level = 2 if not theirs["witnessed"] else 4 if theirs["stamped"] else 3
        changes = [[change.field, change.old, change.new] for a in ours.amendments for change in a.changes]
        assert (ours.level, changes) == (level, [change for a in theirs["amendments"] for change in a["changes"]])
        return ours.level, changes

    best = judged()
    assert best == (4, [["sample.name", "Si", "SiC"]])
    for at in range(0, len(right), 23):
        changed = bytearray(right)
        changed[at] ^= 1
        path.write_bytes(changed)
        level, changes = judged()
        assert level <= 4
        assert changes in ([], best[1])


def _receipts(landed: Landed) -> Receipts:
    from edge_agent.seal.receipt import parse_receipts

    return parse_receipts((landed.folder / "000123.receipts").read_bytes())
