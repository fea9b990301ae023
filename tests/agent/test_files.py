"""The daemon and a watched folder: what stands in a vendor's files reaches the landed HDF5 file byte for byte, and the preview."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from edge_agent.segment import peek

TOOL = Path(__file__).parents[2] / "tools" / "verify_hsc1.py"
Configure = Callable[..., Path]


def watched(vendor: Path, more: str) -> str:
    vendor.mkdir()
    return f'[instrument.vendor]\nadapter = "files"\ngroup = "bl"\nfolder = "{vendor}"\nsettle = "100 ms"\nrescan = "200 ms"\n{more}\n'


async def landed(agent: Any, until: Any) -> None:
    """Wait until every run is complete and nothing waits any more."""

    async def done() -> bool:
        status = await agent.status()
        return not status.runs and all(t.waiting == t.parked == 0 for t in status.targets)

    await until(done)


def columns(folder: Path, instrument: str = "vendor") -> dict[str, Any]:
    """``stream/column`` of an instrument over the segments of a run, as `peek` decodes the chunks."""
    found: dict[str, list[Any]] = {}
    for path in sorted([*folder.glob("*.h5"), *folder.glob("*.nxs")]):
        with h5py.File(path) as file:
            if "entry/integrity" not in file:
                continue
            home = f"entry/instrument/{instrument}"
            names: list[str] = []
            file[home].visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) and node.chunks else None)
            for name in names:
                found.setdefault(name, []).append(peek.rows(path, f"{home}/{name}"))
    return {name: np.concatenate(parts) for name, parts in found.items()}


async def verified(folder: Path, root: Path) -> None:
    """The independent verifier finds the whole run witnessed."""
    command = [sys.executable, TOOL, folder, "--root", root, "--level", "3"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_table_and_an_image_series_become_signed_chunks_with_the_values_of_the_files(
    configure: Configure, start: Any, until: Any, landing: Any, tmp_path: Path
) -> None:
    vendor = tmp_path / "vendor"
    ingest = 'ingest = { csv = ["*.csv"], tiff = ["*.tif"], keep = false, time = "when" }'
    agent = await start(configure(watched(vendor, ingest), f'[target.cloud]\nlanding = "{landing.url}"\n'))
    run = agent.desk.start("bl", project="p")
    angles = np.random.default_rng(7).normal(size=500)
    lines = [f"{1_795_000_000 + n},{angle!r},{n}" for n, angle in enumerate(angles.tolist())]
    table = "when,2theta (deg),counts\n" + "\n".join(lines) + "\n"
    (vendor / "scan.csv").write_text(table)
    images = {n: np.random.default_rng(n).integers(0, 65536, (40, 60), "<u2") for n in (1, 2, 4, 5)}
    for n, image in images.items():
        Image.fromarray(image).save(vendor / f"frame_{n:04d}.tif")
    totals = agent.keeper.totals
    await until(lambda: "vendor/file" in totals() and totals()["vendor/file"].arrived == 5)
    await agent.desk.stop("bl")
    await landed(agent, until)
    folder = landing.home.space / run.folder
    found = columns(folder)
    assert found["2theta/value"].tobytes() == angles.tobytes()
    assert found["counts/value"].tobytes() == np.arange(500, dtype="<f8").tobytes()
    assert found["counts/time"].tolist() == [(1_795_000_000 + n) * 10**9 for n in range(500)]
    order = np.argsort(found["image/frame_number"])
    assert found["image/frame_number"][order].tolist() == [1, 2, 4, 5]
    assert found["image/data"][order].tobytes() == b"".join(images[n].tobytes() for n in (1, 2, 4, 5))
    assert sorted(found["file/value"].tolist()) == [*(f"frame_{n:04d}.tif".encode() for n in images), b"scan.csv"]
    assert sorted(path.name for path in vendor.iterdir()) == [*(f"frame_{n:04d}.tif" for n in images), "scan.csv"]
    assert not (folder / "files").exists()
    await verified(folder, landing.home.root)
    with h5py.File(next(folder.glob("*_vendor_image_*.h5"))) as file:
        gaps = file["entry/instrument/vendor/image/gaps"]
        assert list(zip(gaps["first"][()].tolist(), gaps["last"][()].tolist(), strict=True)) == [(3, 3)]


async def test_a_vendors_picture_is_the_preview_of_its_run_and_its_header_stands_in_the_record(
    configure: Configure, start: Any, until: Any, landing: Any, tmp_path: Path
) -> None:
    vendor = tmp_path / "vendor"
    agent = await start(configure(watched(vendor, "headers = true"), f'[target.cloud]\nlanding = "{landing.url}"\n'))
    run = agent.desk.start("bl", project="p")
    picture = np.zeros((64, 64), "<u2")
    picture[:, 32:] = 60000
    Image.fromarray(picture).save(vendor / "sample.tif", description="sample 7")
    await until(lambda: "vendor/files" in agent.keeper.totals() and agent.keeper.totals()["vendor/files"].arrived == 1)
    await agent.desk.stop("bl")
    await landed(agent, until)
    folder = landing.home.space / run.folder
    assert (folder / "files/vendor/sample.tif").read_bytes() == (vendor / "sample.tif").read_bytes()
    drawn = np.asarray(Image.open(io.BytesIO((folder / "preview.png").read_bytes())).convert("L")).astype(int)
    middle = drawn[drawn.shape[0] // 2]
    assert abs(int(middle[len(middle) // 4]) - int(middle[3 * len(middle) // 4])) > 50, "the dark and the bright half are drawn"
    with h5py.File(folder / f"{run.name}.nxs") as file:
        assert '"sample 7"' in file["entry/provenance/data"].asstr()[()]
    await verified(folder, landing.home.root)
