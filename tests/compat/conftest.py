"""A file read by HDF5 libraries that are not ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compat.readers import READERS, ask, read


@pytest.fixture(params=READERS)
def version(request: pytest.FixtureRequest) -> str:
    """Each HDF5 version in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def reader_versions() -> tuple[str, ...]:
    """Every HDF5 version there is an environment for."""
    return tuple(READERS)


@pytest.fixture(scope="session")
def read_with() -> Callable[[str, Path], dict[str, Any]]:
    """``read_with(version, path)``: what `tests.compat.readers.read` gives."""
    return read


@pytest.fixture(scope="session")
def about_reader() -> Callable[[str], dict[str, Any]]:
    """Versions in the environment of an HDF5 version, and whether the project can be imported there (`project`)."""

    def about_reader(version: str) -> dict[str, Any]:
        found = ask(version, "--about")
        assert isinstance(found, dict)
        return found

    return about_reader
