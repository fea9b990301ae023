"""What needs no folder: patterns, names, settling, the configuration."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.files import FilesConfig
from adapters.files.names import BadName, travel_name
from adapters.files.patterns import Selection
from adapters.files.ready import ReadyFiles
from adapters.files.scan import Seen
from adapters.files.settling import Settling
from edge_agent.config import examine
from edge_agent.wire.names import check_path

EXAMPLE = Path(__file__).parents[3] / "config" / "watched-folder.toml"


@pytest.mark.parametrize(
    ("include", "exclude", "path", "wanted"),
    [
        (["*"], [], "a/b/c.csv", True),
        (["*.csv"], [], "a/b/c.csv", True),
        (["*.csv"], [], "c.CSV", False),
        (["a/*.csv"], [], "a/c.csv", True),
        (["a/*.csv"], [], "a/b/c.csv", False),
        (["a/**/*.csv"], [], "a/b/b/c.csv", True),
        (["**/*.csv"], [], "c.csv", True),
        (["scan_[0-9]?.tif"], [], "scan_12.tif", True),
        (["scan_[!0-9].tif"], [], "scan_1.tif", False),
        (["*"], [".*"], ".hidden", False),
        (["*"], [".*"], ".git/config", False),
        (["*"], ["*.tmp"], "a.tmp/b", False),
        (["*"], ["old/*"], "old/a/b.csv", False),
        (["*"], ["old/*"], "new/b.csv", True),
        (["a[b"], [], "a[b", True),
    ],
)
def test_patterns_choose_files(include: list[str], exclude: list[str], path: str, wanted: bool) -> None:
    assert Selection(include, exclude).wants(path) is wanted


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.csv", "a/b.csv"),
        ("試料 1.csv", "試料 1.csv"),
        (unicodedata.normalize("NFD", "Größe.csv"), "Größe.csv"),
        ("12:30:01.csv", "12%3A30%3A01.csv"),
        ("50% done.csv", "50% done.csv"),
        ("50%3A.csv", "50%253A.csv"),
        (r"..\..\etc", "..%5C..%5Cetc"),
        ("aux.csv", "%61ux.csv"),
        ("CON/a?", "%43ON/a%3F"),
        ("ends.", "ends%2E"),
        (" begins", "%20begins"),
    ],
)
def test_names_are_made_safe_for_any_disk_and_can_be_made_back(path: str, name: str) -> None:
    assert travel_name(path) == name
    assert unquote(name) == unicodedata.normalize("NFC", path)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a\nb", "control or invisible characters"),
        ("a\x00b", "control or invisible characters"),
        ("a\u202eb", "control or invisible characters"),
        ("a\udcffb", "bytes that are not UTF-8"),
        ("../b", "'.' or '..'"),
        ("a//b", "an empty part"),
        ("x" * 201, "too long: at most 200 bytes a part"),
        ("/".join(["d" * 30] * 24), "700 in all"),
        ("/".join(["d"] * 25), "24 folders deep"),
    ],
)
def test_names_that_cannot_travel_are_refused_with_the_reason(path: str, why: str) -> None:
    with pytest.raises(BadName) as refused:
        travel_name(path)
    assert why in str(refused.value)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40), min_size=1, max_size=4))
def test_every_name_that_travels_is_one_that_the_landing_takes(parts: list[str]) -> None:
    try:
        name = travel_name("/".join(parts))
    except BadName:
        return
    check_path(f"p/xrd/2026-11-24/000001/files/{name}", "p")
    assert unquote(name) == unicodedata.normalize("NFC", "/".join(parts))


def seen(size: int = 1, mtime: int = 1, inode: int = 1) -> Seen:
    return Seen(Path("/f/a"), "a", size, mtime, inode)


def test_a_file_has_settled_when_it_stayed_the_same_for_the_whole_time() -> None:
    settling = Settling(2.0, 0.2)
    settling.see(seen(1), 10.0, 100)
    settling.see(seen(1), 11.0, 111)
    assert settling.due(11.9) == []
    assert [(c.seen, c.t) for c in settling.due(12.0)] == [(seen(1), 100)]


@pytest.mark.parametrize("change", [seen(size=2), seen(mtime=2), seen(inode=2)])
def test_any_change_begins_the_settling_again(change: Seen) -> None:
    settling = Settling(2.0, 0.2)
    settling.see(seen(), 10.0, 100)
    settling.see(change, 11.9, 119)
    assert settling.due(13.8) == []
    assert [(c.seen, c.t) for c in settling.due(13.9)] == [(change, 119)]


def test_a_closed_file_settles_sooner_and_never_later() -> None:
    settling = Settling(2.0, 0.2)
    settling.see(seen(), 10.0, 100, closed=True)
    assert settling.next_due() == pytest.approx(10.2)
    settling.see(seen(), 10.1, 101, closed=True)
    assert settling.next_due() == pytest.approx(10.2)


def test_what_was_taken_is_not_due_again_until_it_changes() -> None:
    settling = Settling(2.0, 0.2)
    settling.see(seen(), 0.0, 0)
    settling.took(seen())
    settling.see(seen(), 5.0, 5)
    assert settling.next_due() == math.inf
    settling.see(seen(size=9), 6.0, 6)
    assert settling.next_due() == 8.0


@pytest.mark.parametrize(
    ("template", "path", "ready"),
    [
        ("{name}.ready", "a/scan.raw", "a/scan.raw.ready"),
        ("{stem}.done", "scan.tar.gz", "scan.tar.done"),
        ("{stem}.done", "a/scan.done", None),
        ("DONE", "a/b/c.raw", "a/b/DONE"),
        ("{folder}.ready", "c.raw", "root.ready"),
        ("{folder}_{stem}.ok", "a/c.raw", "a/a_c.ok"),
        ("../{folder}.ready", "a/b/c.raw", "a/b.ready"),
        ("../{folder}.ready", "c.raw", None),
        ("../{folder}/{folder}.ready", "c.raw", ValueError),
    ],
)
def test_the_ready_file_of_a_file_is_found_by_its_names(template: str, path: str, ready: Any) -> None:
    if ready is ValueError:
        with pytest.raises(ValueError, match="names no ready file"):
            ReadyFiles(template, "root")
        return
    files = ReadyFiles(template, "root")
    assert files.of(path) == ready
    if ready is not None:
        assert files.is_one(ready)
        assert files.folder_of(ready) == path.rpartition("/")[0]


def test_files_that_are_gone_are_forgotten() -> None:
    settling = Settling(2.0, 0.2)
    settling.see(seen(), 0.0, 0)
    settling.took(seen())
    settling.keep_only([])
    settling.see(seen(), 1.0, 1)
    assert settling.next_due() == 3.0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"folder": " "}, 'must be a folder, as "/data/scans"'),
        ({"include": ["/abs/*.tif"]}, "is no pattern; write for example"),
        ({"include": []}, "at least 1 item"),
        ({"ready_suffix": "/x"}, "is no suffix"),
        ({"ready": "{name}"}, "names no ready file"),
        ({"ready": "done/{stem}.ok"}, "names no ready file"),
        ({"ready": "../DONE"}, "names no ready file"),
        ({"ready": "{file}.ok"}, "names no ready file"),
        ({"ready": "DONE", "ready_suffix": ".ready"}, "ready and ready_suffix say the same"),
        ({"settle": 2}, "2 is no duration; write for example"),
        ({"max_size": "10"}, "'10' is no size; write for example"),
        ({"together": [["{name}.img"]]}, "each entry needs two templates or more"),
        ({"together": [["*.img", "{name}.hdr"]]}, "'*.img' must hold {name} once"),
        ({"project_from": "users/*/**"}, "must hold {project} once and be a path below the folder"),
        ({"recurse": True}, "Extra inputs are not permitted"),
    ],
)
def test_keys_that_make_no_sense_are_refused_with_what_would(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FilesConfig.model_validate({"folder": "/data", **keys})
    assert said in refused.value.errors()[0]["msg"]


def test_the_example_configuration_is_right() -> None:
    found = examine(EXAMPLE)
    assert found.problems == ()
    assert found.config is not None
    settings = found.config.instruments["diffractometer"].settings
    assert isinstance(settings, FilesConfig)
    assert settings.folder == EXAMPLE.parent / "scans"
    assert settings.selection().wants("reports/2026/a.pdf")
