"""What both verifiers find in the golden vectors, as plain values that stand in ``findings.json``."""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from edge_agent.segment.joined import joined
from edge_agent.segment.levels import is_proof
from edge_agent.segment.proof import verify_proof
from edge_agent.segment.report import RunReport, SegmentReport
from edge_agent.segment.run import verify_run
from edge_agent.segment.run_slice import run_of, verify_run_slice
from edge_agent.segment.slice import SliceReport, parse_bounds, verify_slice, with_run
from edge_agent.segment.verify import verify_segment
from tests.independent import module

VECTORS = Path(__file__).parent / "vectors"
RUN = "run/000124/000124.hsc"


@dataclass(frozen=True, slots=True)
class Case:
    """A vector and how it is looked at. ``receipts`` stands in the place of the run's own."""

    path: str
    root: bool = True
    tsa: bool = False
    receipts: str = ""
    dataset: str = ""
    slice: str = ":"

    @property
    def name(self) -> str:
        """For people and as a key."""
        asked = [f"{self.dataset}[{self.slice}]"] if self.dataset else []
        return " ".join([self.path, *asked, *([self.receipts] if self.receipts else []), *(["tsa"] if self.tsa else []), *([] if self.root else ["no root"])])  # fmt: skip


CAMERA, WEIGHT = "/entry/instrument/camera/image/data", "/entry/instrument/balance/weight/value"


def cases() -> Iterator[Case]:
    """Everything that is asked of the vectors."""
    for path in sorted(p.name for p in VECTORS.iterdir() if p.name.endswith((".h5", ".h5.xz"))):
        yield Case(path.removesuffix(".xz"))
    yield Case("frames.h5", root=False)
    yield Case(RUN)
    yield Case(RUN, tsa=True)
    yield Case(RUN, root=False)
    for path in sorted((VECTORS / "run/receipts").iterdir()):
        yield Case(RUN, receipts=path.name)
    yield Case("frames.h5", dataset=CAMERA, slice="1:3")
    yield Case("flipped.h5", dataset=CAMERA, slice="0:2")
    yield Case("flipped.h5", dataset=CAMERA, slice="2:3")
    yield Case("epochs.h5", dataset=WEIGHT, slice="3:5")
    yield Case("run/000124/000124.nxs", dataset=CAMERA, slice="2:6")
    yield Case("run/000124/000124.nxs", dataset="/entry/data/data", slice="3:4,0:6")
    for path in ("run/slice.hsc1", "run/slice-changed.hsc1"):
        yield Case(path)
    yield Case("run/slice.hsc1", tsa=True)
    yield Case("run/slice.hsc1", root=False)


def unpack(folder: Path) -> Path:
    """A copy of the vectors, with those unpacked that are kept packed."""
    place = folder / "vectors"
    shutil.copytree(VECTORS, place)
    for packed in place.rglob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    return place


def put_receipts(place: Path, case: Case) -> None:
    """Put the receipts of a case beside the run."""
    source = place / "run/receipts" / case.receipts if case.receipts else VECTORS / "run/000124/000124.receipts"
    shutil.copy(source, place / "run/000124/000124.receipts")


def ours(place: Path, case: Case) -> tuple[dict[str, Any], str]:
    """What this project's verifier finds, and its sentences."""
    root = certificate(place / "root.pem") if case.root else None
    stampers = [certificate(place / "run/tsa-root.pem")] if case.tsa else []
    path = place / case.path
    report: RunReport | SegmentReport | SliceReport
    if case.dataset:
        report = _slice(path, case, root, stampers)
    elif is_proof(path):
        report = verify_proof(path, root, stampers)
    elif path.suffix == ".hsc":
        report = verify_run(path, root, tsa_roots=stampers, judge=verify_segment)
    else:
        report = verify_segment(path, root)
    warnings = report.warnings if isinstance(report, RunReport) else ()
    segments = len(report.segments) if isinstance(report, RunReport) else 1
    found = {"level": report.level}
    if report.level:
        found |= {"chunks": report.chunks}
        found |= {"segments": report.segments} if isinstance(report, SliceReport) else {}
        found |= {} if isinstance(report, SliceReport) else {"gaps": sum(gap.gaps for gap in report.gaps)}
        found |= {"amendments": len(report.amendments), "segments": segments} if isinstance(report, RunReport) else {}
    return found, "; ".join((report.reason, *warnings, *report.notes))


def _slice(path: Path, case: Case, root: x509.Certificate | None, stampers: list[x509.Certificate]) -> SliceReport:
    bounds, whole = parse_bounds(case.slice), run_of(path)
    if whole is None:
        return with_run(verify_slice(path, case.dataset, bounds, root), root, stampers)

    def judge(path: Path, dataset: str, text: str, root: x509.Certificate | None) -> SliceReport:
        return verify_slice(path, dataset, parse_bounds(text), root)

    return verify_run_slice(whole, case.dataset, bounds, root, judge=judge, sources=joined, tsa_roots=stampers).report


def independent(place: Path, case: Case) -> tuple[dict[str, Any], str]:
    """What the verifier that was written from the page finds, in the same form, and its sentence."""
    tool = module()
    roots = tool.load_roots(str(place / "root.pem") if case.root else None)
    if case.tsa:
        roots = tool.dataclasses.replace(roots, stampers=tool.load_roots(str(place / "run/tsa-root.pem")).certificates)
    path = str(place / case.path)
    (item, *_) = [tool.slice_item(path, roots, case.dataset, case.slice)] if case.dataset else tool.items([path], roots)
    found = {"level": item["level"]}
    if item["level"]:
        found |= {"chunks": item["chunks"]}
        found |= {"segments": item["segments"]} if item["kind"] == "slice" else {"gaps": item["gaps"]}
        if item["kind"] == "run":
            series = sum(1 for entry in tool.open_run(path, roots)[0]["segments"] if entry[2] is None)
            found |= {"amendments": len(item["amendments"]), "segments": item["segments"] - series}
    return found, item["reason"]


def certificate(path: Path) -> x509.Certificate:
    """A certificate in PEM."""
    return x509.load_pem_x509_certificate(path.read_bytes())
