"""What a filter that is registered too late does to a file, and that the process that records keeps it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DATASET = """
import os, sys
os.environ["HDF5_PLUGIN_PATH"] = "::"
import h5py
from h5py import h5d, h5p, h5s, h5t
create = h5p.create(h5p.DATASET_CREATE)
create.set_chunk((8,))
create.set_filter(32008, 1, (0, 4, 2, 0, 2))
with h5py.File(sys.argv[1], "x", libver=("earliest", "v110")) as file:
    h5d.create(file.id, b"data", h5t.NATIVE_UINT16, h5s.create_simple((0,), (h5s.UNLIMITED,)), dcpl=create)
    import hdf5plugin
try:
    with h5py.File(sys.argv[1]) as file:
        print(file["data"].shape)
except KeyError as error:
    print(error)
"""

GUARDED = """
import sys
from pathlib import Path
from edge_agent.segment import filters
from edge_agent.segment.file import SegmentFile

def refused():
    try:
        import hdf5plugin
    except ImportError as error:
        return str(error).splitlines()[0]

first, second = (SegmentFile(Path(sys.argv[1]) / name) for name in ("a.h5", "b.h5"))
first.abandon()
print(refused())
second.abandon()
if sys.argv[2] == "daemon":
    filters.forbid()
print(refused(), "hdf5plugin" in sys.modules)
"""
REFUSED = "hdf5plugin cannot be imported into the process that records."


def run(program: str, *arguments: str | Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_hdf5_breaks_the_header_of_a_dataset_whose_filter_is_registered_before_it_is_written(tmp_path: Path) -> None:
    """Not ours to mend; when HDF5 does not do so any more, the guard may go."""
    (said,) = run(DATASET, tmp_path / "a.h5")
    assert "filter name not null terminated" in said


def test_what_registers_filters_is_not_imported_while_a_segment_is_open(tmp_path: Path) -> None:
    assert run(GUARDED, tmp_path, "library") == [REFUSED, "None True"]


def test_a_daemon_never_imports_what_registers_filters(tmp_path: Path) -> None:
    assert run(GUARDED, tmp_path, "daemon") == [REFUSED, f"{REFUSED} False"]


def test_the_functions_of_such_a_package_are_there_all_the_same() -> None:
    program = """
from edge_agent.codec import decoder
from edge_agent.segment import filters
filters.forbid()
print(*(type(decoder(name)).__name__ for name in ("lz4", "blosc", "bitshuffle-lz4")))
"""
    assert run(program) == ["Lz4 Blosc BitshuffleLz4"]
