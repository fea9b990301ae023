"""Names that become folders and topics on another machine."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.wire.names import BadName, check_path, check_project, check_upload_id

RUN = "p/beamline/2026-11-24/000001"


@pytest.mark.parametrize(
    "name", ["a.nxs", "files/vendor/画像 1.dat", "files/Größe.txt", "a" * 200, "run.receipts", "files/a+b,c=d@e#f.txt"]
)
def test_names_that_people_use_are_taken(name: str) -> None:
    assert check_path(f"{RUN}/{name}", "p") == f"{RUN}/{name}"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("..", "refused"), (".", "refused"), ("", "refused"), ("a//b", "refused"), ("a/../b", "refused"), ("a/", "refused"),
        ("a\0", "invisible"), ("a\n", "invisible"), ("a\x7f", "invisible"), ("\u202egpj.exe", "invisible"), ("\u200bx", "invisible"),
        ("a\u2028b", "invisible"), ("\ud800", "invisible"),
        ("\U000e0001x", "invisible"), ("a:b", "holds one of"), ("a\\..\\b", "holds one of"),
        ("a?", "holds one of"), ("a*", "holds one of"), ('a"', "holds one of"), ("a<b", "holds one of"), ("a|b", "holds one of"),
        ("a.", "ends with a dot"), ("a ", "blank"), (" a", "blank"), ("CON", "device"), ("con.txt", "device"), ("Lpt1", "device"),
        ("com9.h5", "device"), ("nul", "device"), ("AUX.tar.gz", "device"), ("é" * 101, "longer"), ("e\u0301", "NFC"),
        ("/".join("x" * 30), "parts"), ("x/" * 900 + "x", "longer"),
    ],
)  # fmt: skip
def test_names_that_are_dangerous_somewhere_are_refused_with_the_reason(name: str, why: str) -> None:
    with pytest.raises(BadName, match=why):
        check_path(f"{RUN}/{name}", "p")


@pytest.mark.parametrize("path", ["", "p", "p/a/b/c", "/p/a/b/c/d", "p\\a\\b\\c\\d", "other/a/b/c/d", "../p/a/b/c", "p/../p/b/c/d"])
def test_paths_of_a_wrong_form_are_refused(path: str) -> None:
    with pytest.raises(BadName):
        check_path(path, "p")


@pytest.mark.parametrize("project", ["", ".", "..", "a/b", "-a", "a b", "é", "a" * 64, "con", "NUL.x", "a.", "a\n"])
def test_projects_that_are_no_names_are_refused(project: str) -> None:
    with pytest.raises(BadName):
        check_project(project)


@pytest.mark.parametrize("item_id", ["", "a/b", "a.b", "a b", "é", "x" * 65, "a\n", "+", "#", "$SYS"])
def test_upload_ids_are_safe_in_topics_urls_and_files(item_id: str) -> None:
    with pytest.raises(BadName):
        check_upload_id(item_id)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_whatever_is_taken_stays_below_its_project_on_linux_and_windows(name: str) -> None:
    try:
        path = check_path(f"{RUN}/{name}", "p")
    except BadName:
        return
    space = Path("/space")
    assert space.joinpath(*path.split("/")).resolve().is_relative_to(space / "p")
    windows = PureWindowsPath(r"C:\space", *path.split("/"))
    assert windows.parts[:3] == ("C:\\", "space", "p")
    assert not windows.is_reserved()
    assert unicodedata.is_normalized("NFC", path)
