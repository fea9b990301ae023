"""Who measured what with what stands where NeXus has it, and says the same as the signed record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.model import Kind, Outcome, RunContext
from edge_agent.provenance.jsonld import canonical
from edge_agent.provenance.record import NOT_COUNTED, Calibration, Organisation, Project, Software, StreamFacts, build_record, instrument
from edge_agent.seal.leaf import GapLeaf
from edge_agent.seal.meta import DatasetMeta, GroupMeta
from edge_agent.segment import nexus
from edge_agent.segment.layout import Objects, entry_objects
from edge_agent.segment.types import numpy_value

RUN = RunContext(b"r" * 16, 1, "p", "g", 0, "p/g/1970-01-01/000001")
STATIC = {"entry_identifier", "experiment_identifier", "title", "start_time", "program_name", "collection_identifier"}


def values(objects: Objects) -> dict[str, Any]:
    """Path below /entry to value, of every small dataset."""
    found = {p.removeprefix("/entry/"): numpy_value(t.value) for p, t in objects.items() if isinstance(t, DatasetMeta) and t.value is not None}
    return {path: value.tolist() if isinstance(value, np.ndarray) else value for path, value in found.items()}


def classes(objects: Objects) -> dict[str, str]:
    return {
        path.removeprefix("/entry/"): str(numpy_value(t.attributes["NX_class"])) for path, t in objects.items() if isinstance(t, GroupMeta)
    }


def made(series: str = "master", **changes: Any) -> Objects:
    """Objects of a run record that says what ``changes`` say."""
    run = RunContext(**({f: getattr(RUN, f) for f in RunContext.__slots__} | changes.pop("run", {})))
    options = {"instruments": (), "streams": ()} | changes
    record = build_record(run, Software("edge-agent", "0.1.0", config_digest="bb" * 32), options.pop("instruments"), options.pop("streams"), **options)
    return nexus.record_objects(canonical(record).decode(), series)


def stream(key: str, kind: Kind = Kind.ROWS, **counts: Any) -> StreamFacts:
    return StreamFacts(key, kind.value, "<f8", (), "", "", "", "none", **counts)


@pytest.mark.parametrize(
    ("user", "role", "fields"),
    [
        ("https://orcid.org/0000-0002-1825-0097", "", {"ORCID": "https://orcid.org/0000-0002-1825-0097", "role": "operator"}),
        ("Hanako Yamada", "local_contact", {"name": "Hanako Yamada", "role": "local_contact"}),
        ("山田 花子 <0000-0002-1825-0097>", "", {"name": "山田 花子", "ORCID": "https://orcid.org/0000-0002-1825-0097", "role": "operator"}),
        ("", "", {"role": "unattended"}),
    ],
)
def test_a_person_is_an_nxuser(user: str, role: str, fields: dict[str, str]) -> None:
    objects = made(run={"user": user, "role": role})
    assert {p.removeprefix("user/"): v for p, v in values(objects).items() if p.startswith("user/")} == fields
    assert classes(objects)["user"] == "NXuser"


@pytest.mark.parametrize(
    ("sample", "fields"),
    [
        ("igsn:10.58052/IEAUL0001", {"identifier_igsn": "10.58052/IEAUL0001"}),
        ("lysozyme", {"name": "lysozyme"}),
        ("lysozyme <10.58052/IEAUL0001>", {"name": "lysozyme", "identifier_igsn": "10.58052/IEAUL0001"}),
        ("", {}),
    ],
)
def test_a_sample_is_an_nxsample_and_nothing_is_made_up(sample: str, fields: dict[str, str]) -> None:
    objects = made(run={"sample": sample})
    assert {p.removeprefix("sample/"): v for p, v in values(objects).items() if p.startswith("sample/")} == fields
    assert ("sample" in classes(objects)) == bool(fields)


def test_each_field_of_the_record_has_its_place() -> None:
    balance = instrument(
        "balance", "serial", "serial:///dev/ttyUSB0", "unauthenticated", described={"maker": "Mettler-Toledo", "serial_number": "B1\0"},
        configured={"model": "XSR204", "pid": "https://doi.org/10.21938/abc", "owner": "RIKEN", "type": "balance"},
        calibration=Calibration("C-118", "2027-03-31"),
    )  # fmt: skip
    objects = made(
        instruments=(balance,), project=Project("p", "2026B1234", "JP26K00001", "JSPS"), licence="CC-BY-4.0", authority="owner",
        organisation=Organisation("Facility", "https://ror.org/01x2y3z45"),
    )  # fmt: skip
    found = values(objects)
    expected = {
        "user/affiliation": "Facility", "user/identifier_ror": "https://ror.org/01x2y3z45",
        "project/name": "p", "project/identifier_proposal": "2026B1234", "project/identifier_grant": "JP26K00001", "project/funder": "JSPS",
        "policy/licence": "CC-BY-4.0", "policy/authority": "owner",
        "process/program": "edge-agent", "process/version": "0.1.0", "process/parameters/configuration_digest": "bb" * 32,
        "instrument/balance/_fabrication/vendor": "Mettler-Toledo", "instrument/balance/_fabrication/model": "XSR204",
        "instrument/balance/_fabrication/serial_number": "B1",
        "instrument/balance/_fabrication/identifier_pid": "https://doi.org/10.21938/abc",
        "instrument/balance/_about/title": "balance", "instrument/balance/_about/owner": "RIKEN",
        "instrument/balance/_about/identifier_calibration": "C-118", "instrument/balance/_about/calibration_valid_until": "2027-03-31",
        "instrument/balance/_about/adapter": "serial", "instrument/balance/_about/endpoint": "serial:///dev/ttyUSB0",
        "instrument/balance/_about/transport": "unauthenticated", "clock/source": "system", "process/sequence_index": 1,
    }  # fmt: skip
    assert expected.items() <= found.items()
    assert classes(objects) == {
        "provenance": "NXcollection", "user": "NXuser", "project": "NXcollection", "policy": "NXcollection", "process": "NXprocess",
        "process/parameters": "NXparameters", "clock": "NXcollection", "instrument/balance": "NXcollection",
        "instrument/balance/_fabrication": "NXfabrication", "instrument/balance/_about": "NXcollection",
    }  # fmt: skip
    identifier = objects["/entry/instrument/balance/_fabrication/identifier_pid"]
    assert isinstance(identifier, DatasetMeta)
    assert numpy_value(identifier.attributes["type"]) == "DOI"


def test_what_is_absent_has_no_field_and_its_reason_in_the_record() -> None:
    found = values(made(instruments=(instrument("x", "serial", "", "unauthenticated"),)))
    assert not [path for path in found if "_fabrication" in path or "landing_page" in path]
    assert json.loads(found["provenance/data"])["instruments"][0]["manufacturer"] == {"value": None, "reason": "the instrument does not say"}


@pytest.mark.parametrize(
    ("series", "found"),
    [
        ("camera/image", {"camera": "NXdetector"}),
        ("rows", {"balance": "NXcollection", "camera": "NXcollection"}),
        ("master", {"camera": "NXdetector", "balance": "NXcollection", "share": "NXcollection"}),
    ],
)
def test_a_segment_describes_the_instruments_whose_streams_it_holds(series: str, found: dict[str, str]) -> None:
    kinds = {"camera": ("frames", "rows"), "balance": ("rows",), "share": ("files",)}
    instruments = tuple(instrument(name, "a", "e", "t", delivers=delivers) for name, delivers in kinds.items())
    objects = classes(made(series, instruments=instruments))
    assert {path.split("/")[1]: nx for path, nx in objects.items() if path.startswith("instrument/") and path.count("/") == 1} == found


def test_completeness_is_there_once_it_can_be_counted() -> None:
    streams = (stream("camera/image", Kind.FRAMES, received=10, lost=2, gaps=1, counted=True), stream("a/b", received=5, gaps=1, unknown_gaps=1))
    assert "completeness" not in classes(made(streams=NOT_COUNTED))
    found = values(made(streams=streams, ended_ns=10**9, outcome=Outcome.COMPLETE))
    assert {p.partition("/")[2]: v for p, v in found.items() if p.startswith("completeness/")} == {
        "source_id": ["camera/image", "a/b"], "received": [10, 5], "missing": [2, 0], "gaps": [1, 1], "gaps_of_unknown_size": [0, 1],
        "expected": [12, -1],
    }  # fmt: skip


def test_a_segment_sums_its_own_gaps() -> None:
    gaps = {"c/i": [GapLeaf("c/i", 3, 4, "overload", 2, 0, 0, ""), GapLeaf("c/i", 9, 9, "source", 1, 0, 0, "")], "a/b": [], "x/y": [GapLeaf("x/y", None, None, "crash", None, 0, 0, "")]}
    found = values(nexus.segment_completeness({"c/i": 7, "a/b": 4}, gaps, {"c/i": True}))
    assert found["completeness/source_id"] == ["a/b", "c/i", "x/y"]
    assert found["completeness/received"] == [4, 7, 0]
    assert found["completeness/expected"] == [-1, 10, -1]
    assert found["completeness/gaps_of_unknown_size"] == [0, 0, 1]


def test_a_record_that_says_nothing_leaves_what_the_run_itself_says() -> None:
    objects = entry_objects(RUN, "BL05", 1, "rows", "{}")
    assert STATIC | {"policy/access", "policy/allowed", "provenance/data"} <= set(values(objects))
    assert not any(path.startswith(("/entry/user", "/entry/sample", "/entry/instrument/name/")) for path in objects)


def test_the_fields_of_a_segment_say_the_same_as_its_record(forge: Any, tmp_path: Path) -> None:
    built = forge.rows(tmp_path / "a.h5", told=True).close()
    with h5py.File(built.path) as file:
        record = json.loads(file["entry/provenance/data"][()])
        balance = next(i for i in record["instruments"] if i["name"] == "balance")
        about = file["entry/instrument/balance/_about"]
        assert about["owner"].asstr()[()] == balance["owner"]
        assert about["identifier_calibration"].asstr()[()] == balance["calibration"]["identifier"]
        assert file["entry/clock/offset"][()] == record["clock"]["offsetNs"]
        assert file["entry/clock/offset"].attrs["units"] == "ns"
