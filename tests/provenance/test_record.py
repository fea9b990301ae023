from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.model import NO_TIME, Outcome, RunContext
from edge_agent.provenance.facts import Absent, RunRecord, StreamFacts
from edge_agent.provenance.jsonld import canonical, iso_time, to_jsonld
from edge_agent.provenance.record import Calibration, Person, Software, build_record, instrument, is_orcid, person, sample, without_password

MakeContext = Callable[..., RunContext]


def absents(value: Any, path: str = "") -> dict[str, str]:
    """Every explicit null in a JSON value, by path."""
    if isinstance(value, dict):
        if value.keys() == {"value", "reason"}:
            assert value["value"] is None
            return {path: value["reason"]}
        return {k: v for key, item in value.items() for k, v in absents(item, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for n, item in enumerate(value) for k, v in absents(item, f"{path}/{n}").items()}
    assert value is not None, f"{path} is a null without a reason"
    return {}


def test_an_empty_record_has_every_field_and_a_reason_for_each_that_is_missing(bare_record: RunRecord, full_record: RunRecord) -> None:
    bare, full = to_jsonld(bare_record), to_jsonld(full_record)
    assert bare.keys() == full.keys()
    missing = absents(bare)
    assert missing["/operator"] == "unattended: no session named a person"
    assert missing["/outcome"] == missing["/endedAt"] == "the run was open when this was written"
    assert missing["/policy/licence"] == "the project has not chosen a licence"
    assert all(missing.values())


def test_the_record_carries_all_that_the_table_of_provenance_lists(full_record: RunRecord) -> None:
    made = to_jsonld(full_record)
    assert made["@id"] == "urn:uuid:00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert (made["runNo"], made["title"], made["outcome"]) == (123, "Si 重ね合わせ", "complete")
    assert made["startedAt"] == "2026-11-18T11:06:40.123456789Z"
    assert made["project"] == {
        "name": "demo-project", "proposal": "2026B1234", "grant": "JP26K00001", "funder": "MEXT", "rule": "value",
        "ruleSource": "ca://BL05:PROPOSAL",
    }  # fmt: skip
    assert made["operator"]["orcid"] == "0000-0002-1825-0097"
    assert made["sample"]["igsn"] == "10.58052/IEXYZ0001"
    (camera,) = made["instruments"]
    assert (camera["manufacturer"], camera["model"], camera["serialNumber"]) == ("Dectris", "EIGER2", "E-32-0101")
    assert camera["calibration"] == {"identifier": "flat-2026-10", "validUntil": "2027-10-01"}
    assert made["software"]["configDigest"] == "bb" * 32
    assert [step["name"] for step in made["steps"]] == ["decode", "sign"]
    assert made["clock"] == {"source": "chrony", "offsetNs": -1500, "uncertaintyNs": 20000, "synced": True}
    assert made["policy"]["label"] == {"access": "shared", "allowed": ["cloud", "disk"]}
    assert made["integrity"]["sidecar"] == "000123.hsc"
    frames, weight = made["streams"]
    assert (frames["expected"], frames["received"], frames["lost"]) == (403, 400, 3)
    assert weight["expected"] == {"value": None, "reason": "the source does not count its items"}


def test_the_canonical_bytes_are_those_of_rfc_8785_and_always_the_same(full_record: RunRecord) -> None:
    data = canonical(full_record)
    assert data == canonical(dataclasses.replace(full_record)) == rfc8785.dumps(json.loads(data))


def test_numbers_that_json_cannot_carry_become_texts(full_record: RunRecord) -> None:
    facts = json.loads(canonical(full_record))["instruments"][0]["facts"]
    assert (facts["ticks"], facts["T"], facts["gain"]) == (str(2**60), "nan", 1.5)


@given(
    st.dictionaries(st.text(), st.text() | st.integers() | st.floats() | st.text(st.characters(categories=["Cs"]))),
    st.integers(-(2**63), 2**63 - 1),
)
def test_whatever_an_instrument_says_of_itself_can_be_signed(facts: dict[str, Any], started: int) -> None:
    made = instrument("x", "serial", "serial:///dev/ttyUSB0", "unauthenticated", described=facts)
    run = RunContext(b"\0" * 16, 1, "p", "g", started, "f")
    data = canonical(build_record(run, Software("s", "1"), (made,), (), ended_ns=started, outcome=Outcome.FAILED))
    assert json.loads(data)["instruments"][0]["name"] == "x"


def test_a_time_that_is_not_known_is_absent(bare_record: RunRecord) -> None:
    made = to_jsonld(dataclasses.replace(bare_record, started_ns=NO_TIME))
    assert made["startedAt"] == {"value": None, "reason": "the time is not known"}


@pytest.mark.parametrize("ns", [0, 1, 999_999_999, 1_795_000_000_123_456_789])
def test_times_keep_their_nanoseconds(ns: int) -> None:
    assert iso_time(ns).endswith(f".{ns % 10**9:09d}Z")


@pytest.mark.parametrize("orcid", ["0000-0002-1825-0097", "0000-0001-5109-3700", "0000-0002-1694-233X"])
def test_real_orcids_are_taken_in_both_forms(orcid: str) -> None:
    assert is_orcid(orcid)
    for form in (orcid, f"https://orcid.org/{orcid}", f" http://orcid.org/{orcid}/ "):
        assert person(form) == Person(Absent("only the ORCID was given"), orcid)


@pytest.mark.parametrize("given_name", ["0000-0002-1825-0098", "0000-0002-1694-2330"])
def test_a_mistyped_orcid_is_kept_as_a_name_and_said_to_be_wrong(given_name: str) -> None:
    made = person(given_name)
    assert isinstance(made, Person)
    assert made.name == given_name
    assert made.orcid == Absent("the check digit of the ORCID given is wrong")


def test_a_name_and_an_orcid_can_be_given_together_and_a_role_beside_them() -> None:
    assert person("山田 花子 <https://orcid.org/0000-0002-1825-0097>", "local_contact") == Person("山田 花子", "0000-0002-1825-0097", "local_contact")
    assert person("A <B> <C>") == Person("A <B> <C>", Absent("only a name was given"))


def test_an_instrument_may_know_its_own_calibration_and_the_configuration_knows_better() -> None:
    facts = {"Calibration": "C-1", "calibration due": "2027-01-31"}
    assert instrument("x", "a", "e", "t", described=facts).calibration == Calibration("C-1", "2027-01-31")
    assert instrument("x", "a", "e", "t", described=facts, calibration=Calibration("C-2")).calibration == Calibration("C-2")


def test_a_name_is_a_name_and_nothing_is_unattended() -> None:
    assert person("山田 太郎") == Person("山田 太郎", Absent("only a name was given"))
    assert isinstance(person("  "), Absent)


@pytest.mark.parametrize("igsn", ["igsn:10.58052/IEXYZ0001", "https://doi.org/10.58052/IEXYZ0001", "10.58052/IEXYZ0001"])
def test_an_igsn_is_known_in_all_its_forms(igsn: str) -> None:
    assert sample(igsn).igsn == "10.58052/IEXYZ0001"


def test_a_local_sample_name_stays_local_and_none_is_absent() -> None:
    assert sample("wafer 7").name == "wafer 7"
    assert isinstance(sample("wafer 7").igsn, Absent)
    both = sample("wafer 7 <igsn:10.58052/IEXYZ0001>")
    assert (both.name, both.igsn) == ("wafer 7", "10.58052/IEXYZ0001")
    assert isinstance(sample("").name, Absent)


def test_configured_facts_win_over_described_ones_and_both_are_kept_apart() -> None:
    made = instrument("x", "a", "e", "t", described={"Vendor": "Acme", "MODEL": "M1"}, configured={"model": "M2", "pid": ""})
    assert (made.manufacturer, made.model) == ("Acme", "M2")
    assert isinstance(made.pid, Absent)
    assert made.facts == {"Vendor": "Acme", "MODEL": "M1"}


def test_a_field_that_instruments_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        instrument("x", "a", "e", "t", configured={"colour": "red"})


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("opc.tcp://user:secret@host:4840/x?ns=2;s=a", "opc.tcp://host:4840/x?ns=2;s=a"),
        ("mqtt://u:p@[::1]:1883", "mqtt://[::1]:1883"),
        ("https://h/a@b", "https://h/a@b"),
        ("/dev/serial/by-id/usb-a@b", "/dev/serial/by-id/usb-a@b"),
        ("ca://PV:A", "ca://PV:A"),
        ("", ""),
    ],
)
def test_passwords_never_get_into_the_record(endpoint: str, shown: str, run_context: MakeContext) -> None:
    assert without_password(endpoint) == shown
    stream = StreamFacts("a/b", "rows", "<f8", (), "", endpoint, "x", "none")
    record = build_record(run_context(), Software("s", "1"), (instrument("a", "b", endpoint, "c"),), (stream,))
    assert b"secret" not in canonical(record)


@pytest.mark.parametrize(("counted", "unknown", "expected"), [(True, 0, 12), (True, 1, None), (False, 0, None)])
def test_what_was_expected_is_only_said_when_it_can_be_known(counted: bool, unknown: int, expected: int | None) -> None:
    facts = StreamFacts("a/b", "rows", "<f8", (), "", "", "", "none", 10, 2, 1 + unknown, unknown, counted)
    assert isinstance(facts.expected, Absent) if expected is None else facts.expected == expected


def test_nothing_is_missing_without_a_reason(full_record: RunRecord, bare_record: RunRecord) -> None:
    def check(value: Any, path: str) -> None:
        if isinstance(value, dict) and value.keys() == {"value", "reason"}:
            assert value["value"] is None, path
            assert value["reason"], path
        elif isinstance(value, dict):
            for key, inner in value.items():
                check(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for inner in value:
                check(inner, f"{path}[]")
        else:
            assert value is not None, path
            assert value != "", path

    silent = instrument("silent", "files", "", "", described={"note": ""})
    stream = StreamFacts("silent/files", "files", "", (), "", "", "", "")
    for record in (full_record, bare_record, dataclasses.replace(full_record, instruments=(silent,), streams=(stream,))):
        made = to_jsonld(record)
        check(made, "record")
        assert {"runId", "runNo", "project", "operator", "organisation", "sample", "instruments", "software", "steps", "clock", "streams",
                "policy", "integrity", "startedAt", "endedAt", "outcome", "trigger", "title"} <= made.keys()  # fmt: skip
        assert made["policy"].keys() == {"label", "authority", "licence", "reasons", "embargoUntil", "accessAfterEmbargo"}
