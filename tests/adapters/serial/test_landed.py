"""The whole way: what a landed run holds of a line, read with h5py and by docs/serial.md only."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
CONFIG = """\
site = "bench"
spool = {{ dir = "{folder}/spool", keep_free = "1 MB" }}
[instrument.scope]
adapter = "serial"
port = "{port}"
profile = "scpi"
on_connect = []
command = "CURV?"
every = "50 ms"
parse = "{{curve:block}}"
channels = {{ curve = {{ dtype = ">u2", unit = "count" }} }}
raw = true
[target.space]
folder = "{folder}/space"
"""


READ = """
import json, pathlib, sys
import h5py, hdf5plugin

def passed(stream, sent):
    status = stream["status"][:]
    rows = stream["value"][:][(status >= 256) == sent]
    return b"".join(row[: n & 255].tobytes() for row, n in zip(rows, status[(status >= 256) == sent]))

spectra, received, sent, about = [], b"", b"", {}
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.rglob("*_rows_*.h5")) or sorted(folder.rglob("*.nxs")):
    with h5py.File(path) as file:
        scope = file["/entry/instrument/scope"]
        spectra += scope["curve/value"][:].tolist() if "curve" in scope else []
        if "raw" in scope:
            about = {name: str(scope["raw"].attrs[name]) for name in ("source_type", "source_line", "source_uri")}
            received += passed(scope["raw"], False)
            sent += passed(scope["raw"], True)
print(json.dumps([spectra, received.hex(), sent.hex(), about]))
"""
"""`passed` stands in docs/serial.md. A process of its own: the filters must not get into that of the tests."""


@pytest.mark.slow
def test_spectra_of_two_lengths_and_all_bytes_of_the_line_land(cable: Any, tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    file = tmp_path / "agent.toml"
    file.write_text(CONFIG.format(folder=tmp_path, port=cable.path))
    short, long = b"#220" + struct.pack(">10H", *range(10)) + b"\n", b"#240" + struct.pack(">20H", *range(20)) + b"\n"
    command = [sys.executable, "-m", "edge_agent.cli"]
    with subprocess.Popen(
        [*command, "run", "--config", file], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as agent:
        try:
            assert agent.stdout is not None
            assert agent.stdout.readline()
            threading.Thread(target=agent.stdout.read, daemon=True).start()
            assert agent.stderr is not None
            threading.Thread(target=agent.stderr.read, daemon=True).start()
            subprocess.run([*command, "session", "start", "--project", "p", "--config", file], cwd=ROOT, check=True, capture_output=True)
            for answer in (short, long):
                before = len(cable.heard)
                cable.answers[b"CURV?"] = answer
                deadline = time.monotonic() + 60
                while len(cable.heard) < before + 6 and time.monotonic() < deadline:
                    time.sleep(0.02)
            subprocess.run([*command, "session", "stop", "--config", file], cwd=ROOT, check=True, capture_output=True)
            deadline = time.monotonic() + 60
            while not list((tmp_path / "space").rglob("ro-crate-metadata.json")) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            agent.terminate()
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / "space"], check=True, capture_output=True, text=True)
    spectra, received, sent, about = json.loads(done.stdout)
    lengths = [len(spectrum) for spectrum in spectra]
    assert all(spectrum == list(range(len(spectrum))) for spectrum in spectra)
    assert set(lengths) == {10, 20}
    assert lengths == sorted(lengths)
    # The last answer may have come when the run had ended for the values already, or for the bytes.
    whole = short * lengths.count(10) + long * (lengths.count(20) + 1)
    assert whole.startswith(bytes.fromhex(received))
    assert len(bytes.fromhex(received)) >= len(whole) - 2 * len(long)
    assert set(bytes.fromhex(sent).split()) == {b"CURV?"}
    assert about == {"source_type": "serial bytes", "source_line": "9600 8N1", "source_uri": f"serial:{cable.path}"}
