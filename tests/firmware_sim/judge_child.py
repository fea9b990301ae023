"""Reads a project space and compares it with truth files, in a process of its own: reading normally needs hdf5plugin, which the tests keep out.

Standard input: {"folder": PATH, "truths": {NAME: PATH}, "streams": {NAME: [STREAM]}, "keys": ...} as JSON; standard output: a pickle of plain values.
"""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict
from pathlib import Path

from edge_agent.demo.judge import Landed, judge
from edge_agent.demo.space import read_space
from firmware_sim.truth import read_truth

asked = json.load(sys.stdin)
folder = Path(asked["folder"])
# Complete where they landed, else where they wait.
complete = {path.parent.name: path.parent for path in (folder / "space").rglob("ro-crate-metadata.json")}
waiting = {path.name: path for path in (folder / "spool" / "runs").iterdir() if path.name not in complete}
landed: dict[str, Landed] = {}
for _, run in sorted((complete | waiting).items()):
    for key, more in read_space(run).items():
        one = landed.setdefault(key, more)
        if one is not more:
            for name in ("numbers", "digests", "values", "times", "gaps"):
                getattr(one, name).extend(getattr(more, name))
            one.files |= more.files
truths = {name: read_truth(path) for name, path in asked["truths"].items()}
verdicts = {
    key: asdict(judge(truths[name], stream, landed.get(key)))
    for name in truths
    for stream in asked["streams"][name]
    for key in [asked.get("keys", {}).get(name, {}).get(stream, f"{name}/{stream}")]
}
sys.stdout.buffer.write(pickle.dumps(({key: asdict(one) for key, one in landed.items()}, verdicts)))
