"""GakuNin RDM's form for publicly funded research data, filled as far as the run knows, for a draft registration over API v2.

RDM takes file metadata over cookies only, so the form travels as ``registration_responses`` of a draft: fields of the project, and
``grdm-files``, a JSON text that describes the run's folder. Names and choices are those of its schema (RCOSDP/RDM-osf.io,
e-rad-metadata-1.json, version 3). What the form demands and no run knows is listed, not invented.
"""

from __future__ import annotations

import json
from typing import Any

from edge_agent.export.about import About, about, family_and_given, language
from edge_agent.export.run_folder import RunFolder
from edge_agent.model import Access

SCHEMA = "公的資金による研究データのメタデータ登録"
SCHEMA_VERSION = 3
LICENCES = {
    "CC0-1.0": "CC0", "CC-BY-4.0": "CCBY", "CC-BY-SA-4.0": "CCBYSA", "CC-BY-ND-4.0": "CCBYND", "CC-BY-NC-4.0": "CCBYNC",
    "CC-BY-NC-SA-4.0": "CCBYNCSA", "CC-BY-NC-ND-4.0": "CCBYNCND", "MIT": "MIT", "Apache-2.0": "Apache2", "BSD-2-Clause": "BSD2",
    "BSD-3-Clause": "BSD3",
}  # fmt: skip
ACCESS = {Access.OPEN: "open access", Access.SHARED: "restricted access", Access.CLOSED: "metadata only access"}
METADATA_ACCESS = {Access.OPEN: "open access", Access.SHARED: "restricted access", Access.CLOSED: "closed access"}
PROJECT = ("japan-grant-number", "funder", "project-research-field")
"""What the form asks of the project."""
BOTH = ("title", "data-description", "hosting-inst")
"""Fields of which the form demands one of two languages."""
PEOPLE = ("data-man-name", "data-man-org")
"""The same, of the person who manages the data, whom no run knows."""


def rdm_form(run: RunFolder) -> bytes:
    """The draft, UTF-8 JSON: ``schema``, ``registration_responses``, and ``to_add``, what a person has to fill in."""
    said = about(run)
    known = _file(said)
    entry = {
        "path": f"osfstorage/{run_path(run)}/", "folder": True, "urlpath": "",
        "metadata": {f"grdm-file:{name}": {"extra": [], "comments": [], "value": value} for name, value in known.items()},
    }  # fmt: skip
    project = {"japan-grant-number": said.grant, "funder": said.funder}
    answers = {name: value for name, value in project.items() if value is not None}
    missing = [name for name in PROJECT if name not in answers]
    missing += ["grdm-file:data-policy-free"]
    missing += [f"grdm-file:{name}-ja" for name in (*BOTH, *PEOPLE) if not {f"{name}-ja", f"{name}-en"} & known.keys()]
    form = {
        "schema": {"name": SCHEMA, "version": SCHEMA_VERSION},
        "registration_responses": {**answers, "grdm-files": json.dumps([entry], ensure_ascii=False)},
        "to_add": missing,
    }
    return json.dumps(form, ensure_ascii=False, indent=1).encode() + b"\n"


def run_path(run: RunFolder) -> str:
    """The run's folder as it lands: project, group, date, number."""
    return "/".join(run.folder.resolve().parts[-4:])


def _file(said: About) -> dict[str, Any]:
    embargoed = said.embargo is not None
    made: dict[str, Any] = {
        "data-number": said.urn, "date-issued-updated": said.published, "data-research-field": "project", "data-type": "experimental data",
        "file-size": size_text(said.size),
        "data-policy-license": "NO_LICENSE" if said.licence is None else LICENCES.get(said.licence, "OTHER"),
        "access-rights": "embargoed access" if embargoed else ACCESS[said.access],
        "metadata-access-rights": METADATA_ACCESS[said.access],
        f"title-{language(said.title)}": said.title, f"data-description-{language(said.description)}": said.description,
        "remarks-en": f"signed by edge-agent, {said.urn}",
    }  # fmt: skip
    if said.available is not None:
        made["available-date"] = said.available
    if said.organisation is not None:
        made[f"hosting-inst-{language(said.organisation)}"] = said.organisation
    if said.ror is not None:
        made["hosting-inst-id"] = said.ror
    if said.name is not None:
        made["creators"] = [{"number": "", f"name-{language(said.name)}": _name(said.name)}]
    return made


def _name(name: str) -> dict[str, str]:
    last, first = family_and_given(name)
    return {"last": last, "middle": "", "first": first}


def size_text(size: int) -> str:
    """Bytes as the form takes them: ``1.5GB``."""
    value, unit = float(size), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"
