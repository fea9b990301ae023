"""The crash: SIGKILL between any two system calls of a process that adds, proves and frees."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from edge_agent.spool import Spool

CHILD = Path(__file__).with_name("kill_child.py")
TARGETS = {"cloud", "disk"}


def work_and_kill(folder: Path, steps: int) -> list[str]:
    """Let the child say so many steps, kill it, and return all that it said."""
    with subprocess.Popen([sys.executable, str(CHILD), str(folder)], stdout=subprocess.PIPE, cwd=Path.cwd()) as child:
        assert child.stdout is not None
        said = []
        for line in child.stdout:
            said.append(line.decode().strip())
            if len(said) > steps:
                break
        child.kill()
        said += [line.decode().strip() for line in child.stdout]
    assert said[0] == "ready", "the child did not start; it has to reopen what the last kill left"
    return said[1:]


def check(folder: Path, said: list[str]) -> None:
    spool = Spool(folder / "spool")
    assert spool.ledger.audit() == []
    assert all(t.discrepancy == 0 for t in spool.ledger.totals().values())
    log = [line.split() for line in (folder / "agent-log").read_text().splitlines()]
    announced = {item_id for item_id, _ in log}
    assert all(set(targets.split(",")) == TARGETS for _, targets in log), "freed with a proof missing"
    added = {line.split()[1] for line in said if line.startswith("added")}
    for item_id in added:
        item = spool.outbox.item(item_id)
        assert item is not None, f"{item_id} was durable and is gone"
        assert item.path.exists() or item_id in announced, f"the file of {item_id} went without an entry in the agent log"
    for line in said:
        if line.startswith("proved"):
            _, item_id, target = line.split()
            (delivery,) = [d for d in spool.outbox.deliveries(item_id) if d.target == target]
            assert delivery.state == "proved"
            assert delivery.receipt is not None
    for item_id in announced:
        assert {d.target for d in spool.outbox.deliveries(item_id) if d.state == "proved"} == TARGETS
    proofs = [line for line in said if line.startswith("proved")]
    assert len(proofs) == len(set(proofs)), "something was proved twice: a durable proof was forgotten"
    assert spool.state.last_run_no() >= max((int(i[1:]) for i in added), default=0)
    spool.close()


def test_kill_9_at_random_moments_loses_nothing_and_proves_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(20261124)
    said: list[str] = []
    (tmp_path / "agent-log").touch()
    for _ in range(15):
        said += work_and_kill(tmp_path, chance.randrange(1, 40))
        check(tmp_path, said)
    assert sum(line.startswith("released") for line in said) > 5
