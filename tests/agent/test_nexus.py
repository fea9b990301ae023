"""Landed runs, an ordinary one and one of an area detector with its geometry, judged by pynxtools' validator in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from edge_agent.export.run_folder import open_run
from edge_agent.model import Block, Frame, Kind, Stream
from tests.environments import environment

HERE = Path(__file__).parent
PACKAGES = ("pynxtools==0.16.0", "hdf5plugin==7.1.0")
INSTRUMENTS = """
[instrument.camera]
adapter = "driven"
group = "bl"

[instrument.balance]
adapter = "driven"
group = "bl"
"""
KNOWN = """
[instrument.camera.nxmx]
source = "SPring-8"
wavelength = "cam1_Wavelength_RBV"
distance = 120.5
beam_center = [12.5, 8]
pixel_size = [0.075, 0.075]
fast_direction = [-1, 0, 0]
slow_direction = [0, -1, 0]
sensor_material = "Si"
sensor_thickness = 0.45
"""
TOLD = {"cam1_Wavelength_RBV": 0.9795, "Manufacturer": "Dectris", "model": "EIGER2", "exposure_s": 0.01}
OWN_FIELDS = {"outcome", "_fabrication"}
"""Fields and groups that docs/layout.md has beyond the definitions of NeXus; its attributes are on the groups and columns of streams."""
OWN_ATTRIBUTES = {
    "source_id", "source_uri", "source_type", "transport", "counted", "step", "missing", "origin", "start", "meaning", "reason", "target",
}  # fmt: skip


@pytest.fixture
def measure(configure: Callable[..., Path], start: Any, until: Any, adapters: Any, tmp_path: Path) -> Callable[..., Any]:
    """One run of a camera and a balance that landed; its folder."""

    async def run(table: str = "", facts: dict[str, Any] | None = None, *, rows: bool = True, **session: str) -> Path:
        agent = await start(configure(INSTRUMENTS + table))
        camera, balance = [await until(lambda name=name: adapters.SINKS.get(name)) for name in ("camera", "balance")]
        camera.describe(facts or {})
        images = camera.open(Stream("camera", "image", Kind.FRAMES, "<u2", (16, 24), counted=True, source_uri="pva://CAM:Image"))
        masses = balance.open(Stream("balance", "mass", Kind.ROWS, "<f8", unit="g", source_uri="serial:///dev/ttyUSB0"))
        opened = agent.desk.start("bl", project="p1", **session)
        now = time.time_ns()
        for number in range(3):
            assert images.offer(Frame(np.full((16, 24), number, "<u2"), number, now, now))
        if rows:
            await masses.put(Block(np.array([1.5]), np.array([now]), np.array([now])))
        await agent.desk.stop("bl")
        folder = tmp_path / "space" / opened.folder
        await until(lambda: (folder / "ro-crate-metadata.json").exists())
        return folder

    return run


def values(file: Path) -> dict[str, Any]:
    """Small datasets of NXmx below /entry."""
    paths = (
        "definition", "sample/name", "sample/depends_on", "source/name", "instrument/_beam/incident_wavelength", "instrument/camera/distance",
        "instrument/camera/sensor_material", "instrument/camera/sensor_thickness", "instrument/camera/beam_center_x",
        "instrument/camera/_module/data_size", "instrument/camera/_module/fast_pixel_direction", "instrument/camera/count_time",
    )  # fmt: skip
    with h5py.File(file) as opened:
        entry = opened["entry"]
        found = {path: entry[path][()] for path in paths if path in entry}
    return {path: value.decode() if isinstance(value, bytes) else value.tolist() for path, value in found.items()}


async def test_a_detector_whose_geometry_is_known_is_an_nxmx_in_segment_and_master(measure: Any) -> None:
    folder = await measure(KNOWN, TOLD, sample="lysozyme")
    (segment,) = folder.glob("*_camera_image_*.h5")
    for file in (segment, folder / f"{folder.name}.nxs"):
        assert values(file) == {
            "definition": "NXmx", "sample/name": "lysozyme", "sample/depends_on": ".", "source/name": "SPring-8",
            "instrument/_beam/incident_wavelength": 0.9795, "instrument/camera/distance": 120.5, "instrument/camera/sensor_material": "Si",
            "instrument/camera/sensor_thickness": 0.45, "instrument/camera/beam_center_x": 0.9375,
            "instrument/camera/_module/data_size": [16, 24], "instrument/camera/_module/fast_pixel_direction": 0.075,
            "instrument/camera/count_time": 0.01,
        }  # fmt: skip
        with h5py.File(file) as opened:
            assert opened["entry/instrument/camera/data"].shape == (3, 16, 24)
            place, axes = np.zeros(3), []
            axis = opened[opened["entry/instrument/camera/_module/fast_pixel_direction"].attrs["depends_on"]]
            while True:
                axes.append(axis.name)
                place += axis[()] * axis.attrs["vector"]
                if axis.attrs["depends_on"] == ".":
                    break
                axis = opened[axis.attrs["depends_on"]]
        assert place == pytest.approx([12.5 * 0.075, 8 * 0.075, 120.5]), "the first pixel, in mm, from the sample"
        assert axes == ["/entry/instrument/camera/_transformations/first_pixel", "/entry/instrument/camera/_transformations/distance"]
    told = next(each for each in open_run(folder).record["instruments"] if each["name"] == "camera")["detector"]
    assert (told["wavelength"], told["beamCenter"]) == (0.9795, [12.5, 8])
    with h5py.File(next(folder.glob("*_rows_*.h5"))) as opened:
        assert "definition" not in opened["entry"]


async def test_what_nobody_knows_of_a_detector_is_not_a_number_with_a_reason(measure: Any) -> None:
    folder = await measure('[instrument.camera.nxmx]\nwavelength = "cam1_Wavelength_RBV"\n', {"cam1_Wavelength_RBV": 0}, rows=False)
    with h5py.File(folder / f"{folder.name}.nxs") as opened:
        entry = opened["entry"]
        reasons = {path: entry[path].attrs["reason"] for path in (
            "instrument/_beam/incident_wavelength", "instrument/camera/_module/slow_pixel_direction", "source/name", "sample/name",
            "instrument/camera/sensor_thickness",
        )}  # fmt: skip
        assert np.isnan(entry["instrument/_beam/incident_wavelength"][()])
        assert np.isnan(entry["instrument/camera/_module/slow_pixel_direction"].attrs["vector"]).all()
        assert entry["sample/name"].asstr()[()] == entry["source/name"].asstr()[()] == "unknown"
        assert "distance" not in entry["instrument/camera"]
    assert list(reasons.values()) == [
        "the instrument does not say cam1_Wavelength_RBV", "not configured", "not configured", "no sample was named", "not configured",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def judge() -> Callable[[list[Path]], dict[str, Any]]:
    """What pynxtools says of files, by name; its environment is made once under ``.test-tools/``."""
    python = environment("pynxtools", *PACKAGES) / "python"

    def run(files: list[Path]) -> dict[str, Any]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HDF5", "PYTHON"))}
        command = [str(python), "-I", str(HERE / "validate_nexus.py"), *map(str, files)]
        done = subprocess.run(command, env=clean, cwd="/", capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return {Path(path).name: found for path, found in json.loads(done.stdout.splitlines()[-1]).items()}

    return run


def is_ours(path: str) -> bool:
    """Whether docs/layout.md has what NeXus' definitions do not know."""
    name = path.rpartition("/")[2]
    if not name.startswith("@"):
        return name in OWN_FIELDS
    return name.removeprefix("@") in OWN_ATTRIBUTES or name.startswith("@source_")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("table", "definition"),
    [("", "NXroot"), (KNOWN, "NXmx"), ("[instrument.camera.nxmx]\n", "NXmx")],
    ids=["ordinary", "detector", "detector of which nothing is known"],
)
async def test_pynxtools_finds_runs_valid(measure: Any, judge: Callable[[list[Path]], dict[str, Any]], table: str, definition: str) -> None:
    folder = await measure(table, TOLD, sample="lysozyme" if table == KNOWN else "", user="Hanako Yamada <0000-0002-1825-0097>")
    files = sorted([*folder.glob("*.h5"), *folder.glob("*.nxs")])
    assert len(files) == 3
    for name, found in judge(files).items():
        assert found["definition"] == ("NXroot" if "_rows_" in name else definition), name
        assert found["wrong"] == [], name
        assert [path for path in found["unknown"] if not is_ours(path)] == [], name
    with h5py.File(next(folder.glob("*_camera_image_*.h5")), "r+") as file:
        file["entry/start_time"][()] = "yesterday"
    (spoilt,) = judge(list(folder.glob("*_camera_image_*.h5"))).values()
    assert spoilt["wrong"], "the validator finds a time that is none"
