"""Which program this is: its version, the digest of its installed files, and the digest of everything installed beside it.

Asked once a start: it reads the metadata of every installed package.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import Distribution, PackageNotFoundError, distributions

from edge_agent import __version__
from edge_agent.provenance.facts import Absent, Software, Text

DISTRIBUTION = "edge-agent-daq"


def software(config_digest: Text) -> Software:
    """This program, with the digest of its configuration (SHA-256, hex)."""
    try:
        build = build_digest(Distribution.from_name(DISTRIBUTION))
    except PackageNotFoundError:
        build = Absent("not installed from a package")
    return Software("edge-agent", __version__, build, config_digest, lock_digest())


def build_digest(installed: Distribution) -> Text:
    """SHA-256 over the sorted lines ``path sha256=...`` of the program's own modules, as its wheel lists them (PEP 376, PEP 427).

    The same wheel gives the same digest on every machine. A clone that is worked on (an editable install) has none.
    """
    listed = [f"{file} {file.hash.mode}={file.hash.value}" for file in installed.files or () if file.hash and _is_own(file.parts)]
    if not any(line.startswith("edge_agent/") for line in listed):
        return Absent("the program runs from a working copy")
    return hashlib.sha256("\n".join(sorted(listed)).encode()).hexdigest()


def lock_digest() -> str:
    """SHA-256 over the sorted lines ``name==version`` of every installed package: what a lock file would say."""
    lines = {f"{each.name.lower()}=={each.version}" for each in distributions() if each.name}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _is_own(parts: tuple[str, ...]) -> bool:
    """Whether it is a file of a package: not a script, nor metadata, which installers write themselves."""
    return len(parts) > 1 and not parts[0].startswith("..") and not parts[0].endswith(".dist-info") and "__pycache__" not in parts
