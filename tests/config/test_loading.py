from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.adapter import AdapterConfig
from edge_agent.config import Config, Examination, FolderTarget, LandingTarget, load
from edge_agent.config.adapters import adapter_class
from edge_agent.config.conditions import Idle, RunWhile

Examined = Callable[..., Examination]


@pytest.fixture
def config(tmp_path: Path, example: str) -> Config:
    file = tmp_path / "lab.toml"
    file.write_text(example)
    return load(file)


def test_an_example_has_no_problems(examined: Examined, example: str) -> None:
    assert examined(example, machine=True).problems == ()


def test_values_come_out_in_seconds_and_bytes(config: Config) -> None:
    assert config.spool.keep_free == 20_000_000_000
    assert config.spool.max_size == 1_500_000_000_000
    assert config.instruments["eiger"].look_back == 0.5
    assert config.instruments["furnace"].look_back == 2.0


def test_conditions_come_out_parsed(config: Config) -> None:
    eiger = config.instruments["eiger"]
    assert eiger.run_while == RunWhile("ca://BL05:SHUTTER", "==", 1.0)
    assert eiger.idle == Idle("ignore")
    assert config.instruments["furnace"].idle is None


def test_each_target_is_of_its_own_class(config: Config) -> None:
    cloud, nas = config.targets["cloud"], config.targets["nas"]
    assert isinstance(cloud, LandingTarget)
    assert cloud.landing == "https://landing.example.ac.jp"
    assert isinstance(nas, FolderTarget)
    assert (cloud.required, nas.required) == (True, False)


def test_what_is_not_common_belongs_to_the_adapter(config: Config) -> None:
    settings = config.instruments["furnace"].settings
    assert isinstance(settings, adapter_class("opcua").Config)
    assert settings.model_dump()["endpoint"] == "opc.tcp://192.168.1.30:4840"


def test_a_key_that_both_declare_is_given_to_both(config: Config) -> None:
    eiger = config.instruments["eiger"]
    assert "codec" in adapter_class("epics").Config.model_fields
    assert (eiger.codec, eiger.settings.model_dump()["codec"]) == ("bitshuffle-lz4", "bitshuffle-lz4")


def test_an_instrument_goes_to_all_targets_unless_it_says_which(config: Config) -> None:
    assert config.targets_of("furnace") == ("cloud", "nas")
    assert config.targets_of("eiger") == ("cloud", "nas")
    assert config.instruments["furnace"].targets is None


def test_defaults_are_closed_and_unclaimed(examined: Examined) -> None:
    config = examined('site = "BL05"\n').config
    assert config is not None
    assert config.access is None, "nobody said: closed, as tests/agent/test_labels.py has it"
    assert config.project == "unclaimed"
    assert config.spool.dir == Path("/var/lib/edge-agent")
    assert config.keys_dir == Path("/var/lib/edge-agent/keys")
    assert config.zone.key == config.timezone


def test_group_and_project_fall_back(examined: Examined, example: str) -> None:
    text = example.replace("[instrument.eiger]\n", '[instrument.eiger]\ngroup = "beamline"\nproject = "p1"\n')
    config = examined(text).config
    assert config is not None
    assert (config.group_of("eiger"), config.group_of("furnace")) == ("beamline", "furnace")
    assert (config.project_of("eiger"), config.project_of("furnace")) == ("p1", "unclaimed")


def test_relative_paths_start_from_the_configuration(config: Config, tmp_path: Path) -> None:
    assert config.spool.dir == tmp_path / "spool"
    assert config.keys_dir == tmp_path / "spool" / "keys"


def test_relative_paths_of_an_adapter_start_from_the_configuration_too(examined: Examined, example: str, tmp_path: Path) -> None:
    keys = 'server_certificate = "certs/server.pem"\n'
    config = examined(example.replace('publish = "100 ms"\n', keys)).config
    assert config is not None
    assert config.instruments["furnace"].settings.model_dump()["server_certificate"] == tmp_path / "certs" / "server.pem"


def test_a_tilde_is_the_home_folder(examined: Examined, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/lab")
    config = examined(example.replace('dir = "spool"', 'dir = "~/spool"')).config
    assert config is not None
    assert config.spool.dir == Path("/home/lab/spool")


def test_a_configuration_does_not_change_once_loaded(config: Config) -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.site = "BL06"  # type: ignore[misc]


def test_two_instruments_on_one_port_are_a_warning(examined: Examined, tmp_path: Path) -> None:
    text = 'site = "a"\n[target.t]\nfolder = "x"\n'
    text += '[instrument.a]\nadapter = "opcua"\nport = "x"\n[instrument.b]\nadapter = "opcua"\nport = "x"\n'
    [warning] = examined(text).warnings
    assert str(warning).removeprefix(f"{tmp_path}/") == (
        'lab.toml:9:8: instrument.b.port: warning: "a" has the same port; only one of them will get it'
    )
    assert warning.code == "CFG_SAME_PORT"


def test_no_instrument_and_no_target_are_warnings_and_not_errors(examined: Examined) -> None:
    found = examined('site = "a"\n')
    assert [problem.code for problem in found.warnings] == ["CFG_NO_INSTRUMENT", "CFG_NO_TARGET"]
    assert found.config is not None
    assert found.errors == []


def test_names_that_differ_in_case_only_are_refused(examined: Examined, example: str) -> None:
    found = examined(example + '[target.NAS]\nfolder = "/mnt/b"\n')
    assert [problem.message for problem in found.errors] == [
        'differs from "nas" only in upper and lower case; some disks take them for one'
    ]


def test_a_spool_that_cannot_be_written_is_found_by_a_check_of_this_machine_only(examined: Examined, example: str) -> None:
    text = example.replace('dir = "spool"', 'dir = "/proc/edge-agent"')
    assert examined(text).problems == ()
    [problem] = examined(text, machine=True).errors
    assert (problem.key, problem.code) == ("spool.dir", "CFG_SPOOL")
    assert problem.message.startswith("this user cannot write in /proc: ")


def test_a_spool_below_a_file_is_no_folder(examined: Examined, example: str, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    [problem] = examined(example, machine=True).errors
    assert problem.message == f"{tmp_path}/spool is not a folder"


def test_every_bundled_adapter_leaves_the_common_keys_their_meaning() -> None:
    from edge_agent.config.adapters import names
    from edge_agent.config.models import COMMON

    for name in names():
        model = adapter_class(name).Config
        assert issubclass(model, AdapterConfig)
        assert set(model.model_fields) & COMMON <= {"codec"}, name


def test_every_field_has_a_line_of_documentation() -> None:
    from pydantic import BaseModel

    from edge_agent.config import models, targets

    tables = [cls for room in (models, targets) for cls in vars(room).values() if isinstance(cls, type) and issubclass(cls, BaseModel)]
    for table in tables:
        for name, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{name}"
            assert "\n" not in field.description, f"{table.__name__}.{name}"
