"""The commented configuration that ``edge-agent init`` writes; it passes a check on the machine that it was written for."""

from __future__ import annotations

import json
import os
import re
import socket
from importlib.resources import files
from pathlib import Path

from edge_agent.config.models import default_spool
from edge_agent.errors import PermissionRefused, UsageError
from edge_agent.words import language, t


def template(site: str, spool: Path, space: Path) -> str:
    """The text, commented in the reader's language; ``space`` is the folder of the first target."""
    text = (files("edge_agent.config") / "templates" / f"{language()}.toml").read_text(encoding="utf-8")
    for place, value in (("@SITE@", site), ("@SPOOL@", str(spool)), ("@SPACE@", str(space))):
        text = text.replace(f'"{place}"', json.dumps(value, ensure_ascii=False))
    return text


def write_template(file: Path, *, force: bool = False) -> Path:
    """Write the template for this machine and user; the spool that it names.

    Raises:
        UsageError: the file is there already and ``force`` is not set (``CFG_EXISTS``).
        PermissionRefused: it cannot be written.
    """
    data = _data_folder()
    spool = data / "spool"
    text = template(_site(), spool, data / "space")
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as e:
        raise UsageError(
            t("{file} is there already.", file=file),
            try_=t("choose another name, or: edge-agent init {file} --force", file=file),
            code="CFG_EXISTS",
        ) from e
    except OSError as e:
        raise PermissionRefused(t("{file} cannot be written.", file=file), why=str(e.strerror or e), code="CFG_FILE") from e
    return spool


def _data_folder() -> Path:
    """The system's place for root, else the user's own (XDG Base Directory Specification)."""
    if os.name != "posix" or os.geteuid() == 0:
        return default_spool()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "edge-agent"


def _site() -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname().split(".")[0]).lstrip("_.-")[:63]
    return name or "site"
