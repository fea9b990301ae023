"""Every form of a run's record, judged by the validators of its own community where there is one, else by the rules of its schema."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from edge_agent.cli.app import run as command
from edge_agent.export.about import about
from edge_agent.export.forms import FORMS, write_form
from edge_agent.export.jpcoar import SPACES
from edge_agent.export.rdm_form import size_text
from edge_agent.export.run_folder import RunFolder
from edge_agent.model import Access, Label
from edge_agent.provenance.facts import Absent, Organisation, Person, Policy, RunRecord
from tests.environments import environment

Make = Callable[[RunRecord], RunFolder]
HERE = Path(__file__).parent
PACKAGES = ("mlcroissant==1.1.1", "datacite==1.4.1", "prov==3.2.3")
PEOPLE = {"nobody": Absent("unattended"), "name": Person("山田 花子"), "orcid": Person("Hanako Yamada", "0000-0002-1825-0097")}
PLACES = {"nowhere": Organisation(), "named": Organisation("理化学研究所"), "ror": Organisation("RIKEN", "https://ror.org/01sjwvz98")}
POLICIES = {
    "closed": Policy(Label()), "open": Policy(Label(Access.OPEN), licence="CC-BY-4.0"), "shared": Policy(Label(Access.SHARED), licence="ours"),
    "embargoed": Policy(Label(), embargo_until="2027-03-31", access_after_embargo="open", licence="https://example.org/licence"),
}  # fmt: skip
ALL = [("nobody", "nowhere", "closed"), ("name", "named", "shared"), ("orcid", "ror", "open"), ("name", "ror", "embargoed"), ("orcid", "nowhere", "open")]


def varied(record: RunRecord, who: str, where: str, policy: str) -> RunRecord:
    return dataclasses.replace(record, operator=PEOPLE[who], organisation=PLACES[where], policy=POLICIES[policy])


@pytest.fixture(params=ALL, ids=lambda each: "-".join(each))
def run(request: pytest.FixtureRequest, make_run: Make, full_record: RunRecord) -> RunFolder:
    return make_run(varied(full_record, *request.param))


def written(run: RunFolder, form: str, out: Path) -> bytes:
    path = write_form(run, form, out)
    assert path.name.startswith("demo-project-000123.")
    assert path.read_bytes() == write_form(run, form, out).read_bytes(), "the same run, the same bytes"
    return path.read_bytes()


def test_every_file_is_in_the_croissant_with_its_digest(make_run: Make, full_record: RunRecord, tmp_path: Path) -> None:
    run = make_run(full_record)
    made = json.loads(written(run, "croissant", tmp_path))
    assert made["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    files = {file["name"]: file for file in made["distribution"]}
    assert set(files) == {file.name for file in run.files}
    for name, file in files.items():
        assert file["sha256"] == hashlib.sha256((run.folder / name).read_bytes()).hexdigest()
        assert file["@id"].isascii()
    (streams,) = made["recordSet"]
    assert [row["streams/unit"] for row in streams["data"]] == ["counts", "g", ""]
    assert [row["streams/unknown_gaps"] for row in streams["data"]] == [0, 1, 0]


def test_datacite_has_who_where_what_and_for_whom(make_run: Make, full_record: RunRecord, tmp_path: Path) -> None:
    made = json.loads(written(make_run(full_record), "datacite", tmp_path))
    (creator,) = made["creators"]
    assert creator["nameIdentifiers"][0]["nameIdentifier"] == "https://orcid.org/0000-0002-1825-0097"
    assert creator["affiliation"] == [{"name": "Facility", "affiliationIdentifier": "https://ror.org/01x2y3z45", "affiliationIdentifierScheme": "ROR"}]
    assert made["fundingReferences"] == [{"funderName": "MEXT", "awardNumber": "JP26K00001"}]
    assert {(r["relationType"], r["relatedIdentifierType"]) for r in made["relatedIdentifiers"]} == {("IsCollectedBy", "Handle"), ("IsDerivedFrom", "IGSN")}
    assert made["titles"] == [{"title": "Si 重ね合わせ", "lang": "ja"}]


ORDER = "dc:title jpcoar:creator jpcoar:contributor dcterms:accessRights dc:rights datacite:description dc:publisher datacite:date dc:type jpcoar:identifier jpcoar:relation jpcoar:fundingReference jpcoar:file".split()
"""Order of the elements that we use, as the schema's sequence has it."""
INSIDE = {
    "jpcoar:creator": ["jpcoar:nameIdentifier", "jpcoar:creatorName", "jpcoar:affiliation"],
    "jpcoar:affiliation": ["jpcoar:nameIdentifier", "jpcoar:affiliationName"],
    "jpcoar:contributor": ["jpcoar:nameIdentifier", "jpcoar:contributorName"], "jpcoar:relation": ["jpcoar:relatedIdentifier"],
    "jpcoar:fundingReference": ["jpcoar:funderName", "jpcoar:awardNumber"], "jpcoar:file": ["jpcoar:mimeType", "jpcoar:extent"],
}  # fmt: skip
ONE = {"dcterms:accessRights", "dc:type"}
NEEDED = {"dc:title", "dc:type", "jpcoar:identifier"}
ATTRIBUTES = {
    "nameIdentifierScheme": {"ORCID", "ROR"}, "contributorType": {"HostingInstitution"}, "nameType": {"Personal", "Organizational"},
    "descriptionType": {"Abstract"}, "dateType": {"Issued", "Available", "Collected"}, "identifierType": {"URI", "DOI"},
    "relationType": {"isDerivedFrom"}, "awardNumberType": {"JGN"},
}  # fmt: skip
REQUIRED = {
    "jpcoar:nameIdentifier": "nameIdentifierScheme", "datacite:description": "descriptionType", "datacite:date": "dateType",
    "jpcoar:identifier": "identifierType", "jpcoar:relatedIdentifier": "identifierType", "dc:type": "rdf:resource",
    "dcterms:accessRights": "rdf:resource",
}  # fmt: skip
DAY = r"\d{4}(-\d{2}(-\d{2})?)?"
SHORT = {space: prefix for prefix, space in SPACES.items()}


def short(name: str) -> str:
    space, _, local = name.removeprefix("{").rpartition("}")
    return f"{SHORT[space]}:{local}" if space else local


def in_order(names: list[str], order: list[str]) -> bool:
    return set(names) <= set(order) and names == sorted(names, key=order.index)


def test_jpcoar_follows_its_schema(run: RunFolder, tmp_path: Path) -> None:
    root = ET.fromstring(written(run, "jpcoar", tmp_path))
    assert short(root.tag) == "jpcoar:jpcoar"
    names = [short(element.tag) for element in root]
    assert in_order(names, ORDER)
    assert set(names) >= NEEDED
    assert all(names.count(name) == 1 for name in ONE)
    for element in root.iter():
        name, attributes = short(element.tag), {short(key): value for key, value in element.attrib.items()}
        if name in INSIDE:
            assert in_order([short(child.tag) for child in element], INSIDE[name]), name
        elif name != "jpcoar:jpcoar":
            assert len(element) == 0
            assert element.text
        assert all(value in ATTRIBUTES[key] for key, value in attributes.items() if key in ATTRIBUTES), attributes
        assert REQUIRED.get(name, "") in ("", *attributes), name
        if name == "datacite:date":
            assert re.fullmatch(f"{DAY}(/{DAY})?", element.text or "")
        if name == "jpcoar:fundingReference":
            assert short(element[0].tag) == "jpcoar:funderName", "a name is demanded"


def test_jpcoar_says_from_when_embargoed_data_can_be_had(make_run: Make, full_record: RunRecord, tmp_path: Path) -> None:
    text = written(make_run(varied(full_record, "name", "ror", "embargoed")), "jpcoar", tmp_path).decode()
    assert '<dcterms:accessRights rdf:resource="http://purl.org/coar/access_right/c_f1cf">embargoed access' in text
    assert '<datacite:date dateType="Available">2027-04-01' in text


CHOICES = {
    "data-research-field": {"project"}, "data-type": {"dataset", "experimental data"}, "data-policy-license": {"NO_LICENSE", "CCBY", "OTHER"},
    "access-rights": {"open access", "restricted access", "metadata only access", "embargoed access"},
    "metadata-access-rights": {"open access", "restricted access", "closed access"},
}  # fmt: skip
KNOWN = set(CHOICES) | {
    "data-number", "title-ja", "title-en", "date-issued-updated", "data-description-ja", "data-description-en", "file-size", "available-date",
    "creators", "hosting-inst-ja", "hosting-inst-en", "hosting-inst-id", "remarks-en",
}  # fmt: skip
DEMANDED = {"date-issued-updated", "data-research-field", "data-type", "data-policy-free", "data-policy-license", "access-rights", "metadata-access-rights"}
SIZE = re.compile(r"^[><]?([0-9]+(\.[0-9]+)?-)?([0-9]+)(\.[0-9]+)?([A-Za-z]*B)$")


def test_the_rdm_form_gives_what_is_known_and_lists_the_rest(run: RunFolder, tmp_path: Path) -> None:
    made = json.loads(written(run, "rdm-form", tmp_path))
    answers = made["registration_responses"]
    (entry,) = json.loads(answers["grdm-files"])
    assert entry.keys() == {"path", "folder", "urlpath", "metadata"}
    assert entry["path"].endswith("/000123/")
    fields: dict[str, Any] = {name.removeprefix("grdm-file:"): field["value"] for name, field in entry["metadata"].items()}
    assert fields.keys() <= KNOWN
    for name, choices in CHOICES.items():
        assert fields[name] in choices
    assert SIZE.match(fields["file-size"])
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", fields["date-issued-updated"])
    left = {name.removeprefix("grdm-file:") for name in made["to_add"]}
    assert fields.keys() | left >= DEMANDED, "what is demanded is given or listed"
    assert answers["japan-grant-number"] == "JP26K00001"
    assert "project-research-field" in left
    known = about(run)
    assert ("hosting-inst-ja" in left) == (known.organisation is None)


def test_names_are_taken_apart_as_their_language_does(make_run: Make, full_record: RunRecord, tmp_path: Path) -> None:
    run = make_run(varied(full_record, "name", "named", "closed"))
    (entry,) = json.loads(json.loads(written(run, "rdm-form", tmp_path))["registration_responses"]["grdm-files"])
    (creator,) = entry["metadata"]["grdm-file:creators"]["value"]
    assert creator["name-ja"] == {"last": "山田", "middle": "", "first": "花子"}
    assert about(run).embargo is None
    assert size_text(1_234_567_890) == "1.2GB"
    assert size_text(999) == "999B"


def test_an_embargo_ends_with_its_last_day(make_run: Make, full_record: RunRecord) -> None:
    said = about(make_run(varied(full_record, "name", "ror", "embargoed")))
    assert (said.embargo, said.available) == (dt.date(2027, 3, 31), "2027-04-01")


@pytest.mark.parametrize("form", list(FORMS))
def test_each_form_has_its_verb(form: str, make_run: Make, bare_record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["export", form, str(make_run(bare_record).folder), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["file"]).stat().st_size > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_validators_of_croissant_datacite_and_prov_have_nothing_to_say(
    make_run: Make, full_record: RunRecord, bare_record: RunRecord, tmp_path: Path
) -> None:
    folders = []
    for number, record in enumerate([bare_record, full_record, *(varied(full_record, *each) for each in ALL)]):
        run, out = make_run(dataclasses.replace(record, run_no=number + 1)), tmp_path / f"out-{number}"
        for form in FORMS:
            write_form(run, form, out)
        folders.append(out)
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folders[-1], spoilt)
    for ending, key, field in (("croissant.json", "distribution", "sha256"), ("datacite.json", "creators", "name")):
        (file,) = spoilt.glob(f"*.{ending}")
        made = json.loads(file.read_text())
        del made[key][0][field]
        file.write_text(json.dumps(made))
    *good, bad = _judged([*folders, spoilt])
    assert good == [{"croissant.json": [], "datacite.json": [], "prov.json": []}] * len(folders)
    assert bad["croissant.json"], "the validator finds a file without its digest"
    assert bad["datacite.json"], "and a creator without a name"


def _judged(folders: list[Path]) -> list[dict[str, list[str]]]:
    done = subprocess.run(
        [environment("forms", *PACKAGES) / "python", "-I", str(HERE / "validate_forms.py"), *map(str, folders)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return found
