"""Plays back a vendor's program: its files, byte for byte, renamed into place when they are due, each with its own time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from firmware_sim.replay.landed import VendorFile
from firmware_sim.truth import TruthWriter


class FilesPart:
    """All vendor files of a run, below `folder/INSTRUMENT/`."""

    def __init__(self, folder: Path, truth: TruthWriter) -> None:
        self._folder = folder
        self._truth = truth

    def show(self, file: VendorFile) -> None:
        """Note and write one file."""
        place = self._folder / file.instrument / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.tmp")
        shutil.copyfile(file.path, temporary)
        os.utime(temporary, ns=(file.mtime, file.mtime))
        size = file.path.stat().st_size
        self._truth.item(f"{file.instrument}/files", self._truth.now(), path=file.name, size=size, sha256=file.digest)
        temporary.rename(place)
