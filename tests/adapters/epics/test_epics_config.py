"""What may stand in the table, and what the messages say when something else does."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from adapters.epics import EpicsConfig
from adapters.epics.config import Address, Pv, parse_address, stream_name
from adapters.epics.environment import ChannelAccess, pva_configurations, where

EXAMPLES = Path(__file__).parents[3] / "config"


def test_a_pv_names_its_protocol_or_takes_the_default() -> None:
    config = EpicsConfig(pvs=["ca://X:TEMP", "pva://X:Y", "X:Z", "auto://X:A"], default="pva")
    assert config.rows() == [Pv("ca", "X:TEMP", "X_TEMP"), Pv("pva", "X:Y", "X_Y"), Pv("pva", "X:Z", "X_Z"), Pv("auto", "X:A", "X_A")]


def test_a_pv_may_be_a_table_with_name_and_unit() -> None:
    config = EpicsConfig.model_validate({"pvs": [{"pv": "X:T", "name": "T", "unit": "K"}]})
    assert config.rows() == [Pv("ca", "X:T", "T", "K")]


def test_a_camera_is_its_prefix() -> None:
    assert EpicsConfig(camera="pva://BL05:EIG1:").image_pv() == Pv("pva", "BL05:EIG1:Pva1:Image", "image")
    assert EpicsConfig(camera="BL05:EIG1:").image_pv() == Pv("pva", "BL05:EIG1:Pva1:Image", "image")
    assert EpicsConfig(image="pva://X:Image").image_pv() == Pv("pva", "X:Image", "image")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "nothing to record: give pvs ="),
        ({"pvs": ["http://x"]}, "'http://x' is no PV; write for example ca://BL05:TEMP"),
        ({"pvs": ["a b"]}, "'a b' is no PV"),
        ({"pvs": ["X:T", "ca://X:T"]}, "two PVs would be the stream 'X_T'; give one of them a name"),
        ({"pvs": [{"pv": "X", "name": "image"}], "camera": "pva://C:"}, "two PVs would be the stream 'image'"),
        ({"pvs": [{"pv": "X", "name": "a/b"}]}, "'a/b' is no stream name"),
        ({"camera": "pva://C:", "image": "pva://C:I"}, "camera and image both name the image"),
        ({"camera": "ca://C:"}, "images travel over PV Access; write pva://"),
        ({"pvs": ["X"], "addresses": ["10.0.0.1:99999"]}, "'10.0.0.1:99999' is no address; write for example"),
        ({"pvs": ["X"], "addresses": ["http://x"]}, "is no address"),
        ({"pvs": ["X"], "queue": 1}, "1 is too short: a queue that one update fills looks full after each; write 2 or more"),
        ({"pvs": [{"pv": "X", "queue": 0}]}, "0 is too short"),
        ({"pvs": ["X"], "queue": 10_001}, "less than or equal to 10000"),
        ({"pvs": ["X"], "pv": "Y"}, "Extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_named_with_what_would_do(table: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EpicsConfig.model_validate(table)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ioc1", Address(None, "ioc1", None)),
        ("10.0.0.1:5064", Address(None, "10.0.0.1", 5064)),
        ("ca://ioc1:5064", Address("ca", "ioc1", 5064)),
        ("pva://[fe80::1]:5075", Address("pva", "[fe80::1]", 5075)),
    ],
)
def test_addresses_are_host_and_port_for_one_or_both_protocols(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_without_addresses_the_environment_decides() -> None:
    assert pva_configurations([Address("ca", "x", 1)]) is None
    assert "EPICS_PVA_ADDR_LIST" in where([], "pva")


def test_addresses_switch_broadcast_off_and_are_searched_first_and_asked_as_name_server_second() -> None:
    found = pva_configurations([Address(None, "a", 7), Address("pva", "b", None), Address("ca", "c", None)])
    assert found == (
        {"EPICS_PVA_ADDR_LIST": "a:7 a:5076 b:5076", "EPICS_PVA_AUTO_ADDR_LIST": "NO"},
        {"EPICS_PVA_ADDR_LIST": "", "EPICS_PVA_NAME_SERVERS": "a:7 b:5075", "EPICS_PVA_AUTO_ADDR_LIST": "NO"},
    )


def test_channel_access_merges_addresses_before_its_first_use_and_warns_after(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("EPICS_CA_ADDR_LIST", "EPICS_CA_AUTO_ADDR_LIST", "EPICS_CA_REPEATER_PORT", "EPICS_CA_MAX_SEARCH_PERIOD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", "site")
    monkeypatch.setattr("adapters.epics.environment.keep_repeater_from_starting", lambda: None)
    client = ChannelAccess()
    client.add([Address("ca", "a", 1), Address("pva", "never", 1)])
    client.add([Address(None, "b", None), Address("ca", "a", 1)])
    client.start()
    import os

    assert os.environ["EPICS_CA_ADDR_LIST"] == "site a:1 b"
    assert os.environ["EPICS_CA_AUTO_ADDR_LIST"] == "NO"
    client.add([Address("ca", "a", 1)])
    assert not caplog.records
    client.add([Address("ca", "late", None)])
    assert "will not look at late" in caplog.text
    assert "restart the agent" in caplog.text


@pytest.mark.parametrize(("pv", "name"), [("BL05:TEMP.VAL", "BL05_TEMP.VAL"), ("{x}y", "x_y"), ("::", "pv"), ("y" * 90, "y" * 63)])
def test_a_pv_name_becomes_a_stream_name(pv: str, name: str) -> None:
    assert stream_name(pv) == name


def test_the_example_configuration_is_valid() -> None:
    table = tomllib.loads((EXAMPLES / "beamline.toml").read_text())["instrument"]
    for instrument in table.values():
        own = {key: value for key, value in instrument.items() if key in EpicsConfig.model_fields}
        assert EpicsConfig.model_validate(own).rows() or own["camera"]


def test_queue_and_pipelining_are_per_pv_and_pipelining_is_off_unless_asked_for() -> None:
    config = EpicsConfig.model_validate({"pvs": ["X:A", {"pv": "pva://X:B", "queue": 7, "pipeline": True}], "queue": 50, "image": "X:I"})
    assert [(pv.queue, pv.pipeline) for pv in config.rows()] == [(50, False), (7, True)]
    image = config.image_pv()
    assert image is not None
    assert (image.queue, image.pipeline) == (50, False)


def listed(tmp_path: Path, **table: object) -> list[Pv]:
    return EpicsConfig.model_validate(table, context={"folder": tmp_path}).rows()


def test_a_request_file_is_read_with_its_macros_and_the_files_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/beamline.req").write_text(
        "# motors\nfile motor.req P=$(P),M=m1\nfile motor.req P=$(P), M=m2\n\n${P}TEMP # K\n$(Q=BL06:)X\n"
    )
    (tmp_path / "lists/motor.req").write_text("$(P)$(M).VAL\n$(P)$(M).DIR\n")
    rows = listed(tmp_path, lists=[{"file": "lists/beamline.req", "macros": {"P": "BL05:"}}], default="auto")
    assert [pv.name for pv in rows] == ["BL05:m1.VAL", "BL05:m1.DIR", "BL05:m2.VAL", "BL05:m2.DIR", "BL05:TEMP", "BL06:X"]
    assert {pv.scheme for pv in rows} == {"auto"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_by_its_heading(encoding: str, delimiter: str, tmp_path: Path) -> None:
    lines = [["PV", "説明", "name", "unit"], ["pva://X:T", "試料温度", "sample", "K"], ["X:I", "", "", ""], ["# X:OFF"]]
    (tmp_path / "pvs.csv").write_text("\n".join(delimiter.join(line) for line in lines), encoding=encoding)
    assert listed(tmp_path, lists=["pvs.csv"]) == [Pv("pva", "X:T", "sample", "K"), Pv("ca", "X:I", "X_I")]


def test_a_table_without_a_heading_is_a_column_of_pvs_and_what_the_configuration_says_wins(tmp_path: Path) -> None:
    (tmp_path / "pvs.csv").write_text("X:A\nX:B\nX:A\n")
    rows = listed(tmp_path, lists=["pvs.csv"], pvs=[{"pv": "pva://X:B", "name": "B"}])
    assert rows == [Pv("pva", "X:B", "B"), Pv("ca", "X:A", "X_A")]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "main.req cannot be read: No such file or directory"),
        ({"main.req": "$(P)X"}, "line 1: the macro P has no value; give macros ="),
        ({"main.req": "file main.req"}, "files name each other in a circle"),
        ({"main.req": "$(P=$(P))X"}, "the macro P has no value"),
        ({"main.req": "http://x"}, "'http://x' is no PV"),
        ({"main.req": "X:A\nX/A"}, "two PVs would be the stream 'X_A'"),
    ],
)
def test_a_mistake_in_a_list_is_named_with_its_place(files: dict[str, str], says: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValidationError) as caught:
        listed(tmp_path, lists=["main.req"])
    assert says in str(caught.value)
