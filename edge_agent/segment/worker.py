"""Judges one foreign segment, or one slice of it, in a process of its own, with little memory, limited time and no core dump.

    python -m edge_agent.segment.worker FILE [--dataset PATH --slice 0:10] [--root ROOT] [--seconds N] [--memory BYTES] [--json]
    python -m edge_agent.segment.worker --wait

With ``--wait`` it loads everything, then reads those arguments as one line of JSON from standard input, so that loading costs nobody time.
Prints one JSON object (`SegmentReport.as_json` or `SliceReport.as_json`), with ``--json`` on one line, else indented for people. Exit
code 0 whenever it could judge. On Windows there are no limits and the object's notes say so. HDF5 can be brought down by a hostile
file: then this process dies, and whoever started it (`judge`) says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from cryptography import x509

from edge_agent.segment.report import Joined, SegmentReport, SliceReport
from edge_agent.segment.roots import load_root
from edge_agent.segment.verify import verify_segment

if sys.platform != "win32":
    import resource

SECONDS = 600
MEMORY = 2 << 30
NO_LIMITS = "this system has no resource limits: a hostile file could have used all memory"


def limit(seconds: int, memory: int) -> str:
    """Limit this process for good; returns a note when that is not possible.

    Args:
        seconds: processor time.
        memory: bytes of address space beyond what the interpreter and its libraries have mapped already.
    """
    note = NO_LIMITS
    if sys.platform != "win32":
        wanted = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_AS: _mapped() + memory,
            resource.RLIMIT_FSIZE: 1 << 20,
        }
        for kind, value in wanted.items():
            _, hard = resource.getrlimit(kind)
            least = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (least, least))
        note = ""
    return note


def _mapped() -> int:
    """Bytes of address space in use now; linear algebra libraries reserve some for each processor."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[str]) -> int:
    """Judge and print; see the module."""
    if arguments == ["--wait"]:
        line = sys.stdin.readline()
        if not line:
            return 0
        arguments = json.loads(line)
    parser = argparse.ArgumentParser(prog="python -m edge_agent.segment.worker", description="Judge one signed segment.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--dataset", help="judge a slice of this dataset only")
    parser.add_argument("--sources", help="say which segments a master file joins into this dataset")
    parser.add_argument("--slice", default=":", help="as 100:110,0:5; default: all of it")
    parser.add_argument("--root", type=Path, help="certificate of the facility's CA, PEM or DER")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="processor time")
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes of memory")
    parser.add_argument("--json", action="store_true", help="one line, for programs")
    given = parser.parse_args(arguments)
    root = load_root(given.root) if given.root else None
    note = limit(given.seconds, given.memory)
    report: SegmentReport | SliceReport | Joined
    if given.sources is not None:
        report, note = _joined(given.path, given.sources), ""
    elif given.dataset is None:
        report = verify_segment(given.path, root)
    else:
        report = _slice(given.path, given.dataset, given.slice, root)
    if note and not isinstance(report, Joined):
        report = dataclasses.replace(report, notes=(*report.notes, note))
    sys.stdout.write(json.dumps(report.as_json(), indent=None if given.json else 2) + "\n")
    return 0


def _slice(path: Path, dataset: str, text: str, root: x509.Certificate | None) -> SliceReport:
    # Only now: whole segments are what most workers judge.
    from edge_agent.segment.slice import parse_bounds, verify_slice

    return verify_slice(path, dataset, parse_bounds(text), root)


def _joined(path: Path, dataset: str) -> Joined:
    from edge_agent.segment.joined import joined

    return joined(path, dataset)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
