"""ZIP files whose bytes depend on what is in them and on nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from edge_agent.export.run_folder import blocks

EPOCH = (1980, 1, 1, 0, 0, 0)


def write_zip(out: Path, members: Iterable[tuple[str, Path | bytes]]) -> None:
    """Store members uncompressed (data is compressed already), under a temporary name until all are there."""
    part = out.with_name(f".{out.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members:
                info = zipfile.ZipInfo(name, EPOCH)
                info.external_attr = 0o644 << 16
                with archive.open(info, "w", force_zip64=True) as target:
                    for block in [content] if isinstance(content, bytes) else blocks(content):
                        target.write(block)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
