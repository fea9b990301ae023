"""Flips single bits of one segment and says what the verifier and an ordinary reader make of it.

    python flipper.py SEGMENT ROOT EVERY

Reads byte offsets from standard input, one a line; answers each with ``OFFSET LEVEL WRONG REASON``. WRONG is 1 when the verifier still says
level 2 and any dataset, attribute, type or shape reads differently through h5py and hdf5plugin, or when ``tools/verify_hsc1.py`` says another
level; that one is asked about the offsets that EVERY divides. A process of its own, because some flips bring the HDF5 library down, or to
compute for ever, which ends it after `MOST_CPU`; its caller starts another one then.
"""

from __future__ import annotations

import gc
import hashlib
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters, as a researcher's program does

from edge_agent.segment.roots import load_root
from edge_agent.segment.verify import verify_segment
from tests.independent import module

MOST_CPU = 1.0
"""Seconds of computing for one flip, more than ten times what it needs: how busy the machine is does not matter."""


def content(path: Path) -> str:
    """A digest over everything that people read in the file."""
    digest = hashlib.sha256()

    def note(name: str, node: Any) -> None:
        digest.update(repr((name, type(node).__name__)).encode())
        for key, value in sorted(node.attrs.items()):
            digest.update(repr((key, value, getattr(value, "dtype", None))).encode())
        if isinstance(node, h5py.Dataset):
            digest.update(repr((node.dtype, node.shape, node.maxshape, node.chunks)).encode())
            data = node[()]
            digest.update(repr(data.tolist() if hasattr(data, "tolist") else data).encode())

    with h5py.File(path, "r") as file:
        note("/", file)
        file.visititems(lambda name, node: None if name.startswith("entry/integrity") else note(name, node))
        links: list[str] = []
        file.visititems_links(lambda name, link: links.append(f"{name} {type(link).__name__} {getattr(link, 'path', '')}"))
        digest.update(repr(sorted(name for name in links if "integrity" not in name)).encode())
    return digest.hexdigest()


def independent(path: Path, roots: Any) -> int:
    """The level of the other verifier, which would be read in a process of its own."""
    try:
        return 2 if module().verify_segment(str(path), roots, hashed=False)["trusted"] else 1
    except Exception:  # it answers level 0 for whatever goes wrong
        return 0


def main(segment: str, root: str, every: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    path, trusted, roots = Path(segment), load_root(Path(root)), module().load_roots(root)
    whole = path.read_bytes()
    known = content(path)
    gc.freeze()  # or the collector goes through all the modules every few flips
    for line in sys.stdin:
        offset = int(line)
        changed = bytearray(whole)
        changed[offset] ^= 1 << offset % 8
        path.write_bytes(changed)
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_CPU)
        report = verify_segment(path, trusted)
        wrong = report.level == 2 and content(path) != known
        if offset % int(every) == 0:
            wrong = wrong or independent(path, roots) != report.level
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.write(f"{offset} {report.level} {int(wrong)} {report.reason!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
