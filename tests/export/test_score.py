from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.cli.app import run as command
from edge_agent.export.run_folder import RunFolder
from edge_agent.export.score import score
from edge_agent.model import Access, Label
from edge_agent.provenance.facts import Policy, RunRecord
from edge_agent.seal import cose
from edge_agent.seal.amendment import Amendment, Change
from edge_agent.seal.receipt import Receipts

Make = Callable[[RunRecord], RunFolder]


def shares(run: RunFolder) -> dict[str, float]:
    return {check.key: check.share for check in score(run).checks}


def test_the_points_are_a_hundred(make_run: Make, full_record: RunRecord) -> None:
    assert sum(check.points for check in score(make_run(full_record)).checks) == 100


def test_a_run_of_which_nobody_said_anything_is_told_what_to_add(make_run: Make, bare_record: RunRecord) -> None:
    found = score(make_run(bare_record))
    assert found.total < 40
    assert all(check.add for check in found.checks)
    missing = dict(found.unknown)
    assert missing["operator"] == "unattended: no session named a person"
    assert missing["policy.licence"] == "the project has not chosen a licence"


def test_what_is_said_counts_and_what_is_half_said_half(make_run: Make, full_record: RunRecord) -> None:
    run = make_run(full_record)
    found = shares(run)
    assert {key for key, share in found.items() if share == 1} == {
        "organisation", "project", "grant", "title", "sample", "instrument-pid", "instrument", "calibration", "clock", "checksums",
        "signed", "licence", "software", "operator",
    }  # fmt: skip
    assert found["units"] == pytest.approx(2 / 3), "of three streams one has no unit"
    assert found["complete"] == pytest.approx(2 / 3), "and one has a gap of unknown size"
    assert found["access"] == 0, "shared, and nobody said why"
    assert score(run).total == round(100 - 8 / 3 - 6 / 3 - 4)


@pytest.mark.parametrize("policy", [Policy(Label(Access.OPEN)), Policy(Label(), reasons=("novelty",))])
def test_an_access_that_is_open_or_explained_counts(make_run: Make, full_record: RunRecord, policy: Policy) -> None:
    assert shares(make_run(dataclasses.replace(full_record, policy=policy)))["access"] == 1


def test_an_amendment_counts(make_run: Make, bare_record: RunRecord) -> None:
    run = make_run(bare_record)
    assert (shares(run)["sample"], shares(run)["title"]) == (0, 0)
    changes = (Change("sample.igsn", None, "10.58052/IE1"), Change("title", None, "SiC"), Change("no.such.place", None, "x"))
    amendment = Amendment(bytes(16), bytes(16), bytes(32), 1, None, changes, "Hanako", "late", 1)
    signed = cose.sign_all((Ed25519PrivateKey.generate(),), cose.AMENDMENT, amendment.payload())
    (run.folder / f"{run.name}.receipts").write_bytes(Receipts(amendments=(signed,)).encode())
    assert (shares(run)["sample"], shares(run)["title"]) == (1, 1)
    (run.folder / f"{run.name}.receipts").write_bytes(b"spoilt")
    assert shares(run)["sample"] == 0


@pytest.mark.parametrize(("reader", "said"), [("en", "to add"), ("ja", "足すもの")])
def test_the_verb_speaks_both_languages(
    make_run: Make, full_record: RunRecord, reader: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_AGENT_LANG", reader)
    folder = make_run(full_record).folder
    assert command(["score", str(folder)]) == 0
    out = capsys.readouterr().out
    assert said in out.lower()
    assert "balance/room" in out
    assert command(["score", str(folder / "files")]) != 0
