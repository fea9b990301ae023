"""What an operator reads when a configuration is wrong: each line says where, what and, if there is one, the nearest valid word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.config import Examination, InvalidConfig, load
from edge_agent.errors import ConfigError

HEAD = 'site = "BL05"\n'
TARGET = '[target.nas]\nfolder = "/mnt/nas"\n'
INSTRUMENT = '[instrument.furnace]\nadapter = "opcua"\nendpoint = "opc.tcp://127.0.0.1:4840"\nbrowse = "i=85"\n'

Complaints = Callable[..., list[str]]


def test_a_wrong_type_is_named_without_repeating_the_value(complaints: Complaints) -> None:
    assert complaints("site = 5\n" + INSTRUMENT + TARGET) == ["lab.toml:1:8: site: must be text in quotes, not a number"]


def test_an_unknown_key_comes_with_the_nearest_one(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT + 'endpiont = "x"\n' + TARGET) == [
        'lab.toml:6:1: instrument.furnace.endpiont: unknown key (did you mean "endpoint"?)'
    ]


def test_a_misspelt_key_is_one_mistake_and_not_also_a_missing_key(complaints: Complaints) -> None:
    assert complaints('stie = "BL05"\n' + INSTRUMENT + TARGET) == ['lab.toml:1:1: stie: unknown key (did you mean "site"?)']


def test_a_common_key_that_is_misspelt_in_an_instrument_is_found_too(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT + 'look_bakc = "2 s"\n' + TARGET) == [
        'lab.toml:6:1: instrument.furnace.look_bakc: unknown key (did you mean "look_back"?)'
    ]


def test_a_key_of_the_top_that_slid_into_a_table_is_said_to_belong_to_the_top(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT + 'access = "open"\ntimezone = "UTC"\n' + TARGET) == [
        "lab.toml:7:1: instrument.furnace.timezone: unknown key here; it belongs to the top of the file, before the first [table]"
    ]


def test_a_missing_key_points_at_its_table(complaints: Complaints) -> None:
    assert complaints(HEAD + '[instrument.furnace]\nadapter = "opcua"\nbrowse = "i=85"\n' + TARGET) == [
        "lab.toml:2:1: instrument.furnace.endpoint: is missing"
    ]


def test_a_missing_site_points_at_the_beginning(complaints: Complaints) -> None:
    assert complaints(INSTRUMENT + TARGET) == ["lab.toml:1:1: site: is missing"]


def test_an_inline_secret_is_refused_and_never_repeated(complaints: Complaints) -> None:
    lines = complaints(HEAD + INSTRUMENT + '[target.broker]\nmqtt = "mqtts://broker.example.ac.jp"\nuser = "bl05"\npassword = "hunter2"\n')
    cure = 'a secret is never written here; put it in a file and write { file = "/path/of/the/file" }'
    assert lines == [f"lab.toml:9:12: target.broker.password: {cure}"]


def test_a_password_in_an_adapters_table_is_refused_too(complaints: Complaints) -> None:
    lines = complaints(HEAD + INSTRUMENT + 'password = "hunter2"\n' + TARGET)
    cure = 'a secret is never written here; put it in a file and write { file = "/path/of/the/file" }'
    assert lines == [f"lab.toml:6:12: instrument.furnace.password: {cure}"]


def test_a_password_in_an_address_is_refused_and_never_repeated(complaints: Complaints) -> None:
    lines = complaints(HEAD + INSTRUMENT + '[target.broker]\nmqtt = "mqtts://me:hunter2@broker.example.ac.jp"\n')
    assert lines == ["lab.toml:7:8: target.broker.mqtt: a user or password is never written into an address"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2", 'needs a unit: write it as text, "2 s"'),
        ('"2"', 'must be a number and a unit such as "2 s"; units are ns us µs ms s min h d'),
        ('"2 sec"', '"sec" is no unit of time; there are ns us µs ms s min h d'),
        ('"-2 s"', 'must be a number and a unit such as "2 s"; units are ns us µs ms s min h d'),
        ("true", 'must be text such as "2 s"'),
        ('"1e999 s"', 'must be a number and a unit such as "2 s"; units are ns us µs ms s min h d'),
    ],
)
def test_a_bad_duration_says_how_one_is_written(complaints: Complaints, written: str, said: str) -> None:
    text = HEAD + INSTRUMENT + f"look_back = {written}\n" + TARGET
    assert complaints(text) == [f"lab.toml:6:13: instrument.furnace.look_back: {said}"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("20", 'needs a unit: write it as text, "20 GB"'),
        ('"20 XB"', '"XB" is no unit of size; there are B kB MB GB TB KiB MiB GiB TiB'),
        ('"999999999 TB"', "is larger than any disk"),
        ('""', 'must be a number and a unit such as "20 GB"; units are B kB MB GB TB KiB MiB GiB TiB'),
    ],
)
def test_a_bad_size_says_how_one_is_written(complaints: Complaints, written: str, said: str) -> None:
    text = HEAD + f"spool = {{ keep_free = {written} }}\n" + INSTRUMENT + TARGET
    assert complaints(text) == [f"lab.toml:2:23: spool.keep_free: {said}"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("BL05:SHUTTER == 1", 'must be an address, a comparison and a value such as "ca://BL05:SHUTTER == 1"'),
        ("ca://BL05:SHUTTER = 1", '"=" is no comparison; there are == != >= <= > <'),
        ("ca://BL05:SHUTTER > open", '"open" is text and has no order; use == or !=, or a number'),
        ("ca://BL05:SHUTTER == nan", "nan equals nothing; compare with a number"),
        ("ca://BL05:SHUTTER", 'must be an address, a comparison and a value such as "ca://BL05:SHUTTER == 1"'),
    ],
)
def test_a_bad_run_while_says_what_a_condition_is(complaints: Complaints, written: str, said: str) -> None:
    text = HEAD + INSTRUMENT + f'run_while = "{written}"\n' + TARGET
    assert complaints(text) == [f"lab.toml:6:13: instrument.furnace.run_while: {said}"]


def test_a_bad_idle_says_which_there_are(complaints: Complaints) -> None:
    text = HEAD + INSTRUMENT + 'idle = "sleep"\n' + TARGET
    assert complaints(text) == ['lab.toml:6:8: instrument.furnace.idle: must be "keep", "ignore" or "ring = 30 s"']


def test_a_choice_that_does_not_exist_lists_the_choices(complaints: Complaints) -> None:
    text = HEAD + 'access = "opne"\n' + INSTRUMENT + TARGET
    assert complaints(text) == ['lab.toml:2:10: access: must be one of open, shared, closed (did you mean "open"?)']


def test_an_unknown_adapter_comes_with_the_nearest_one(complaints: Complaints) -> None:
    text = HEAD + '[instrument.furnace]\nadapter = "opc-ua"\n' + TARGET
    assert complaints(text) == ['lab.toml:3:11: instrument.furnace.adapter: there is no such adapter (did you mean "opcua"?)']


def test_an_unknown_target_comes_with_the_nearest_one(complaints: Complaints) -> None:
    text = HEAD + INSTRUMENT + 'allowed = ["nas", "clout"]\n[target.cloud]\nlanding = "https://a.example"\n' + TARGET
    assert complaints(text) == [
        'lab.toml:6:19: instrument.furnace.allowed[1]: there is no [target.clout] (did you mean "cloud"?)',
    ]


def test_an_unknown_time_zone_comes_with_the_nearest_one(complaints: Complaints) -> None:
    text = HEAD + 'timezone = "Asia/Tokio"\n' + INSTRUMENT + TARGET
    assert complaints(text) == ['lab.toml:2:12: timezone: is no IANA time zone such as "Asia/Tokyo" (did you mean "Asia/Tokyo"?)']


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", "Asia", "a\\u0000b"])
def test_a_time_zone_is_never_a_path(complaints: Complaints, name: str) -> None:
    [line] = complaints(HEAD + f'timezone = "{name}"\n' + INSTRUMENT + TARGET)
    assert line.startswith('lab.toml:2:12: timezone: is no IANA time zone such as "Asia/Tokyo"')


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("required = true\n", 'needs one of landing = "https://...", mqtt = "mqtts://...", s3 = "https://...", grdm = "https://..." or folder = "/path"'),
        ('folder = "/a"\nmqtt = "mqtts://b"\n', "has mqtt + folder: keep exactly one of them"),
    ],
)
def test_a_target_is_exactly_one_kind(complaints: Complaints, table: str, said: str) -> None:
    assert complaints(HEAD + INSTRUMENT + "[target.a]\n" + table) == [f"lab.toml:6:1: target.a: {said}"]


@pytest.mark.parametrize(
    ("key", "address", "said"),
    [
        ("landing", "http://landing.example.ac.jp", 'would be sent unencrypted; write "https://"'),
        ("landing", "landing.example.ac.jp", 'must be an address such as "https://landing.example.ac.jp"'),
        ("landing", "https://landing.example.ac.jp:99999", 'is no address such as "https://landing.example.ac.jp"'),
        ("mqtt", "mqtt://broker.example.ac.jp", 'would be sent unencrypted; write "mqtts://"'),
    ],
)
def test_an_address_must_be_whole_and_encrypted(complaints: Complaints, key: str, address: str, said: str) -> None:
    assert complaints(HEAD + INSTRUMENT + f'[target.a]\n{key} = "{address}"\n')[0].endswith(f"target.a.{key}: {said}")


def test_plain_addresses_are_for_this_machine(complaints: Complaints) -> None:
    assert (
        complaints(HEAD + INSTRUMENT + '[target.a]\nlanding = "http://127.0.0.1:8443"\n[target.b]\nmqtt = "mqtt://localhost:1883"\n') == []
    )


def test_a_bad_name_says_what_names_are(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT.replace("furnace", '"oven 1"') + TARGET) == [
        "lab.toml:2:2: instrument.oven 1: is no name: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit"
    ]


def test_a_value_that_may_be_of_two_types_gets_one_line(complaints: Complaints) -> None:
    text = HEAD + '[instrument.ioc]\nadapter = "epics"\npvs = [5, { pv = "ca://X", nmae = "y" }]\n' + TARGET
    assert complaints(text) == [
        "lab.toml:4:8: instrument.ioc.pvs[0]: must be text in quotes, not a number, or must be a table, not a number",
        'lab.toml:4:28: instrument.ioc.pvs[1].nmae: unknown key (did you mean "name"?)',
    ]


def test_what_the_adapter_itself_objects_to_is_said_in_its_words(complaints: Complaints) -> None:
    [line] = complaints(HEAD + '[instrument.ioc]\nadapter = "epics"\n' + TARGET)
    assert line.startswith("lab.toml:2:1: instrument.ioc: nothing to record: give pvs = ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('site = "BL05\n', "lab.toml:1:13: this is no TOML: Illegal character '\\n'"),
        ("site = \n", "lab.toml:1:8: this is no TOML: Invalid value"),
        ('site = "BL05" "x"\n', "lab.toml:1:15: this is no TOML: Expected newline or end of document after a statement"),
        ('site = "BL05"\n[instrument.a\nx = 1\n', "lab.toml:2:14: this is no TOML: Expected ']' at the end of a table declaration"),
    ],
)
def test_a_fault_of_grammar_has_line_and_column(complaints: Complaints, text: str, said: str) -> None:
    assert complaints(text) == [said]


def test_a_key_that_is_there_twice_names_both_lines(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT + 'site = "a"\nsite = "b"\n') == [
        "lab.toml:7:1: instrument.furnace.site: is there twice; the first is in line 6"
    ]


def test_a_table_that_is_there_twice_names_both_lines(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT + INSTRUMENT) == ["lab.toml:6:2: instrument.furnace: is there twice; the first is in line 2"]


def test_columns_count_characters_and_not_bytes(complaints: Complaints) -> None:
    [line] = complaints('site = "BL05"\nfacility = { name = "放射光施設", rro = "x" }\n' + INSTRUMENT + TARGET)
    assert line == 'lab.toml:2:30: facility.rro: unknown key (did you mean "ror"?)'


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(complaints: Complaints) -> None:
    lines = complaints('site = 5\nacces = "open"\n[instrument.a]\nadapter = "serail"\ntargets = ["x"]\n[target.b]\n')
    assert [line.split(": ")[1] for line in lines] == ["site", "acces", "instrument.a.adapter", "instrument.a.targets[0]", "target.b"]


def test_a_file_that_is_not_there_is_said_to_be_unreadable(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path / "none.toml")
    assert str(caught.value.problems[0]).endswith("none.toml:1:1: cannot be read: No such file or directory")
    assert caught.value.code == "CFG_FILE"
    assert caught.value.exit_code == 3


def test_another_encoding_points_at_the_byte(complaints: Complaints) -> None:
    assert complaints(b'site = "BL05"\ntitle = "' + "炉".encode("shift_jis") + b'"\n') == [
        "lab.toml:2:10: is not written in UTF-8; save it again as UTF-8"
    ]


def test_a_windows_file_with_byte_order_mark_and_crlf_is_read(examined: Callable[..., Examination], example: str) -> None:
    assert examined(b"\xef\xbb\xbf" + example.replace("\n", "\r\n").encode()).problems == ()


def test_a_huge_file_is_refused_before_it_is_parsed(complaints: Complaints) -> None:
    assert complaints(b"#" * (4 * 2**20 + 1)) == ["lab.toml:1:1: is larger than 4 MiB: this is no configuration"]


def test_a_deep_nesting_is_refused(complaints: Complaints) -> None:
    assert complaints("a = " + "[" * 100_000) == ["lab.toml:1:1: is nested too deeply"]


def test_one_error_carries_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text('sit = "a"\naccess = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert isinstance(caught.value, InvalidConfig)
    assert [problem.code for problem in caught.value.problems] == ["CFG_UNKNOWN_KEY", "CFG_VALUE"]
    assert caught.value.what == f"The configuration {file} has 2 mistakes."
    assert caught.value.why.count("\n") == 1
    assert caught.value.try_ == f"edge-agent check {file}"


def test_what_the_run_record_asks_for_is_checked_where_it_is_written(complaints: Complaints) -> None:
    told = 'landing_page = "our balance"\ncalibration = { id = "C-1", valid_until = "next spring" }\n'
    projects = '[projects.lysozyme]\ngrand = "JP26K00001"\n'
    assert complaints(HEAD + INSTRUMENT + told + TARGET + projects) == [
        "lab.toml:6:16: instrument.furnace.landing_page: must look like ^(https?://\\S+)?$",
        'lab.toml:7:43: instrument.furnace.calibration.valid_until: must be a date such as "2027-03-31"',
        'lab.toml:11:1: projects.lysozyme.grand: unknown key (did you mean "grant"?)',
    ]


def test_a_calibration_without_a_number_and_a_day_that_is_no_day(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT + 'calibration = { valid_until = "2027-02-30" }\n' + TARGET) == [
        "lab.toml:6:15: instrument.furnace.calibration.id: is missing",
        'lab.toml:6:31: instrument.furnace.calibration.valid_until: must be a date such as "2027-03-31"',
    ]


def test_a_calibration_that_ended_is_a_warning(examined: Callable[..., Examination], tmp_path: Path) -> None:
    text = f'{HEAD}spool = {{ dir = "{tmp_path}" }}\n{INSTRUMENT}calibration = {{ id = "C-1", valid_until = 2020-01-31 }}\n{TARGET}'
    found = examined(text, machine=True)
    assert [problem.message for problem in found.warnings] == ["the calibration ended on 2020-01-31; runs are recorded all the same"]
    assert found.config is not None


def test_an_instrument_is_not_called_as_the_place_is_in_the_files(complaints: Complaints) -> None:
    assert complaints(HEAD + INSTRUMENT.replace("furnace", "name") + TARGET) == [
        'lab.toml:2:1: instrument.name: an instrument cannot be called "name": in the files this is the name of the place'
    ]


KEY = "age1w7qpecfn9u0asm03qsfx77xmvtz2spr3lwx8dgcxn2z6ax74gqzq46uzzl"
LANDING = '[target.cloud]\nlanding = "https://landing.example.ac.jp"\n'


def project(keys: str) -> str:
    return f"[projects.steel]\nencrypt_to = [{keys}]\n"


@pytest.mark.parametrize("key", [KEY[:-1] + "x", "age1", "", "ssh-ed25519 AAAA", "age1pq1qqqq", KEY.replace("age", "edge"), "鍵"])
def test_a_key_that_is_none_is_told_and_how_to_make_one(complaints: Complaints, key: str) -> None:
    (said,) = complaints(HEAD + INSTRUMENT + TARGET + project(f'"{KEY}", "{key}"'))
    assert said.endswith('encrypt_to[1]: is no public key such as "age1..."; edge-agent project-key new makes one')


def test_a_secret_key_in_a_configuration_is_refused_and_never_repeated(complaints: Complaints) -> None:
    from edge_agent.wire.envelope import new_key

    secret, _ = new_key()
    for written in (secret, secret.lower()):
        (said,) = complaints(HEAD + INSTRUMENT + TARGET + project(f'"{written}"'))
        assert "is a secret key, which never belongs here: it is spoilt" in said
        assert secret[20:].lower() not in said.lower()


def test_a_project_without_a_key_where_encryption_is_asked_for_is_a_warning(complaints: Complaints) -> None:
    strict = TARGET + 'encrypt = "closed"\n'
    (said,) = complaints(HEAD + 'project = "iron"\n' + INSTRUMENT + strict + "[projects.steel]\n")
    assert said.endswith("target.nas.encrypt: warning: no encrypt_to is given for steel, iron: what must be encrypted waits here")
    assert complaints(HEAD + 'project = "steel"\n' + INSTRUMENT + strict + project(f'"{KEY}"')) == []


@pytest.mark.parametrize("targets", [LANDING, TARGET + 'encrypt = "never"\n' + LANDING])
def test_a_key_that_nothing_is_encrypted_to_is_a_warning(complaints: Complaints, targets: str) -> None:
    (said,) = complaints(HEAD + INSTRUMENT + targets + project(f'"{KEY}"'))
    assert said.endswith("projects.steel.encrypt_to: warning: no target encrypts: what a landing service gets, it can read")
    assert complaints(HEAD + INSTRUMENT + targets + TARGET.replace("nas", "disk") + project(f'"{KEY}"')) == []


def test_a_detector_whose_geometry_cannot_be_is_told_so(complaints: Complaints) -> None:
    table = "[instrument.furnace.nxmx]\nwavelength = -1\npixel_size = [0.075]\nfast_direction = [1, 1, 0]\nslow_direction = [0, nan, 0]\n"
    assert complaints(HEAD + INSTRUMENT + table + TARGET) == [
        "lab.toml:7:14: instrument.furnace.nxmx.wavelength: must be > 0.0",
        "lab.toml:8:14: instrument.furnace.nxmx.pixel_size.1: is missing",
        "lab.toml:9:18: instrument.furnace.nxmx.fast_direction: is no unit vector: the squares of its three numbers must sum up to 1",
        "lab.toml:10:22: instrument.furnace.nxmx.slow_direction[1]: must be <= 1.0",
    ]
