"""What goes out live: `may_send` before every value and every announcement, names included, and the messages that say it.

A value has the label of the runs that may take it, of all of them; between triggered runs that is not known before the look-back has
passed, so nothing goes out then. What a closed project refuses goes nowhere.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.config.models import Config
from edge_agent.model import NO_TIME, Block, ItemKind, Label, OutboxItem, Receipt, RunContext, Stream, Valid
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, may_send
from edge_agent.wire.broker import Broker
from edge_agent.wire.sinetstream import Word

if TYPE_CHECKING:
    # Where nothing goes out live, no MQTT client is loaded.
    from edge_agent.deliver.live import Live

LARGEST = 64
"""Elements of a value that goes out; larger ones are for files."""


class Broadcast:
    """All ``[live.NAME]`` tables together. Belongs to the event loop."""

    def __init__(self, config: Config) -> None:
        """One `Live` a table."""
        self._site = config.site
        self._lives: list[tuple[Live, Destination, bool]] = []
        for name, table in config.live.items():
            from edge_agent.deliver.live import Live

            tls = ssl.create_default_context(cafile=table.ca) if table.ca is not None else None
            password = None if table.password is None else table.password.reveal()
            parsed = Broker.parse(table.sinetstream, tls)
            broker = Broker(parsed.host, parsed.port, table.user, password, parsed.tls)
            live = Live(name, broker, table.topic or config.site, every=table.every)
            destination = Destination(name, DestinationKind.LIVE, jurisdiction=table.jurisdiction)
            self._lives.append((live, destination, table.values))

    def parts(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """What has to run, by name."""
        return {f"live {live.name}": live.run for live, _, _ in self._lives}

    def values(self, stream: Stream, block: Block, runs: list[RunContext]) -> None:
        """Rows that just came; ``runs`` may take them."""
        if not runs or not len(block) or math.prod(stream.shape) > LARGEST or any(run.refused for run in runs):
            return
        for live, destination, wanted in self._lives:
            if wanted and all(_may(run.label, destination, ObjectKind.LIVE, ObjectKind.NAME) for run in runs):
                live.value(stream.key, partial(self._value, stream, block))

    def landed(self, item: OutboxItem, receipt: Receipt) -> None:
        """A target proved that it holds an item."""
        if item.kind is ItemKind.RECEIPTS:
            return
        for live, destination, _ in self._lives:
            if _may(item.label, destination, ObjectKind.METADATA, ObjectKind.NAME):
                content = {
                    "landed": item.remote, "kind": item.kind.value, "size": item.size, "sha256": receipt.sha256.hex(), "item": item.item_id,
                    "run": f"{item.run_no:06d}", "project": item.project, "target": receipt.target, "proof": receipt.proof.value,
                    "site": self._site, "time": _iso(receipt.t_ns),
                }  # fmt: skip
                live.announce(Word(("landed", item.project), content, receipt.t_ns))

    def _value(self, stream: Stream, block: Block) -> Word:
        t_ns = int(block.t_source[-1])
        origin = "source"
        if t_ns == NO_TIME:
            t_ns, origin = int(block.t_arrival[-1]), "arrival"
        good = block.valid is None or block.valid[-1] != Valid.BAD
        content = {
            "stream": stream.key, "value": _plain(block.values[-1]), "unit": stream.unit, "good": bool(good), "time": _iso(t_ns),
            "clock": origin, "site": self._site,
        }  # fmt: skip
        return Word(("values", stream.instrument, stream.name), content, t_ns)


@lru_cache(256)
def _may(label: Label, destination: Destination, *kinds: ObjectKind) -> bool:
    return all(may_send(label, destination, kind).allowed for kind in kinds)


def _plain(value: Any) -> Any:
    """As JSON can say it: what is no number is null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(element) for element in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _iso(t_ns: int) -> str:
    return datetime.fromtimestamp(t_ns // 10**9, UTC).replace(microsecond=t_ns % 10**9 // 1000).isoformat()
