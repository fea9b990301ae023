"""Which place each target's name stood for at the last start.

A proof says what a place holds. Where the configuration gives a name to another one, what is still here is proved there anew before it is
freed; what was freed stays at the old place. What waits for a name that is not configured any more waits on, until a person gives
it up (`edge_agent.agent.giving_up`), and that is said.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from edge_agent.config import targets as tables
from edge_agent.config.models import Config
from edge_agent.spool import Spool

log = logging.getLogger(__name__)
GONE = (
    "it is not configured any more; what waits for it stays in the spool until [target.{0}] is there again,"
    " or until you give it up: edge-agent quarantine drop {0} --reason '...'"
)
_KEYS = {
    tables.FolderTarget: ("folder",),
    tables.S3Target: ("s3", "bucket", "prefix"),
    tables.GrdmTarget: ("grdm", "api", "node", "nodes", "storage"),
    tables.LandingTarget: ("landing",),
    tables.MqttTarget: ("mqtt", "topic"),
}
"""What says where the data goes, by kind of target."""


def look(config: Config, spool: Spool) -> None:
    """Compare with the last start, and remember. Before anything is sent or freed; blocks."""
    for name, table in config.targets.items():
        key, place = f"place/{name}", _place(table, config.keys_dir)
        before = spool.state.get(key)
        if before == place:
            continue
        with spool.transaction():
            again = 0 if before is None else spool.outbox.ask_again(name)
            spool.state.put(key, place)
        if again:
            said = "target %s is another place now: %d items that are still here go there too"
            log.warning(said, name, again, extra={"code": "TARGET_MOVED"})
    for waits in spool.outbox.backlog():
        if waits.target not in config.targets and waits.bytes:
            why = GONE.format(waits.target)
            log.warning("%d bytes wait for target %s: %s", waits.bytes, waits.target, why, extra={"code": "TARGET_GONE"})


def _place(table: tables.Target, keys: Path) -> bytes:
    said = table.model_dump(mode="json", include=set(_KEYS[type(table)]))
    root = keys / "root.pem"
    if isinstance(table, tables.LandingTarget | tables.MqttTarget) and root.exists():
        # Another landing service may answer at the same address.
        said["root"] = hashlib.sha256(root.read_bytes()).hexdigest()
    return json.dumps(said, sort_keys=True).encode()
