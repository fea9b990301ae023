"""Texts that people give and that are kept in files: what a run is, who measured, why something was amended."""

from __future__ import annotations

import unicodedata

from edge_agent.errors import UsageError

MOST_TEXT = 1000


def check_text(what: str, text: str) -> None:
    """What is written into files and JSON: no control characters, nothing that is no text, not without end.

    Raises:
        UsageError: the text cannot be kept; ``what`` names it.
    """
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs")), None)
    if bad is not None:
        why = f"{bad!r} at {text.index(bad)}"
        raise UsageError(f"the {what} has a character that cannot be kept", why=why, try_="leave it out", code="TEXT")
    if len(text) > MOST_TEXT:
        why = f"{len(text)} characters, at most {MOST_TEXT}"
        raise UsageError(f"the {what} is too long", why=why, try_="put the rest into a file of the run", code="TEXT")
