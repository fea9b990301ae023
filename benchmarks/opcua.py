"""OPC-UA: what lands, signed and durable, beside a bare asyncua subscription that throws its values away.

``python -m benchmarks.opcua [--items N] [--rate N] [--seconds N] [--rounds N] [--dir DIR] [--json]``. One server of node-opcua (in its own
process, with ``--items`` counters that rise ``--rate`` times a second altogether) is asked by both in turn: ``bare`` is asyncua's
iterator mode, its queue as large as it will have it; ``agent`` is the whole daemon with its recorder. Both ask for the same publishing
and sampling interval and queue. At last the agent is made to lose values, by a queue that is too short: every number that its
counters skip must stand in its gaps, else there is no result, as in the rounds before. Needs node-opcua, which is installed under
``.test-tools`` as for the tests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Impossible, answer, in_turn, machine, middle, one, ratio
from firmware_sim.loopback import hold_port
from tests.adapters.opcua.node_peer import NodeServer, node_program

WAYS = ("agent", "bare")


@dataclass(frozen=True, slots=True)
class Result:
    """Notifications a second, medians over the rounds; ``ratio`` is the median of the ratios of each round.

    ``holes``: counter values that did not come, all rounds together, and ``declared`` how many of the agent's are in its gaps.
    ``forced``: values that were lost when losing was forced, all of them declared. ``cores``: processor time of the whole client, in cores.
    """

    offered: float
    items: int
    bare: float
    agent: float
    ratio: float
    bare_cores: float
    agent_cores: float
    bare_holes: int
    agent_holes: int
    declared: int
    forced: int
    machine: str
    command: str


def measure(items: int, rate: float, seconds: float, rounds: int, folder: str | None, *, quiet: bool = False) -> Result:
    """Both ways ``rounds`` times against one server.

    Raises:
        Impossible: a way failed, or a forced loss is not declared as it was.
    """
    every = 1000 * items / rate
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        server = NodeServer(node_program(), hold_port(), Path(scratch), {"pki": f"{scratch}/pki", "load": {"items": items, "every": every}})
        server.start()
        try:
            arguments = [server.endpoint, str(items), str(seconds), scratch]
            results = in_turn("benchmarks.opcua_ways", dict.fromkeys(WAYS, arguments), rounds, quiet=quiet)
            lossy = one("benchmarks.opcua_ways", "lossy", arguments)
        finally:
            server.close()
    agents, bare = results["agent"], results["bare"]
    if not lossy["holes"]:
        raise Impossible("no value is missing where losing was forced")
    for found in (lossy, *agents):
        missing, declared, early = found["holes"], found["declared"], found["early"]
        if not missing <= declared <= missing + early:
            raise Impossible(f"{missing} values are missing, and {early} more before the run; {declared} are declared")
    return Result(
        offered=rate, items=items,
        bare=round(middle(bare, "per_s")), agent=round(middle(agents, "per_s")), ratio=round(ratio(results, "agent", "bare", "per_s"), 3),
        bare_cores=round(middle(bare, "cores"), 2), agent_cores=round(middle(agents, "cores"), 2),
        bare_holes=sum(r["holes"] for r in bare), agent_holes=sum(r["holes"] for r in agents), declared=sum(r["declared"] for r in agents),
        forced=lossy["holes"],
        machine=machine(),
        command=f"python -m benchmarks.opcua --items {items} --rate {rate:g} --seconds {seconds:g} --rounds {rounds} --json",
    )  # fmt: skip


def show(result: Result) -> None:
    """For people."""
    print(f"offered {result.offered:,.0f} notifications/s of {result.items} variables; {result.machine}")
    print(
        f"{result.agent:10,.0f} /s landed, signed: {result.agent_cores:.2f} cores, {result.agent_holes} missing, {result.declared} declared"
    )
    print(f"{result.bare:10,.0f} /s thrown away by asyncua: {result.bare_cores:.2f} cores, {result.bare_holes} missing")
    print(f"{result.forced:10,} lost when losing was forced, each of them declared")
    print(f"{result.ratio:10.2f} agent / bare")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opcua", description=__doc__)
    parser.add_argument("--items", type=int, default=100, help="variables")
    parser.add_argument("--rate", type=float, default=20_000, help="changes a second, of all variables together")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", default=None, help="a folder on the disk to measure on")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return answer(
        lambda: measure(asked.items, asked.rate, asked.seconds, asked.rounds, asked.dir, quiet=asked.json), show, as_json=asked.json
    )


if __name__ == "__main__":
    sys.exit(main())
