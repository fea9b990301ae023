"""What the tools of the NeXus community find in a landed run: nexusformat's check against the NeXus definitions, chexus, silx.

What they find stands here line by line, so that nothing is added unseen. Where a detector and a sample stand (`depends_on`) nobody told the agent. nexusformat reads a virtual dataset only where
each of its sources is one item, so it checks the segments and not the master.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import environment

ROOT = Path(__file__).parents[2]
PACKAGES = ("nexusformat==2.1.0", "chexus==26.9.0", "scipp==26.8.0", "silx==3.1.3", "hdf5plugin==7.1.0")
NXCHECK = "import hdf5plugin, sys; from nexusformat.scripts.nxcheck import main; sys.argv = ['nxcheck', sys.argv[1]]; main()"
SILX = """
import hdf5plugin, json, sys, silx.io
from silx.io import nxdata
with silx.io.open(sys.argv[1]) as file:
    plot, invalid = nxdata.get_default(file), []
    def look(name, node):
        if node.attrs.get("NX_class") == "NXdata" and not nxdata.NXdata(node).is_valid:
            invalid.append(name)
    file.visititems(look)
    print(json.dumps({"shape": plot.signal.shape, "axes": plot.axes_dataset_names, "invalid": invalid}))
"""
OF_THE_AGENT = {
    '"@layout" is not defined as an attribute in NXentry', '"@ordinal" is not defined as an attribute in NXentry',
    '"@series" is not defined as an attribute in NXentry', "Field: /entry/outcome", "This field is not defined in NXentry",
}  # fmt: skip
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PLACE = re.compile(r"(Filename|Path|Definitions|Total number of (warnings|errors)): |NX(root|entry|collection): ")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tools() -> Path:
    """The bin folder of an environment with the tools; made once under ``.test-tools/``."""
    return environment("nexus-tools", *PACKAGES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a landed run."""
    place = tmp_path_factory.mktemp("nexus") / "demo"
    command = [sys.executable, "-m", "edge_agent.cli", "demo", "--json", "--seconds", "4", "--dir", str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return place / "space" / json.loads(done.stdout)["runs"][0]["path"]


def said(*command: str | Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HDF5", "PYTHON"))}
    done = subprocess.run([str(part) for part in command], env=clean, cwd="/", capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return COLOUR.sub("", done.stdout)


def test_the_definitions_of_nexus_know_all_but_what_the_page_calls_the_agents_own(run: Path, tools: Path) -> None:
    for segment in sorted(run.glob("*.h5")):
        lines = {line.strip() for line in said(tools / "python", "-I", "-c", NXCHECK, segment).splitlines()} - {""}
        assert {line for line in lines if not PLACE.match(line)} == OF_THE_AGENT, segment.name


def test_chexus_misses_places_in_space_and_one_class(run: Path, tools: Path) -> None:
    for segment in sorted(run.glob("*.h5")):
        violations = said(tools / "chexus", segment).split("Violations\n----------\n")[1].split("\n\n")[0].splitlines()
        assert set(violations) <= {
            "depends_on_missing @ /entry/instrument/camera", "depends_on_missing @ /entry/sample",
        }, segment.name  # fmt: skip


def test_silx_plots_the_first_stream_at_once(run: Path, tools: Path) -> None:
    for path in sorted([*run.glob("*.h5"), *run.glob("*.nxs")]):
        plot = json.loads(said(tools / "python", "-I", "-c", SILX, path).splitlines()[-1])
        assert plot["invalid"] == [], path.name
        frames = "_rows_" not in path.name
        assert len(plot["shape"]) == (3 if frames else 1), path.name
        assert plot["axes"][0] == ("frame_number" if frames else "time_arrival"), path.name
