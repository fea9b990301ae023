"""NIMS RDE: the zip of RDE's ``rdeformat`` mode, and the invoice that goes with it.

Within the zip RDE copies files flat by base name, so paths become names with ``__``. Closed and shared data go to ``nonshared_raw``, which
RDE does not pass on. Nothing is sent: a person registers the two at RDE's entry screen, whose data-set template is made once with
`template` (rdetoolkit documentation, "rdeformat", "invoice", "metadata-def").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_agent.errors import UsageError
from edge_agent.export.run_folder import CRATE, RunFile, RunFolder, sha256_of, text
from edge_agent.export.zips import write_zip
from edge_agent.model import Access

LONGEST = 1024
"""Bytes of the longest text in ``metadata.json``."""
DATA = (".h5", ".nxs")
OWNER = "dataOwnerId"
ZIP_SHA256 = "zip_sha256"

FIELDS: dict[str, tuple[str, str]] = {
    "run_id": ("Run id", "ラン ID"),
    "run_number": ("Run number", "ラン番号"),
    "project": ("Project", "プロジェクト"),
    "proposal": ("Proposal", "課題番号"),
    "grant": ("Grant number", "体系的番号"),
    "funder": ("Funder", "助成機関"),
    "started": ("Start", "開始日時"),
    "ended": ("End", "終了日時"),
    "outcome": ("Outcome", "結果"),
    "operator": ("Operator", "測定者"),
    "operator_orcid": ("ORCID of the operator", "測定者の ORCID"),
    "organisation": ("Organisation", "所属機関"),
    "sample": ("Sample", "試料"),
    "sample_igsn": ("IGSN of the sample", "試料の IGSN"),
    "instruments": ("Instruments", "装置"),
    "access": ("Access", "公開区分"),
    "licence": ("Licence", "ライセンス"),
    "received": ("Items received", "受信数"),
    "missing": ("Items known to be missing", "欠落数"),
    "signature": ("Signature format", "署名の形式"),
    "software": ("Software", "ソフトウェア"),
}
"""What ``metadata.json`` has of a run, with names for people in English and Japanese."""


def export_rde(run: RunFolder, out: Path, base: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write ``<project>-<run>.zip`` and ``<project>-<run>.invoice.json`` into a folder.

    Args:
        run: what to export.
        out: the folder.
        base: the invoice as far as the site knows it: ``datasetId``, ``basic.dataOwnerId``, ``basic.instrumentId``, ``sample``...

    Raises:
        UsageError: the invoice lacks what RDE demands and no run knows.
    """
    invoice = _invoice(run, base)
    stem = f"{run.record['project']['name']}-{run.name}"
    out.mkdir(parents=True, exist_ok=True)
    archive, paper = out / f"{stem}.zip", out / f"{stem}.invoice.json"
    write_zip(archive, _members(run))
    invoice["custom"][ZIP_SHA256] = sha256_of(archive).hex()
    paper.write_text(json.dumps(invoice, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return archive, paper


def template(out: Path) -> None:
    """Write what an RDE data-set template needs to take these zips: ``tasksupport`` of the structuring program."""
    folder = out / "tasksupport"
    folder.mkdir(parents=True, exist_ok=True)
    names = {key: {"name": {"ja": ja, "en": en}, "schema": {"type": "string"}} for key, (en, ja) in FIELDS.items()}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://rde.nims.go.jp/rde/dataset-templates/edge-agent/invoice.schema.json",
        "type": "object", "required": ["custom"], "properties": {"custom": {
            "type": "object", "label": {"ja": "固有情報", "en": "Custom information"}, "required": ["run_id"],
            "properties": {
                "run_id": {"type": "string", "label": {"ja": "ラン ID", "en": "Run id"}, "description": "32 hex digits"},
                ZIP_SHA256: {"type": "string", "label": {"ja": "zip の SHA-256", "en": "SHA-256 of the zip"}, "description": "hex"},
            },
        }},
    }  # fmt: skip
    for name, content in (("metadata-def.json", names), ("invoice.schema.json", schema)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    settings = ("system:", "  extended_mode: rdeformat", "  save_raw: false", "  save_thumbnail_image: true", "")
    (folder / "rdeconfig.yaml").write_text("\n".join(settings), encoding="utf-8")


def _invoice(run: RunFolder, base: Mapping[str, Any]) -> dict[str, Any]:
    basic = dict(base.get("basic", {}))
    missing = [name for name in ("datasetId",) if not base.get(name)] + ([] if basic.get(OWNER) else [f"basic.{OWNER}"])
    if missing:
        raise UsageError(
            f"The invoice lacks {', '.join(missing)}", why="RDE demands it, and no run knows it",
            try_="write it into the file given with --invoice; RDE shows it on the data-set's page", code="EXPORT_INVOICE",
        )  # fmt: skip
    record, root = run.record, run.entity("./")
    basic.setdefault("dateSubmitted", run.ended[:10])
    basic.setdefault("dataName", str(root["name"]))
    basic.setdefault("experimentId", run.name)
    basic.setdefault("description", str(root["description"]))
    custom = {**base.get("custom", {}), "run_id": str(record["runId"])}
    return {**base, "basic": basic, "custom": custom}


def _members(run: RunFolder) -> Iterator[tuple[str, Path | bytes]]:
    raw = "raw" if run.label.access is Access.OPEN else "nonshared_raw"
    taken: set[str] = set()
    for file in run.files:
        yield f"{_place(file, raw)}/{_flat(file.name, taken)}", file.path
    yield f"structured/{_flat(CRATE, taken)}", run.folder / CRATE
    yield "meta/metadata.json", json.dumps({"constant": _metadata(run), "variable": []}, ensure_ascii=False, indent=2).encode() + b"\n"


def _place(file: RunFile, raw: str) -> str:
    if file.name == "preview.png":
        return "main_image"
    return raw if file.name.startswith("files/") or file.name.endswith(DATA) else "structured"


def _flat(name: str, taken: set[str]) -> str:
    """A base name of its own for a path."""
    flat = name.removeprefix("files/").replace("/", "__")
    number = 1
    while flat in taken:
        number += 1
        flat = f"{number}__{name.replace('/', '__')}"
    taken.add(flat)
    return flat


def _metadata(run: RunFolder) -> dict[str, dict[str, str]]:
    record = run.record
    project, person, sample = record["project"], record["operator"], record["sample"]
    known = {
        "run_id": record["runId"], "run_number": record["runNo"], "project": project["name"], "proposal": project["proposal"],
        "grant": project["grant"], "funder": project["funder"], "started": run.started, "ended": run.ended,
        "outcome": run.outcome, "operator": person.get("name"), "operator_orcid": person.get("orcid"),
        "organisation": record["organisation"]["name"], "sample": sample["name"], "sample_igsn": sample["igsn"],
        "instruments": ", ".join(instrument["name"] for instrument in record["instruments"]) or None,
        "access": run.label.access.value, "licence": record["policy"]["licence"],
        "received": run.received, "missing": run.missing,
        "signature": record["integrity"]["format"], "software": f"{record['software']['name']} {record['software']['version']}",
    }  # fmt: skip
    said = {key: text(value) for key, value in known.items()}
    return {key: {"value": _short(value)} for key, value in said.items() if value}


def _short(value: str) -> str:
    return value.encode()[:LONGEST].decode(errors="ignore")
