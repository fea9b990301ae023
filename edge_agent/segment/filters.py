"""Keeps HDF5 filters out of a process that writes segments.

A filter that is registered later breaks what is open: HDF5 measures the header message of a dataset's filters when the dataset is made,
when the filter has no name, and writes it when the file is flushed, with the name that the filter has by then: "filter name not null
terminated", and the dataset cannot be opened any more (HDF5 2.0; `tests/segment/test_filters.py`). And a dataset that is made afterwards
gets the filter's own values in place of those that are signed. Importing the packages below registers filters, so that is refused.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REGISTERING = frozenset({"hdf5plugin", "bitshuffle.h5"})

log = logging.getLogger(__name__)


class _Guard(MetaPathFinder):
    """The first to be asked for a module. ``always``: for the life of the process, else while a segment is open."""

    def __init__(self) -> None:
        self.always = False
        self.writing: weakref.WeakSet[object] = weakref.WeakSet()
        self.lock = threading.Lock()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Nothing: others find modules. Raises ImportError for those that register filters."""
        if fullname not in REGISTERING:
            return None
        with self.lock:
            refused = self.always or len(self.writing) > 0
        if refused:
            what = f"{fullname} cannot be imported into the process that records"
            why = "it registers HDF5 filters, which break the segments that are open"
            try_ = "decode in a process of its own, or call the filter's functions without registering it"
            log.warning("%s: %s", what, why, extra={"code": "HDF5_FILTERS"})
            raise ImportError(f"{what}.\n  why: {why}\n  try: {try_}", name=fullname)
        return None


_guard = _Guard()


def forbid() -> None:
    """From now on, for the life of this process."""
    _guard.always = True
    _install()


def writing(segment: object) -> None:
    """``segment`` is open for writing, until `written` is called or it is gone."""
    with _guard.lock:
        _guard.writing.add(segment)
    _install()


def written(segment: object) -> None:
    """``segment`` is closed."""
    with _guard.lock:
        _guard.writing.discard(segment)


def _install() -> None:
    if _guard not in sys.meta_path:
        sys.meta_path.insert(0, _guard)
