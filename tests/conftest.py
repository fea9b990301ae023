"""Shared by all tests: an unexpected ERROR in the log fails the test, and what cannot run here is named in the last line."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NOT_RUN = pytest.StashKey[dict[str, str]]()


@pytest.fixture(autouse=True)
def no_unexpected_errors(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    if request.node.get_closest_marker("expects_errors"):
        return
    records = [r for when in ("setup", "call") for r in caplog.get_records(when) if r.levelno >= logging.ERROR]
    assert not records, "unexpected ERROR in the log: " + "; ".join(r.getMessage() for r in records)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first, then those with the most tests, so that the workers end together. Take out tests whose ``needs`` are missing.

    But never in CI and never for root, who can install them.
    """
    seconds: Counter[Path] = Counter()
    tests: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += _seconds(item)
        tests[item.path] += 1
    items.sort(key=lambda item: (seconds[item.path], tests[item.path]), reverse=True)
    missing: dict[str, str] = {}
    if os.environ.get("CI") or _is_root():
        config.stash[NOT_RUN] = missing
        return
    kept = []
    for item in items:
        why = [_why(need) for mark in item.iter_markers("needs") for need in mark.args if _why(need)]
        if why:
            missing[item.nodeid] = ", ".join(why)
        else:
            kept.append(item)
    items[:] = kept
    config.stash[NOT_RUN] = missing


def pytest_collection_finish(session: pytest.Session) -> None:
    """A registered filter changes what HDF5 stores when the recorder creates a dataset: read landed files in a process of their own."""
    if "hdf5plugin" in sys.modules:
        raise pytest.UsageError("a test module imports hdf5plugin into the process of the tests")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The last line: each test that was not run, and why."""
    missing = config.stash.get(NOT_RUN, {})
    if missing:
        terminalreporter.write_line("not run here: " + "; ".join(f"{test} ({why})" for test, why in missing.items()))


def _seconds(item: pytest.Item) -> int:
    """What a slow test says of itself, else 20; 0 for the others, which keep their order."""
    mark = item.get_closest_marker("slow")
    return 0 if mark is None else mark.args[0] if mark.args else 20


def _why(need: str) -> str:
    if need == "root":
        return "" if _is_root() else "needs root"
    return "" if shutil.which(need, path=PLACES) else f"needs {need}"


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
