from __future__ import annotations

from importlib.metadata import Distribution
from pathlib import Path

from edge_agent import __version__
from edge_agent.provenance.facts import Absent
from edge_agent.provenance.software import build_digest, lock_digest, software

RECORD = """edge_agent/__init__.py,sha256=AAA,10
edge_agent/model.py,sha256=BBB,20
edge_agent_daq-0.1.0.dist-info/METADATA,sha256=CCC,30
edge_agent_daq-0.1.0.dist-info/RECORD,,
"""


def installed(folder: Path, record: str) -> Distribution:
    info = folder / "edge_agent_daq-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edge-agent-daq\nVersion: 0.1.0\n")
    (info / "RECORD").write_text(record)
    return Distribution.at(info)


def test_what_an_installer_adds_does_not_change_the_digest_of_the_program(tmp_path: Path) -> None:
    digest = build_digest(installed(tmp_path / "a", RECORD))
    added = "../../../bin/edge-agent,sha256=DDD,1\nedge_agent/__pycache__/model.cpython-311.pyc,,\nedge_agent_daq-0.1.0.dist-info/INSTALLER,sha256=E,4\n"
    assert build_digest(installed(tmp_path / "b", added + RECORD)) == digest
    assert build_digest(installed(tmp_path / "c", RECORD.replace("BBB", "XXX"))) != digest


def test_a_working_copy_has_no_digest_and_says_so(tmp_path: Path) -> None:
    record = "__editable__.edge_agent_daq.pth,sha256=AAA,10\nedge_agent_daq-0.1.0.dist-info/METADATA,sha256=CCC,30\n"
    assert build_digest(installed(tmp_path, record)) == Absent("the program runs from a working copy")


def test_this_program_says_its_version_and_what_is_installed_beside_it() -> None:
    made = software("bb" * 32)
    assert (made.name, made.version, made.config_digest) == ("edge-agent", __version__, "bb" * 32)
    assert made.lock_digest == lock_digest()
    assert len(lock_digest()) == 64
