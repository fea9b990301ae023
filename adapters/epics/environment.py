"""Where the EPICS libraries look for PVs.

Invariants: PV Access is configured per client and never through the environment when addresses are given. Channel
Access (libca) has one client per process, which reads the environment once: the addresses of all instruments are merged
before its first use, and an address that comes later is refused with a warning rather than ignored in silence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator

from adapters.epics.config import Address, Scheme
from adapters.epics.repeater import keep_repeater_from_starting

CA_SEARCH_SECONDS = 60
"""Longest pause between two searches for a lost PV (libca's least); its default of 300 s is for beacons on the same net."""

PVA_PORT = 5075
PVA_SEARCH_PORT = 5076

log = logging.getLogger(__name__)

# Read by the EPICS libraries when their first thread begins. Where they may, as for root, they give theirs the priority of real time:
# one that calls back into Python twenty thousand times a second then stops whoever has the interpreter, to wait for it.
os.environ.setdefault("EPICS_ALLOW_POSIX_THREAD_PRIORITY_SCHEDULING", "NO")


class ChannelAccess:
    """The one Channel Access client of this process: the addresses asked for, and whether it is too late for more."""

    def __init__(self) -> None:
        self._addresses: dict[str, None] = {}
        self._started = False
        self._users = 0
        self._lock = threading.Lock()

    def add(self, addresses: Iterable[Address]) -> None:
        """Have libca search at these addresses, too, and no longer broadcast."""
        wanted = [str(address) for address in addresses if address.scheme in (None, "ca")]
        with self._lock:
            new = [text for text in wanted if text not in self._addresses]
            if new and self._started:
                log.warning(
                    "Channel Access is running already and will not look at %s: its addresses are read once a process; "
                    "restart the agent so that all addresses are known from the start",
                    ", ".join(new),
                )
                return
            self._addresses |= dict.fromkeys(new)

    def start(self) -> None:
        """Set the environment before the first channel is made; later calls do nothing."""
        with self._lock:
            if self._started:
                return
            self._started = True
            if self._addresses:
                given = os.environ.get("EPICS_CA_ADDR_LIST", "").split()
                os.environ["EPICS_CA_ADDR_LIST"] = " ".join(dict.fromkeys([*given, *self._addresses]))
                os.environ["EPICS_CA_AUTO_ADDR_LIST"] = "NO"
            os.environ.setdefault("EPICS_CA_MAX_SEARCH_PERIOD", str(CA_SEARCH_SECONDS))
            keep_repeater_from_starting()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Channels may be made inside; when nobody is inside any more, all are closed.

        They belong to the event loop that made them, which may be about to close, too.
        """
        self.start()
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                last = self._users == 0
            if last:
                import aioca

                aioca.purge_channel_caches()


channel_access = ChannelAccess()
"""libca keeps its state per process, and so do we."""


def pva_configurations(addresses: Iterable[Address]) -> tuple[dict[str, str], dict[str, str]] | None:
    """Two configurations of a PV Access client for these addresses; None when there are none and the environment decides.

    The first searches by UDP, at the port that is given and at the one where servers listen for searches by default. The second asks the
    port as a TCP name server, which servers on pvxs are. It comes second, and only for PVs that UDP did not find: servers on pvAccessCPP
    (areaDetector's) answer such a search and then leave the channel that is asked for on the same connection unanswered for ever.
    """
    wanted = [address for address in addresses if address.scheme in (None, "pva")]
    if not wanted:
        return None
    searched = dict.fromkeys(f"{a.host}:{port}" for a in wanted for port in (a.port or PVA_SEARCH_PORT, PVA_SEARCH_PORT))
    by_name = " ".join(f"{a.host}:{a.port or PVA_PORT}" for a in wanted)
    alone = {"EPICS_PVA_AUTO_ADDR_LIST": "NO"}
    return {"EPICS_PVA_ADDR_LIST": " ".join(searched), **alone}, {"EPICS_PVA_ADDR_LIST": "", "EPICS_PVA_NAME_SERVERS": by_name, **alone}


def where(addresses: Iterable[Address], scheme: Scheme) -> str:
    """Say where was looked, for messages: the addresses, or the variable that decides."""
    given = ", ".join(str(address) for address in addresses if address.scheme in (None, scheme))
    variable = f"EPICS_{scheme.upper()}_ADDR_LIST"
    return f"at {given}" if given else f"by broadcast and at {variable}={os.environ.get(variable, '')!r}"
