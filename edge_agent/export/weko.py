"""WEKO3 (JAIRO Cloud): a BagIt bag with an RO-Crate 1.1. `edge_agent.export.sword` deposits it.

What WEKO demands beyond the standards was read in its source (RCOSDP/weko, weko-swordserver, 2026-03): the crate stands in ``data/``, its
context is that of 1.1, its root has ``wk:publishStatus``, and has no ``identifier`` (which WEKO would take for one of its own items); the
bag must be valid (RFC 8493).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_agent.errors import UsageError
from edge_agent.export.repository import check
from edge_agent.export.run_folder import CRATE, MANIFEST, RunFolder
from edge_agent.export.zips import write_zip
from edge_agent.provenance.policy import ObjectKind

BAGIT = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
VISIBLE = ("private", "public")


def export_weko(run: RunFolder, out: Path, indexes: Sequence[str], visible: str = "private") -> Path:
    """Write ``<project>-<run>-weko.zip`` into a folder.

    Args:
        run: what to export.
        out: the folder.
        indexes: numbers of the WEKO indexes that the item goes into.
        visible: "private" or "public"; a person publishes, so "private" is the default.

    Raises:
        UsageError: no index, or one that is no number.
        PolicyRefused: it should be public, and the run is not open.
    """
    if not indexes or not all(index.isascii() and index.isdigit() for index in indexes):
        raise UsageError("An item needs at least one index", why=f"got {list(indexes)}", try_="--index 1623632832836", code="EXPORT_INDEX")
    if visible == "public":
        check(run, "the public", ObjectKind.DATA)
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"{run.record['project']['name']}-{run.name}-weko.zip"
    write_zip(archive, _bag(run, _crate(run, indexes, visible)))
    return archive


def _crate(run: RunFolder, indexes: Sequence[str], visible: str) -> bytes:
    """The crate with what WEKO wants to know of the item."""
    graph = [dict(entity) for entity in run.crate["@graph"]]
    root = next(entity for entity in graph if entity["@id"] == "./")
    root.pop("identifier", None)
    root |= {"wk:index": list(indexes), "wk:publishStatus": visible, "wk:editMode": "Keep"}
    listed = {entity["@id"] for entity in graph}
    for file in run.files:
        # The manifest, the signed statement and the receipts are made after the crate; here they travel with it.
        if (id_ := quote(file.name)) not in listed:
            root["hasPart"] = [*root["hasPart"], {"@id": id_}]
            graph.append({
                "@id": id_, "@type": "File", "name": file.name, "contentSize": str(file.size), "sha256": file.sha256.hex(),
                "encodingFormat": "text/plain" if file.name == MANIFEST else "application/cbor",
            })  # fmt: skip
    crate: Mapping[str, Any] = {**run.crate, "@graph": graph}
    return json.dumps(crate, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _bag(run: RunFolder, crate: bytes) -> Iterator[tuple[str, Path | bytes]]:
    manifest = {f"data/{file.name}": file.sha256.hex() for file in run.files} | {f"data/{CRATE}": hashlib.sha256(crate).hexdigest()}
    octets = sum(file.size for file in run.files) + len(crate)
    tags = {
        "bagit.txt": BAGIT,
        "bag-info.txt": f"Payload-Oxum: {octets}.{len(manifest)}\n".encode(),
        "manifest-sha256.txt": _lines(manifest),
    }
    yield from tags.items()
    yield "tagmanifest-sha256.txt", _lines({name: hashlib.sha256(content).hexdigest() for name, content in tags.items()})
    yield f"data/{CRATE}", crate
    for file in run.files:
        yield f"data/{file.name}", file.path


def _lines(digests: Mapping[str, str]) -> bytes:
    """RFC 8493, 2.1.3: line ends and the percent sign in names are written as percent codes."""
    quoted = {name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D"): digest for name, digest in digests.items()}
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(quoted.items())).encode()
