"""What goes to the screen: sentences, columns, JSON, and errors in one form.

Results go to standard output, progress and errors to standard error. With ``--json`` standard output holds exactly one JSON object,
also when the verb failed: ``{"ok": false, "error": {"what", "why", "try", "code", "exit_code"}}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from edge_agent.errors import EdgeAgentError
from edge_agent.words import explanation, language, t


def say(text: str = "") -> None:
    """One line, or several, to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line to standard error: progress, which is not the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def emit(value: Any) -> None:
    """One JSON value to standard output."""
    say(json.dumps(value, ensure_ascii=False, indent=2))


def columns(head: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Aligned columns, two blanks between them; Japanese characters count as two.

    Args:
        head: titles of the columns.
        rows: one sequence of ``len(head)`` cells a line.
        right: indices of the columns that are aligned to the right (numbers).
    """
    from rich.cells import cell_len

    lines = [[str(cell) for cell in line] for line in (head, *rows)]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(head))]

    def placed(index: int, cell: str) -> str:
        space = " " * (widths[index] - cell_len(cell))
        return space + cell if index in right else cell + space

    return "\n".join("  ".join(placed(index, cell) for index, cell in enumerate(line)).rstrip() for line in lines)


def error(e: EdgeAgentError, *, as_json: bool = False) -> int:
    """Print an error: what, why, what to try. Returns the exit code of its class."""
    lines = [t("Error: {what}", what=e.what)]
    lines += [f"  {line}" for line in e.why.splitlines()]
    known = explanation(e.code) if e.code != e.default_code else None
    if language() != "en" and known is not None:
        lines.append(f"  {known.meaning}")
    if e.try_:
        lines.append(t("Try: {what}", what=e.try_))
    note("\n".join(lines))
    if as_json:
        said = {"what": e.what, "why": e.why, "try": e.try_, "code": e.code, "exit_code": e.exit_code}
        emit({"ok": False, "error": said})
    return e.exit_code
