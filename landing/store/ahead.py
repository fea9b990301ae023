"""Digests of files that still grow: what is there already is read back and hashed while the rest is on its way.

Invariants: a digest is that of the bytes of a file from the first on, each read back once; it is used once, so whoever asks again reads
all of them again.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 256 << 10
"""Bytes: they are hashed out of the processor's cache."""


@dataclass(slots=True)
class _Known:
    """What was hashed of a file."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    digest: Any = field(default_factory=hashlib.sha256)
    size: int = 0

    def go_on(self, path: Path) -> None:
        with self.lock, path.open("rb", buffering=0) as file:
            file.seek(self.size)
            block = memoryview(bytearray(_BLOCK))
            while size := file.readinto(block):
                self.digest.update(block[:size])
                self.size += size


class Ahead:
    """Methods block, and are safe to call from several threads. All may raise `OSError`."""

    def __init__(self) -> None:
        self._known: dict[Path, _Known] = {}

    def read(self, path: Path) -> None:
        """Hash what came to a file since the last call."""
        self._known.setdefault(path, _Known()).go_on(path)

    def take(self, path: Path) -> tuple[bytes, int]:
        """SHA-256 and size of a file, whose rest is read now."""
        known = self._known.pop(path, None) or _Known()
        known.go_on(path)
        return known.digest.digest(), known.size

    def drop(self, path: Path) -> None:
        """The file is gone, or was begun anew."""
        self._known.pop(path, None)
