"""A configuration for SINETStream's reader (1.10, ``.sinetstream_config.yml``) that reads what ``[live.NAME]`` sends.

At least once, with a fixed client id and a session that the broker keeps: with the defaults of the library a reader that is away for a
moment misses everything meanwhile. No user, no password: these are the reader's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from edge_agent.config.live import LiveTable
from edge_agent.wire.broker import Broker

FILE = ".sinetstream_config.yml"
TOPICS: Mapping[str, str] = {"values": "values/#", "landed": "landed/#"}


def reader_config(site: str, tables: Mapping[str, LiveTable], reader: str, ca: str = "") -> str:
    """The file's text: YAML, whose strings are quoted as in JSON. Two services a table, ``NAME-values`` and ``NAME-landed``.

    Args:
        site: name of the place.
        tables: what is configured, by name.
        reader: who reads; two readers with one name would take the messages from each other.
        ca: PEM file of the broker's authority, where the reader has it; empty: the system's authorities.
    """
    lines = ["header:", "  version: 3", "config:"]
    for name, table in tables.items():
        for what, levels in TOPICS.items():
            client = re.sub(r"[^A-Za-z0-9_-]", "-", f"{site}-{name}-{what}-{reader}")
            lines += [
                f"  {json.dumps(f'{name}-{what}')}:",
                "    type: mqtt",
                f"    brokers: {json.dumps(str(Broker.parse(table.sinetstream)))}",
                f"    topics: [{json.dumps(f'{table.topic or site}/{levels}')}]",
                f"    client_id: {json.dumps(client)}",
                "    consistency: AT_LEAST_ONCE",
                "    value_type: text",
                *_tls(table, ca),
                "    type_spec:",
                "      clean_session: false",
            ]
    return "\n".join(lines) + "\n"


def _tls(table: LiveTable, ca: str) -> list[str]:
    if not table.sinetstream.startswith("mqtts:"):
        return []
    return [f"    tls: {{ca_certs: {json.dumps(ca)}}}" if ca else "    tls: true"]
