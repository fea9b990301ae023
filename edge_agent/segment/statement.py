"""Reads ``<run>.hsc`` and checks what it can prove alone: who signed the run statement, and that each segment has its close head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from edge_agent.seal import cose
from edge_agent.seal.cbor import SealError
from edge_agent.seal.keys import Trusted, check_chain, session_word
from edge_agent.seal.sidecar import RunStatement, Sidecar, parse_run, parse_sidecar
from edge_agent.segment.heads import downgraded, signed_head

MAX_SIDECAR = 512 << 20


@dataclass(frozen=True, slots=True)
class Stated:
    """A checked sidecar. ``heads`` maps the hash of each close head to its COSE; ``trusted`` is its checked key chain.

    ``path`` is the ``.hsc`` file and ``digest`` its SHA-256. ``downgrade`` says which signature is missing that a session record
    promises, empty when none is.
    """

    path: Path
    digest: bytes
    sidecar: Sidecar
    statement: RunStatement
    trusted: Trusted
    heads: dict[bytes, bytes]
    downgrade: str

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent


def sidecar_of(path: Path) -> Path:
    """The ``.hsc`` file of a run, given as that or as its folder.

    Raises:
        SealError: there is none, or more than one.
    """
    if path.is_file():
        return path
    found = sorted(path.glob("*.hsc"))
    if not found:
        raise SealError("no .hsc file in this folder: no run, or one that is still open")
    if len(found) > 1:
        raise SealError(f"{len(found)} .hsc files in this folder, where one belongs")
    return found[0]


def read_small(path: Path) -> bytes:
    """A file that is small by nature.

    Raises:
        SealError: it is not, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIDECAR + 1)
    except OSError as error:
        raise SealError(f"{path.name}: cannot be read: {error}") from error
    if len(data) > MAX_SIDECAR:
        raise SealError(f"{path.name}: larger than {MAX_SIDECAR} bytes")
    return data


def open_sidecar(path: Path, root: x509.Certificate | None) -> Stated:
    """The run statement and the close heads, each signed by a session key of the sidecar's own key chain.

    Raises:
        SealError: the first thing that does not hold.
    """
    return read_sidecar(read_small(path), path, root)


def read_sidecar(data: bytes, path: Path, root: x509.Certificate | None) -> Stated:
    """As `open_sidecar`, of its bytes; ``path`` is where the run is.

    Raises:
        SealError: the first thing that does not hold.
    """
    sidecar = parse_sidecar(data)
    trusted = check_chain(sidecar.chain, root)
    try:
        word = session_word(sidecar.statement, trusted, cose.RUN)
    except SealError as error:
        raise SealError(f"run statement: {error}") from error
    statement = parse_run(word.payload)
    if statement.agent_id != trusted.agent_id:
        raise SealError("run statement: names another agent than its key chain")
    if len({source for source, _, _ in statement.gaps}) != len(statement.gaps):
        raise SealError("run statement: counts the gaps of a source twice")
    for number, entry in enumerate(statement.segments, 1):
        if entry.ordinal != number:
            raise SealError(f"run statement: segment {entry.ordinal} stands where segment {number} belongs")
    heads, downgrade = _heads(sidecar, statement, trusted)
    downgrade = downgraded("the run statement", word.missing) or downgrade
    return Stated(path, hashlib.sha256(data).digest(), sidecar, statement, trusted, heads, downgrade)


def _heads(sidecar: Sidecar, statement: RunStatement, trusted: Trusted) -> tuple[dict[bytes, bytes], str]:
    places = {}
    heads = {}
    downgrade = ""
    for number, data in enumerate(sidecar.heads, 1):
        try:
            checked = signed_head(data, trusted, f"close head {number}")
        except SealError as error:
            raise SealError(f"close head {number}: {error}") from error
        places[checked.hash] = (checked.head.tree_id, int(checked.head.state))
        heads[checked.hash] = data
        downgrade = downgrade or checked.downgrade
    if not len(heads) == len(sidecar.heads) == len(statement.segments):
        raise SealError(f"{len(heads)} close heads for {len(statement.segments)} segments")
    for entry in statement.segments:
        if places.get(entry.head) != (entry.segment_id, entry.state):
            raise SealError(f"segment {entry.ordinal}: no close head for it")
    return heads, downgrade
