"""Croissant 1.0 (docs.mlcommons.org/croissant): a run as a data set for machine learning, with the SHA-256 of each file.

The format has no way into HDF5 files, so they are file objects as they are; what came from each source, with its unit and how complete it
is, is a record set of its own with the rows in it.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from edge_agent.export.about import About, about
from edge_agent.export.run_folder import RunFolder

VERSION = "http://mlcommons.org/croissant/1.0"
JSON = "@json"
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/", "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/", "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": JSON}, "examples": {"@id": "cr:examples", "@type": JSON},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
} | {
    name: f"cr:{name}"
    for name in (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes",
        "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated",
        "replace", "samplingRate", "separator", "source", "subField", "transform",
    )
}  # fmt: skip
FIELDS = {
    "key": ("sc:Text", "instrument and stream"), "unit": ("sc:Text", "unit of its values; empty: nobody said one"),
    "received": ("sc:Integer", "frames, rows or files received"), "missing": ("sc:Integer", "known to be missing"),
    "unknown_gaps": ("sc:Integer", "gaps of unknown size"),
}  # fmt: skip


def croissant(run: RunFolder) -> bytes:
    """The metadata file, UTF-8 JSON."""
    said = about(run)
    made: dict[str, Any] = {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": VERSION, "name": said.title, "description": said.description,
        "url": said.urn, "version": "1.0.0", "datePublished": said.published, "creator": _creator(said), "publisher": _publisher(said),
        "license": said.licence_page or said.licence or "No licence is granted.", "citeAs": f"{said.title} ({said.urn})",
        "distribution": [_file(file.name, file.size, file.sha256, file.encoding) for file in said.files],
    }  # fmt: skip
    if run.streams:
        made["recordSet"] = [_streams(run)]
    return json.dumps({k: v for k, v in made.items() if v is not None}, ensure_ascii=False, indent=1).encode() + b"\n"


def _creator(said: About) -> dict[str, Any] | None:
    if said.name is None and said.orcid is None:
        return _publisher(said)
    found = {"@type": "sc:Person", "name": said.name or said.orcid}
    return found if said.orcid is None else found | {"url": f"https://orcid.org/{said.orcid}"}


def _publisher(said: About) -> dict[str, Any] | None:
    if said.organisation is None:
        return None
    found = {"@type": "sc:Organization", "name": said.organisation}
    return found if said.ror is None else found | {"url": said.ror}


def _file(name: str, size: int, sha256: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject", "@id": quote(name), "name": name, "contentUrl": quote(name), "contentSize": f"{size} B",
        "encodingFormat": encoding, "sha256": sha256,
    }  # fmt: skip


def _streams(run: RunFolder) -> dict[str, Any]:
    fields = [
        {"@type": "cr:Field", "@id": f"streams/{name}", "name": f"streams/{name}", "description": what, "dataType": kind}
        for name, (kind, what) in FIELDS.items()
    ]
    rows = [{f"streams/{name}": getattr(stream, name) for name in FIELDS} for stream in run.streams]
    return {
        "@type": "cr:RecordSet", "@id": "streams", "name": "streams", "description": "What came from each source, and how complete it is.",
        "key": {"@id": "streams/key"}, "field": fields, "data": rows,
    }  # fmt: skip
