"""An item in flight: what is known of it, and the check of its local file before it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import IntegrityError, TargetUnreachable
from edge_agent.model import OutboxItem


@dataclass(slots=True)
class Transfer:
    """An item in flight: bytes that the target has, of ``size``; ``started`` is on the engine's clock."""

    item: OutboxItem
    started: float
    sent: int = 0

    def progress(self, sent: int) -> None:
        """The callback that a target gets."""
        self.sent = sent


@dataclass(frozen=True, slots=True)
class TransferStatus:
    """An item in flight; ``rate`` is bytes per second since it began."""

    item_id: str
    remote: str
    size: int
    sent: int
    rate: float


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """What a lane does.

    ``state`` is ``idle``, ``sending``, ``waiting`` (unreachable), ``refused``, ``scheduled`` (its hours have not come) or ``stopped``.
    """

    target: str
    state: str
    in_flight: tuple[TransferStatus, ...]
    proved_items: int
    proved_bytes: int
    last_error: str
    retry_in: float | None
    detail: str


def check_local(path: Path, size: int) -> None:
    """Compare the file with its row.

    Raises:
        IntegrityError: it is gone or has another size.
        TargetUnreachable: the local disk does not answer (nothing to do with the target, but as passing).
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{path.name} is not in the spool any more.",
            why=str(error),
            try_="somebody removed it by hand: put it back and retry, or drop it with a reason (edge-agent quarantine)",
            code="SPOOL_FILE_GONE",
        ) from error
    except OSError as error:
        raise TargetUnreachable(f"{path.name} cannot be read now.", why=str(error), try_="check the spool's disk") from error
    if found != size:
        raise IntegrityError(
            f"{path.name} changed after it was sealed.",
            why=f"{found} bytes on the disk, {size} when it was sealed",
            try_="nothing was sent; verify the file (edge-agent verify) and check the disk",
            code="SPOOL_FILE_CHANGED",
        )
