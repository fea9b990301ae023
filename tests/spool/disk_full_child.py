"""Fills a real small disk to the last byte; run in a mount namespace of its own."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path

from edge_agent.model import ItemKind, Label, OutboxItem
from edge_agent.spool import DiskGuard, DiskLimits, DiskState, Spool

MIB = 1 << 20


def item(folder: Path, n: int, size: int) -> OutboxItem:
    path = folder / f"{n}.h5"
    path.write_bytes(bytes(size))
    return OutboxItem(f"i{n}", ItemKind.SEGMENT, path, f"p/{n}.h5", size, b"r" * 16, 1, "p", Label(), counts={"cam/frames": 1})


def main(mount: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mount)], check=True)
    folder = mount / "spool"
    spool = Spool(folder)
    guard = DiskGuard(folder, DiskLimits(keep_free=2 * MIB, max_size=None, soft=6 * MIB, hard=3 * MIB, reserve=MIB))
    seen: list[DiskState] = []
    n = 0
    while guard.state is not DiskState.PAUSED:
        spool.outbox.add(item(folder, n, MIB // 2), ["cloud"])
        n += 1
        report = guard.poll()
        if not seen or seen[-1] != report.state:
            seen.append(report.state)
        if report.state is not DiskState.PAUSED:
            assert (folder / "ballast").stat().st_blocks * 512 == MIB
    assert seen == [DiskState.OK, DiskState.SOFT, DiskState.HARD, DiskState.PAUSED], seen
    assert not (folder / "ballast").exists()
    spool.outbox.add(item(folder, n, 1000), ["cloud"])  # what was open can still be closed
    n += 1
    try:
        with (mount / "somebody-elses").open("wb", buffering=0) as other:
            while other.write(bytes(4096)):
                pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    refused = 0
    for k in range(200):
        try:
            spool.state.put(f"fill{k}", bytes(4000))
        except sqlite3.OperationalError as error:
            refused += "full" in str(error)
    assert refused, "the disk was never full"
    assert len(spool.outbox.items_of_run(b"r" * 16)) == n
    (mount / "somebody-elses").unlink()
    spool.state.put("after", b"again")
    spool.close()
    again = Spool(folder)
    assert not again.fresh
    assert again.state.get("after") == b"again"
    assert len(again.outbox.items_of_run(b"r" * 16)) == n
    assert again.ledger.audit() == []
    sys.stdout.write("sound\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
