"""Works on a spool until it is killed: adds, proves and frees, and says each step on stdout only after it was durable."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from edge_agent.model import ItemKind, Label, OutboxItem, Proof, Receipt
from edge_agent.spool import Spool

TARGETS = ("cloud", "disk")


def main(folder: Path) -> None:
    spool = Spool(folder / "spool")
    log = os.open(folder / "agent-log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(line: str) -> None:
        os.write(1, f"{line}\n".encode())

    def before_free(item: OutboxItem, receipts: tuple[Receipt, ...]) -> None:
        os.write(log, f"{item.item_id} {','.join(r.target for r in receipts)}\n".encode())
        os.fsync(log)

    say("ready")
    while True:
        run = spool.state.next_run_no()
        path = folder / "spool" / f"{run}.h5"
        with path.open("wb") as file:
            file.write(str(run).encode() * 50)
            file.flush()
            os.fsync(file.fileno())
        size, run_id = path.stat().st_size, run.to_bytes(16, "big")
        item = OutboxItem(
            f"i{run}", ItemKind.SEGMENT, path, f"p/{run}.h5", size, run_id, run, "p", Label(), counts={"cam/frames": run}
        )  # fmt: skip
        spool.outbox.add(item, TARGETS)
        say(f"added {item.item_id}")
        for target in TARGETS:
            for _ in range(2):
                waiting = spool.outbox.next_for(target)
                if waiting is None or not spool.outbox.begin(waiting.item_id, target):
                    continue
                digest = hashlib.sha256(waiting.path.read_bytes()).digest()
                assert spool.outbox.proved(Receipt(target, waiting.item_id, digest, waiting.size, Proof.FSYNCED, 1))
                say(f"proved {waiting.item_id} {target}")
        if run % 3 == 0:
            spool.retention.release(before_free)
            say(f"released {run}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
