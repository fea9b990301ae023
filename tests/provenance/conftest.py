"""A record of a run with everything said, one with nothing said, and the validator of the RO-Crate community."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.model import Access, Label, Outcome, RunContext
from edge_agent.provenance.facts import RunRecord
from edge_agent.provenance.record import (
    Calibration,
    ClockFacts,
    Integrity,
    Organisation,
    Project,
    Software,
    Step,
    StreamFacts,
    build_record,
    instrument,
)
from tests.environments import environment

HERE = Path(__file__).parent
PACKAGES = ("roc-validator==0.13.0", "rocrate==0.16.0")
START = 1_795_000_000_123_456_789


def context(**changes: object) -> RunContext:
    values: dict[str, object] = {
        "run_id": bytes(range(16)), "run_no": 123, "project": "demo-project", "group": "beamline", "started_ns": START,
        "folder": "demo-project/beamline/2026-11-18/000123",
    }  # fmt: skip
    return RunContext(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def run_context() -> Callable[..., RunContext]:
    return context


@pytest.fixture
def bare_record() -> RunRecord:
    """What is known when nobody configured or said anything, while the run is open."""
    return build_record(context(), Software("edge-agent", "0.1.0"), (), ())


@pytest.fixture
def full_record() -> RunRecord:
    camera = instrument(
        "camera", "epics", "pva://BL05:EIG1:", "unauthenticated",
        described={"Manufacturer": "Dectris", "model": "EIGER2", "Serial": "E-32-0101", "gain": 1.5, "ticks": 2**60, "T": float("nan")},
        configured={"pid": "https://hdl.handle.net/21.T11148/abc", "type": "area detector", "landing_page": "https://example.org/eiger"},
        calibration=Calibration("flat-2026-10", "2027-10-01"),
    )  # fmt: skip
    streams = (
        StreamFacts(
            "camera/frames", "frames", "<u2", (512, 512), "counts", "pva://BL05:EIG1:", "PVA", "bitshuffle-lz4", 400, 3, 1, 0, True
        ),
        StreamFacts("balance/weight", "rows", "<f8", (), "g", "serial:///dev/ttyUSB0", "serial", "shuffle-zstd", 200, 0, 1, 1, False),
    )
    return build_record(
        context(
            label=Label(Access.SHARED, frozenset({"cloud", "disk"})), title="Si 重ね合わせ", user="https://orcid.org/0000-0002-1825-0097",
            sample="igsn:10.58052/IEXYZ0001",
        ),
        Software("edge-agent", "0.1.0", "aa" * 32, "bb" * 32, "cc" * 32), (camera,), streams,
        project=Project("demo-project", "2026B1234", "JP26K00001", "MEXT", "value", "ca://BL05:PROPOSAL"),
        organisation=Organisation("Facility", "https://ror.org/01x2y3z45"),
        steps=(Step("decode", "edge-agent", "0.1.0"), Step("sign", "edge-agent", "0.1.0")), clock=ClockFacts("chrony", -1500, 20000, True),
        ended_ns=START + 60 * 10**9, outcome=Outcome.COMPLETE, authority="project owner", licence="https://creativecommons.org/licenses/by/4.0/",
        integrity=Integrity(sidecar="000123.hsc"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def validate() -> Callable[[Path, str], list[str]]:
    """Issues that the validator finds in a folder, for a profile; its environment is made once under ``.test-tools/``."""
    python = environment("roc-validator", *PACKAGES) / "python"

    def run(crate: Path, profile: str) -> list[str]:
        done = subprocess.run(
            [str(python), "-I", str(HERE / "validate_crate.py"), str(crate), profile],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["passed"] == (not answer["issues"])
        return list(answer["issues"])

    return run
