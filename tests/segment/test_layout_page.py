"""docs/layout.md: its examples run as they stand, without the project, and a segment holds what its tables list and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.segment import types
from edge_agent.segment.master import Part, write_master

PAGE = (Path(__file__).parents[2] / "docs" / "layout.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def run_folder(shared_forge: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two frame segments, one of rows, one of tags, and their master."""
    folder = tmp_path_factory.mktemp("000123")
    builders = [
        shared_forge.frames(folder / "000123_camera_image_000001.h5", told=True),
        shared_forge.frames(folder / "000123_camera_image_000002.h5", ordinal=2, first=18),
        shared_forge.rows(folder / "000123_rows_000003.h5", ordinal=3, told=True),
        shared_forge.tags(folder / "000123_rows_000004.h5", ordinal=4),
    ]
    parts = []
    for builder in builders:
        dtypes = {path: types.numpy_dtype(dsd.type).str for path, dsd in builder.file.dsds.items()}
        builder.close()
        parts.append(Part(builder.file.path.name, builder.file.shapes, dtypes))
    write_master(folder / "000123.nxs", shared_forge.run, "BL05", "complete", "{}", parts)
    return folder


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_page_prints_what_stands_under_it(number: int, run_folder: Path) -> None:
    code, expected = EXAMPLES[number]
    assert len(code.splitlines()) <= 12
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=run_folder, env=env, timeout=200, check=False)
    assert done.stdout == expected, done.stderr


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == 6


def named_in(section: str) -> set[str]:
    """Names in the first column of the tables of a section."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    cells = (row.split("|")[1] for row in text.splitlines() if row.startswith("| `"))
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_object_of_a_segment_stands_in_the_tables_of_the_page(run_folder: Path) -> None:
    known = named_in("A segment") | named_in("Who, what, with what")
    listed = {name if name.startswith(("/", "_")) else f"/entry/{name}" for name in known}
    listed |= {name.rpartition("/")[0] for name in listed}
    about = {f"/{name}" for name in listed if name.startswith("_")}
    entry = {name for name in listed if name.startswith("/")}
    columns = named_in("A stream") | {"data", "value", "gaps"}
    tagged = {name.removeprefix("<table>/") for name in named_in("Tags")} | columns | {"f8"}
    unlisted = []

    def note(name: str, node: Any) -> None:
        path = f"/{name}"
        if path.startswith("/entry/integrity") or path in entry or any(path.endswith(end) for end in about):
            return
        parts = path.split("/")
        within_stream = path.startswith("/entry/instrument/") and (len(parts) <= 5 or set(parts[5:]) <= columns)
        within_tags = path.startswith("/entry/tags/") and set(parts[3:]) <= tagged
        if not (within_stream or within_tags):
            unlisted.append(path)

    for path in run_folder.glob("*.h5"):
        with h5py.File(path) as file:
            file.visititems(note)
    assert unlisted == []


def test_every_stream_has_the_attributes_and_columns_of_the_page(run_folder: Path) -> None:
    attributes = {"source_id", "source_uri", "source_type", "transport", "counted", "step", "NX_class"}
    columns = {"time", "time_server", "time_arrival", "valid", "status", "gaps"}
    for path in run_folder.glob("*.h5"):
        with h5py.File(path) as file:
            for instrument in (g for g in file["/entry/instrument"].values() if isinstance(g, h5py.Group)):
                for group in (g for name, g in instrument.items() if not name.startswith("_")):
                    own = {"data", "frame_number"} if "data" in group else {"value"}
                    assert attributes <= set(group.attrs)
                    assert columns | own <= set(group)
                    assert set(group) - columns - own <= {"sequence"}
                    lengths = {group[name].shape[0] for name in group if name != "gaps"}
                    assert len(lengths) == 1
                    datasets = [d for d in (*group.values(), *group["gaps"].values()) if isinstance(d, h5py.Dataset)]
                    assert all("units" in d.attrs for d in datasets if d.dtype.kind in "iuf")


def test_every_table_of_tags_has_the_columns_of_the_page_and_every_tag_a_line(run_folder: Path) -> None:
    with h5py.File(run_folder / "000123_rows_000004.h5") as file:
        tags = file["/entry/tags"]
        lines = {name for name, node in tags.items() if isinstance(node, h5py.Dataset)}
        assert lines == {"source_id", "table", "units", "source_uri", "source_type", "transport", "step", "attributes"}
        assert {tags[name].shape for name in lines} == {(2,)}
        assert set(tags["f8"]) == {"value", "tag", "time", "time_server", "time_arrival", "valid", "status"}
        assert {dataset.shape for dataset in tags["f8"].values()} == {(4,)}
        assert all("units" in d.attrs for d in (*tags["f8"].values(), *tags["gaps"].values()) if d.dtype.kind in "iuf")
        assert tags["gaps/source_id"].asstr()[()].tolist() == ["plc/TC02"]
        assert file["/entry/data/value"] == tags["f8/value"]


def test_the_judge_of_the_demo_reads_tags_as_the_page_says(run_folder: Path) -> None:
    code = (
        "import pathlib, edge_agent.demo.space as space\n"
        "found = space.read_space(pathlib.Path('.'))\n"
        "print(found['plc/TC01'].values, found['plc/TC02'].values, found['plc/TC02'].times[0], len(found['plc/TC02'].gaps))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=run_folder, timeout=200, check=False)
    assert done.stdout == "[7.0] [20.0, 20.5, 21.0] 1795000000000000000 1\n", done.stderr


def test_marks_of_the_page_are_those_of_the_model() -> None:
    from edge_agent.model import NO_SEQ, NO_TIME, Cause, Valid

    assert str(NO_TIME) in PAGE
    assert str(NO_SEQ) in PAGE
    assert all(f"`{cause.value}`" in PAGE for cause in Cause)
    assert [valid.value for valid in Valid] == [0, 1, 2, 3]
    assert np.datetime64(NO_TIME, "ns") != np.datetime64(NO_TIME, "ns")
