"""What the forms for people and catalogues have in common, read once from a run: title, who, where, when, rights, funding, files.

Dates are days of UTC (``YYYY-MM-DD``). What nobody said is None; nothing is made up for a form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from edge_agent.export.amended import amended
from edge_agent.export.run_folder import CRATE, RunFolder, text
from edge_agent.model import Access
from edge_agent.provenance.crate import SPDX

JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
SPDX_PAGE = "https://spdx.org/licenses/"


@dataclass(frozen=True, slots=True)
class FileAbout:
    """A file: path in the run folder, bytes, SHA-256 in hex, media type."""

    name: str
    size: int
    sha256: str
    encoding: str


@dataclass(frozen=True, slots=True)
class About:
    """See the module. ``licence`` is an SPDX identifier, an address or words; ``licence_page`` its address, None for words."""

    urn: str
    title: str
    description: str
    name: str | None
    orcid: str | None
    organisation: str | None
    ror: str | None
    started: str
    ended: str
    access: Access
    embargo: date | None
    licence: str | None
    licence_page: str | None
    project: str
    proposal: str | None
    grant: str | None
    funder: str | None
    sample: str | None
    igsn: str | None
    instruments: tuple[Mapping[str, Any], ...]
    files: tuple[FileAbout, ...]

    @property
    def published(self) -> str:
        """The day on which the run ended."""
        return (self.ended or self.started)[:10]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def available(self) -> str | None:
        """The first day after the embargo."""
        return None if self.embargo is None else (self.embargo + timedelta(days=1)).isoformat()


def about(run: RunFolder) -> About:
    """Read a complete run."""
    record, root = amended(run), run.entity("./")
    person, place, project, sample, policy = (record[key] for key in ("operator", "organisation", "project", "sample", "policy"))
    licence, embargo = text(policy["licence"]), text(policy.get("embargoUntil"))
    return About(
        str(record["@id"]), text(record["title"]) or str(root["name"]), str(root["description"]), text(person.get("name")),
        text(person.get("orcid")), text(place["name"]), text(place["ror"]), run.started, run.ended, run.label.access,
        None if embargo is None else date.fromisoformat(embargo), licence, _page(licence), str(project["name"]), text(project["proposal"]),
        text(project["grant"]), text(project["funder"]), text(sample["name"]), text(sample["igsn"]), tuple(record["instruments"]),
        _files(run),
    )  # fmt: skip


def language(words: str) -> str:
    """``ja`` for a text with Japanese letters, else ``en``."""
    return "ja" if JAPANESE.search(words) else "en"


def family_and_given(name: str) -> tuple[str, str]:
    """A name in its two parts, the given one perhaps empty: Japanese names begin with the family's, others end with it."""
    if language(name) == "ja":
        family, _, given = name.replace("\u3000", " ").partition(" ")
    else:
        given, _, family = name.rpartition(" ")
    return family, given


def _page(licence: str | None) -> str | None:
    if licence is None or licence.startswith(("https://", "http://")):
        return licence
    return f"{SPDX_PAGE}{licence}" if SPDX.fullmatch(licence) else None


def _files(run: RunFolder) -> tuple[FileAbout, ...]:
    """Everything in the folder but the crate, which is a form itself."""
    listed = {e["name"]: e["encodingFormat"] for e in run.crate["@graph"] if e.get("@type") == "File"}
    return tuple(
        FileAbout(file.name, file.size, file.sha256.hex(), listed.get(file.name) or _encoding(file.name))
        for file in run.files
        if file.name != CRATE
    )


def _encoding(name: str) -> str:
    return "text/plain" if name.endswith(".txt") else "application/cbor"
