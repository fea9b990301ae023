"""Whether a segment is what it says: asked of a short-lived worker process, because its HDF5 is foreign and may be hostile.

A worker that crashes, or takes too long, has judged: level 0. A worker that could not be started has not, and the
segment waits.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_agent.wire.refusal import Code, Refused

MODULE = "edge_agent.segment.worker"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a segment turned out to be: its level (docs/signed-chunks.md), the first thing wrong, and the facts inside it, all bytes."""

    level: int
    reason: str
    segment_id: bytes = b""
    head: bytes = b""
    agent_id: bytes = b""
    run_id: bytes = b""
    policy: bytes = b""


class Judge(Protocol):
    """Who verifies segments."""

    async def judge(self, path: Path) -> Verdict:
        """Verify the segment at ``path``.

        Raises:
            Refused: TROUBLE when it could not be judged at all.
        """
        ...


class WorkerJudge:
    """Runs ``python -m edge_agent.segment.worker`` once a segment; the worker limits its own memory and CPU time."""

    def __init__(self, root: Path, timeout: float = 900.0) -> None:
        self._root = root
        self._timeout = timeout

    async def judge(self, path: Path) -> Verdict:
        """See `Judge`."""
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", MODULE, str(path), "--root", str(self._root), "--json",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._timeout):
                out, err = await worker.communicate()
        except TimeoutError:
            return Verdict(0, f"verifying took longer than {self._timeout:g} s")
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
        if worker.returncode is not None and worker.returncode < 0:
            return Verdict(0, f"the file killed the verifier (signal {-worker.returncode})")
        if worker.returncode != 0:
            raise _no_verdict(err.decode(errors="replace")[-400:])
        return parse_verdict(out)


def _environment() -> dict[str, str]:
    # One thread: each thread of a linear algebra library reserves address space that the worker's limit would count.
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    code = str(Path(__file__).parents[1])
    return kept | {"PYTHONPATH": code, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PATH": "::"}


def parse_verdict(out: bytes) -> Verdict:
    """The verdict in a worker's JSON.

    Raises:
        Refused: TROUBLE when it is not one.
    """
    try:
        said = json.loads(out)
        facts = [bytes.fromhex(said.get(name) or "") for name in ("segment_id", "head", "agent_id", "run_id", "policy")]
        return Verdict(int(said["level"]), str(said["reason"]), *facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_verdict(f"{error}: {out[:200]!r}") from error


def _no_verdict(why: str) -> Refused:
    return Refused(
        Code.TROUBLE, "The landing service could not verify a segment", why=why, try_="its operator should look at the installation"
    )
