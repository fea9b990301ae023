"""The status in Prometheus' text format: base units, one prefix, counters end in ``_total``.

``edge_agent_discrepancy`` must always be 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_agent.agent.status import Status


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[dict[str, str], float]]) -> list[str]:
    lines = [f"# HELP edge_agent_{name} {text}", f"# TYPE edge_agent_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_label(label)}"' for key, label in labels.items())
        lines.append(f"edge_agent_{name}{{{inside}}} {value:g}" if inside else f"edge_agent_{name} {value:g}")
    return lines


def exposition(status: Status) -> str:
    """The whole page."""
    streams = [s for instrument in status.instruments for s in instrument.streams]
    lines: list[str] = []
    for field in ("arrived", "landed", "spooled", "quarantined", "lost", "ignored"):
        kind, suffix = ("gauge", "") if field in ("spooled", "quarantined") else ("counter", "_total")
        samples = [({"stream": s.name}, float(getattr(s.totals, field))) for s in streams]
        lines += _family(f"{field}_items{suffix}", kind, f"Frames, rows or files: {field}.", samples)
    lines += _family(
        "unknown_loss_seconds_total",
        "counter",
        "Time of gaps of unknown size.",
        [({"stream": s.name}, s.totals.unknown_ns / 1e9) for s in streams],
    )
    lines += _family(
        "discrepancy",
        "gauge",
        "arrived - landed - spooled - quarantined - lost; not 0 is a bug.",
        [({"stream": s.name}, float(s.totals.discrepancy)) for s in streams],
    )
    ups = [({"instrument": i.name, "source": source}, float(up)) for i in status.instruments for source, (up, _) in i.connections.items()]
    lines += _family("source_up", "gauge", "1 while the source answers.", ups)
    for name, text in (
        ("waiting", "Items that wait for the target."),
        ("parked", "Items that wait for a person."),
        ("quarantined", "Items that were refused."),
    ):
        lines += _family(f"target_{name}_items", "gauge", text, [({"target": t.name}, float(getattr(t, name))) for t in status.targets])
    lines += _family(
        "target_waiting_bytes", "gauge", "Bytes that wait for the target.", [({"target": t.name}, float(t.bytes)) for t in status.targets]
    )
    lines += _family("disk_free_bytes", "gauge", "Free bytes of the spool's disk.", [({}, float(status.disk_free))])
    lines += _family("disk_state", "gauge", "1 for the state that the disk is in.", [({"state": status.disk}, 1.0)])
    silence = "Time for which the spool's disk has not answered a sync; 0 while it does."
    lines += _family("disk_silent_seconds", "gauge", silence, [({}, status.disk_silent)])
    if status.disk_left is not None:
        lines += _family("disk_full_seconds", "gauge", "Time until the disk is full at this rate.", [({}, status.disk_left)])
    if status.commit_p99 is not None:
        lines += _family("durable_latency_p99_seconds", "gauge", "Arrival to durable, 99th percentile.", [({}, status.commit_p99)])
    return "\n".join(lines) + "\n"
