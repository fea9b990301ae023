from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.model import Access, Label
from edge_agent.provenance.crate import CrateFile, build_crate
from edge_agent.provenance.facts import Absent, Policy, RunRecord

FILES = ["000123.nxs", "000123_camera_000001.h5", "files/スキャン a#1.txt"]
PROFILES = ["ro-crate-1.1", "process-run-crate-0.5"]
Validate = Callable[[Path, str], list[str]]


def described() -> list[CrateFile]:
    return [CrateFile(n, len(n.encode()), hashlib.sha256(n.encode()).digest(), "application/x-hdf5", f"about {n}") for n in FILES]


def graph(data: bytes) -> dict[str, dict[str, Any]]:
    return {entity["@id"]: entity for entity in json.loads(data)["@graph"]}


def write(folder: Path, data: bytes) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "ro-crate-metadata.json").write_bytes(data)
    return folder


def test_the_crate_says_what_was_made_by_whom_with_what_from_what(full_record: RunRecord) -> None:
    data = build_crate(full_record, described())
    assert "https://w3id.org/ro/crate/1.1/context" in json.loads(data)["@context"]
    things = graph(data)
    root = things["./"]
    action = things[root["mentions"]["@id"]]
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert action["@type"] == "CreateAction"
    assert things[action["agent"]["@id"]]["@type"] == "Person"
    assert action["agent"]["@id"] == "https://orcid.org/0000-0002-1825-0097"
    assert things[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
    assert [things[ref["@id"]]["@type"] for ref in action["object"]] == ["IndividualProduct", "Thing"]
    assert [ref["@id"] for ref in action["result"]] == [ref["@id"] for ref in root["hasPart"]]
    assert root["license"] == {"@id": "https://creativecommons.org/licenses/by/4.0/"}
    assert [things[ref["@id"]]["name"] for ref in root["funder"]] == ["demo-project", "MEXT"]
    assert things["#project"]["identifier"] == ["JP26K00001", "2026B1234"]
    (held,) = (e for e in things.values() if e.get("name") == "calibration valid until")
    assert held["value"] == "2027-10-01"
    assert {"@id": held["@id"]} in things["#instrument-camera"]["additionalProperty"]
    assert root["conditionsOfAccess"] == "shared: the project's own space and cloud, disk."


def test_every_file_has_its_digest_size_and_type_and_a_name_that_is_a_valid_reference(full_record: RunRecord) -> None:
    things = graph(build_crate(full_record, described()))
    for file in described():
        (entity,) = [e for e in things.values() if e.get("name") == file.path]
        assert entity["sha256"] == file.sha256.hex()
        assert (entity["contentSize"], entity["encodingFormat"]) == (str(file.size), "application/x-hdf5")
        assert entity["@id"].isascii()
        assert not set(" #?%") & set(entity["@id"].replace("%", "", 99))


def test_every_reference_leads_to_an_entity_or_to_the_web(full_record: RunRecord, bare_record: RunRecord) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {value["@id"]} if value.keys() == {"@id"} else {r for v in value.values() for r in references(v)}
        return {r for v in value for r in references(v)} if isinstance(value, list) else set()

    for record in (full_record, bare_record):
        things = graph(build_crate(record, described()))
        loose = {r for e in things.values() for r in references(e)} - set(things)
        assert loose <= {"https://w3id.org/ro/crate/1.1", "http://schema.org/CompletedActionStatus", "http://schema.org/ActiveActionStatus"}


def test_the_same_record_gives_the_same_bytes(full_record: RunRecord) -> None:
    assert build_crate(full_record, described()) == build_crate(dataclasses.replace(full_record), described())


def test_a_run_without_a_person_is_the_organisations_and_says_why(bare_record: RunRecord) -> None:
    things = graph(build_crate(bare_record, []))
    agent = things[things["#run-000123"]["agent"]["@id"]]
    assert agent["@type"] == "Organization"
    assert "unattended" in agent["description"]


def test_without_a_licence_the_crate_says_that_none_is_granted(bare_record: RunRecord) -> None:
    root = graph(build_crate(bare_record, []))["./"]
    assert root["license"] == "No licence is granted: the project has not chosen a licence."
    assert root["conditionsOfAccess"] == "closed: the project's own space."


def test_open_data_are_open(full_record: RunRecord) -> None:
    record = dataclasses.replace(full_record, policy=Policy(Label(Access.OPEN, frozenset({"x"})), licence="all rights reserved"))
    root = graph(build_crate(record, []))["./"]
    assert (root["conditionsOfAccess"], root["license"]) == ("open.", "all rights reserved")


def test_a_licence_of_the_spdx_list_is_its_address_there(full_record: RunRecord) -> None:
    record = dataclasses.replace(full_record, policy=Policy(full_record.policy.label, licence="CC-BY-4.0"))
    assert graph(build_crate(record, []))["./"]["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}


@pytest.mark.parametrize(
    ("outcome", "status", "error"),
    [("complete", "Completed", False), ("calibration", "Completed", False), ("aborted", "Failed", True), ("failed", "Failed", True)],
)
def test_the_outcome_is_the_status_of_the_action(full_record: RunRecord, outcome: str, status: str, error: bool) -> None:
    action = graph(build_crate(dataclasses.replace(full_record, outcome=outcome), []))["#run-000123"]
    assert action["actionStatus"]["@id"] == f"http://schema.org/{status}ActionStatus"
    assert ("error" in action) == error


def test_an_open_run_has_no_end(bare_record: RunRecord) -> None:
    action = graph(build_crate(bare_record, []))["#run-000123"]
    assert action["actionStatus"]["@id"].endswith("ActiveActionStatus")
    assert "endTime" not in action


def test_losses_and_gaps_are_in_the_crate(full_record: RunRecord) -> None:
    things = graph(build_crate(full_record, []))
    assert things["#completeness-camera%2Fframes"]["value"] == "400 frames received, 3 known to be lost, in 1 gaps; expected: 403"
    assert "1 gaps of unknown size" in things["#completeness-balance%2Fweight"]["value"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("which", ["full", "bare", "named operator"])
def test_the_validator_of_the_community_accepts_it(
    tmp_path: Path, validate: Validate, full_record: RunRecord, bare_record: RunRecord, profile: str, which: str
) -> None:
    record = bare_record if which == "bare" else full_record
    if which == "named operator":
        person = record.operator
        assert not isinstance(person, Absent)
        record = dataclasses.replace(record, operator=dataclasses.replace(person, name="山田 太郎", orcid=Absent("none")))
    assert validate(write(tmp_path, build_crate(record, described())), profile) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_validator_would_have_noticed_a_missing_instrument(tmp_path: Path, validate: Validate, full_record: RunRecord) -> None:
    crate = json.loads(build_crate(full_record, described()))
    for entity in crate["@graph"]:
        entity.pop("instrument", None)
    issues = validate(write(tmp_path, json.dumps(crate).encode()), "process-run-crate-0.5")
    assert any("instrument" in issue for issue in issues)
