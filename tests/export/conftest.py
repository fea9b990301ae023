"""A complete run folder made of a record, as it lands: the file that a viewer opens, a vendor's file, crate, manifest, sidecar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from edge_agent.export.run_folder import CRATE, MANIFEST, RunFolder, open_run
from edge_agent.provenance.crate import CrateFile, build_crate
from edge_agent.provenance.facts import RunRecord
from edge_agent.provenance.jsonld import canonical
from tests.provenance.conftest import bare_record, full_record, run_context

__all__ = ["bare_record", "full_record", "run_context"]

Make = Callable[[RunRecord], RunFolder]
UNITS = {"camera/frames": "counts", "balance/weight": "g", "balance/room": "dimensionless"}


def write_master(path: Path, record: RunRecord) -> None:
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry["provenance/data"] = canonical(record).decode()
        if isinstance(record.outcome, str):
            entry["outcome"] = record.outcome
        for key, unit in UNITS.items():
            group = entry.create_group(f"instrument/{key}")
            group.attrs["source_id"] = key
            values = group.create_dataset("value", data=np.zeros(2))
            values.attrs["units"] = unit
        counted = entry.create_group("completeness")
        counted["source_id"] = list(UNITS)
        counted["received"], counted["missing"], counted["gaps_of_unknown_size"] = [400, 200, 1], [3, 0, 0], [0, 1, 0]


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """``make_run(record)``: the folder of a run with this record, opened."""

    def make(record: RunRecord) -> RunFolder:
        name = f"{record.run_no:06d}"
        folder = tmp_path / name
        (folder / "files").mkdir(parents=True)
        write_master(folder / f"{name}.nxs", record)
        (folder / "files" / "スキャン a#1.txt").write_text("1 2 3\n")
        (folder / "preview.png").write_bytes(b"\x89PNG")
        (folder / f"{name}.hsc").write_bytes(b"signed")
        names = [f"{name}.nxs", "files/スキャン a#1.txt", "preview.png"]
        digests = {each: hashlib.sha256((folder / each).read_bytes()).digest() for each in names}
        encodings = dict(zip(names, ("application/x-hdf5", "text/plain", "image/png"), strict=True))
        crate = build_crate(record, [CrateFile(n, (folder / n).stat().st_size, d, encodings[n]) for n, d in digests.items()])
        (folder / CRATE).write_bytes(crate)
        digests[CRATE] = hashlib.sha256(crate).digest()
        (folder / MANIFEST).write_text("".join(f"{digest.hex()}  {each}\n" for each, digest in sorted(digests.items())))
        return open_run(folder)

    return make
