"""Names that become folders, files and topics on another machine: checked by an allow-list before anything else looks at them.

A remote path is ``project/group/date/run/name...``: at least five parts, NFC, `/` between them, each part a legal
file name on Linux and on Windows.
"""

from __future__ import annotations

import re
import unicodedata

from edge_agent.model import NAME

UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Item ids: they are file names at the landing service and the last part of an upload's URL."""

MAX_PART_BYTES = 200
MAX_PATH_BYTES = 1000
MIN_PARTS = 5
MAX_PARTS = 32

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_FORBIDDEN = frozenset('<>:"|?*\\')
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Unicode categories that a name must not hold: controls, bidirectional marks, surrogates, unassigned, line separators."""


class BadName(ValueError):
    """A name that is refused; the message says which and why."""


def check_upload_id(item_id: str) -> str:
    """The id, if it is 1 to 64 of ``A-Z a-z 0-9 _ -``.

    Raises:
        BadName: anything else.
    """
    if not UPLOAD_ID.fullmatch(item_id):
        raise BadName(f"upload id {item_id[:80]!r}: 1 to 64 of A-Z a-z 0-9 _ -")
    return item_id


def check_project(project: str) -> str:
    """The project's name, if it is one (`edge_agent.model.NAME`) that can be a folder.

    Raises:
        BadName: anything else.
    """
    if not NAME.fullmatch(project) or _RESERVED.fullmatch(project) or project.endswith("."):
        raise BadName(
            f"project {project[:80]!r}: 1 to 63 of A-Z a-z 0-9 _ . -, beginning with a letter or digit, no device name of Windows"
        )
    return project


def check_path(path: str, project: str) -> str:
    """The remote path, if it is safe to store below a project's space.

    Args:
        path: the whole path, the project first.
        project: the project that it must begin with.

    Raises:
        BadName: absolute, ``..``, empty parts, control characters, not NFC, too long, a name that Windows cannot
        hold, another project.
    """
    if unicodedata.normalize("NFC", path) != path:
        raise BadName(f"path {path[:120]!r}: not in Unicode NFC")
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise BadName(f"path {path[:60]!r}...: longer than {MAX_PATH_BYTES} bytes")
    parts = path.split("/")
    if not MIN_PARTS <= len(parts) <= MAX_PARTS:
        raise BadName(f"path {path[:120]!r}: wants {MIN_PARTS} to {MAX_PARTS} parts, project/group/date/run/name")
    for part in parts:
        _check_part(part)
    if parts[0] != check_project(project):
        raise BadName(f"path {path[:120]!r}: does not begin with its project {project!r}")
    return path


def _check_part(part: str) -> None:
    shown = part[:80]
    if part in ("", ".", ".."):
        raise BadName(f"path part {shown!r}: empty, '.' and '..' are refused")
    if any(unicodedata.category(c) in _INVISIBLE for c in part):
        raise BadName(f"path part {shown!r}: holds control or invisible characters")
    if _FORBIDDEN.intersection(part):
        raise BadName(f"path part {shown!r}: holds one of {''.join(sorted(_FORBIDDEN))}")
    if part[0] == " " or part[-1] in " .":
        raise BadName(f"path part {shown!r}: begins or ends with a blank, or ends with a dot")
    if _RESERVED.fullmatch(part):
        raise BadName(f"path part {shown!r}: a device name of Windows")
    if len(part.encode()) > MAX_PART_BYTES:
        raise BadName(f"path part {shown!r}...: longer than {MAX_PART_BYTES} bytes")
