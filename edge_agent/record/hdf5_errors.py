"""Tells a disk that refuses from a bug, when the call went through HDF5: the library wraps the system's error number into a text."""

from __future__ import annotations

import os
import re

from edge_agent.errors import DiskError
from edge_agent.storage import disk_error

_ERRNO = re.compile(r"errno = (\d+)")


def as_disk_error(doing: str, error: Exception) -> DiskError | None:
    """The `DiskError` behind an exception of h5py; None when the system refused nothing.

    Args:
        doing: what was tried, for the message.
        error: what h5py raised: an OSError with the number, or any other exception whose text has it.
    """
    if isinstance(error, DiskError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _ERRNO.search(str(error))) is not None:
        number = int(found[1])
    return None if number is None else disk_error(doing, OSError(number, os.strerror(number)))
