"""Events, conditions and alarms of a server as one stream of texts: each row is one event as a JSON object.

Source: OPC 10000-5, 6.4 (BaseEventType), 10000-9 (conditions). Fields that an event does not have are left out. The row's time is the
event's own. Invariants: conditions that are active at connect are fetched once (ConditionRefresh) and marked as known before, not as news;
an event that the server's queue lost is a Gap.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from asyncua import ua

from adapters.opcua.losses import Losses
from edge_agent.adapter import Inlet, Sink
from edge_agent.model import NO_TIME, Block, Cause, Gap, Kind, Stream, Valid

NAME = "events"
EVENT_BYTES = 2048

_BASE, _CONDITION, _ACKNOWLEDGEABLE, _ALARM = 2041, 2782, 2881, 2915
_FIELDS: tuple[tuple[str, int, str], ...] = (
    ("id", _BASE, "EventId"),
    ("type", _BASE, "EventType"),
    ("source_node", _BASE, "SourceNode"),
    ("source", _BASE, "SourceName"),
    ("time", _BASE, "Time"),
    ("received", _BASE, "ReceiveTime"),
    ("message", _BASE, "Message"),
    ("severity", _BASE, "Severity"),
    ("condition", _CONDITION, "ConditionName"),
    ("retain", _CONDITION, "Retain"),
    ("enabled", _CONDITION, "EnabledState/Id"),
    ("comment", _CONDITION, "Comment"),
    ("user", _CONDITION, "ClientUserId"),
    ("acknowledged", _ACKNOWLEDGEABLE, "AckedState/Id"),
    ("confirmed", _ACKNOWLEDGEABLE, "ConfirmedState/Id"),
    ("active", _ALARM, "ActiveState/Id"),
)
"""Key in the row, type that defines the field, its path."""

_REFRESH_START, _REFRESH_END, _OVERFLOW = 2787, 2788, 3035
_CONDITION_REFRESH = 3875

_EPOCH = datetime.fromtimestamp(0, UTC)

log = logging.getLogger(__name__)


def event_stream(instrument: str, endpoint: str, transport: str) -> Stream:
    """The stream that events go to."""
    return Stream(
        instrument,
        NAME,
        Kind.ROWS,
        dtype=f"|S{EVENT_BYTES}",
        source_uri=f"{endpoint}#events",
        source_type="opcua events (JSON)",
        transport=transport,
    )


def event_filter(min_severity: int) -> Any:
    """Which events the server sends, and which of their fields."""
    clauses = [
        ua.SimpleAttributeOperand(
            TypeDefinitionId=ua.NodeId(kind),
            BrowsePath=[ua.QualifiedName(name, 0) for name in path.split("/")],
            AttributeId=ua.AttributeIds.Value,
        )
        for _, kind, path in _FIELDS
    ]
    chosen = ua.EventFilter(SelectClauses=clauses)
    if min_severity > 1:
        severity = ua.SimpleAttributeOperand(
            TypeDefinitionId=ua.NodeId(_BASE), BrowsePath=[ua.QualifiedName("Severity", 0)], AttributeId=ua.AttributeIds.Value
        )
        least = ua.LiteralOperand(Value=ua.Variant(min_severity, ua.VariantType.UInt16))
        element = ua.ContentFilterElement(FilterOperator=ua.FilterOperator.GreaterThanOrEqual, FilterOperands=[severity, least])
        chosen.WhereClause = ua.ContentFilter(Elements=[element])
    return chosen


async def refresh(client: Any, subscription: int) -> None:
    """Have the server send the conditions that are active now; those without alarms refuse, which is no fault."""
    arguments = [ua.Variant(subscription, ua.VariantType.UInt32)]
    call = ua.CallMethodRequest(ObjectId=ua.NodeId(_CONDITION), MethodId=ua.NodeId(_CONDITION_REFRESH), InputArguments=arguments)
    try:
        (result,) = await client.uaclient.call([call])
    except ua.UaStatusCodeError as e:
        log.debug("no conditions are known: %s", type(e).__name__)
        return
    if result.StatusCode.is_bad():
        log.debug("no conditions are known: %s", result.StatusCode.name)


class EventStream:
    """Where the events of one server go. It outlives connections."""

    def __init__(self, sink: Sink, stream: Stream) -> None:
        self.stream = stream
        self._inlet: Inlet = sink.open(stream)
        self._losses = Losses()
        self._losses.opened(self._inlet)
        self._refreshing = False

    def declare(self, gap: Gap) -> None:
        """Something is missing."""
        self._losses.declare(gap)

    def interrupted(self, t_from: int, why: str) -> None:
        """No event can have come since ``t_from``."""
        self._refreshing = False
        self._losses.interrupted(t_from, why)

    def resumed(self, t_to: int) -> None:
        """Events come again: what happened in between is not known."""
        self._losses.resumed(t_to)

    async def happened(self, events: Sequence[Sequence[Any]], arrival: int) -> None:
        """Deliver events, each as its fields (``ua.Variant``)."""
        rows: list[tuple[bytes, int, int, int]] = []
        for fields in events:
            known = {key: variant.Value for (key, _, _), variant in zip(_FIELDS, fields, strict=False) if variant.Value is not None}
            kind = getattr(known.get("type"), "Identifier", None) if getattr(known.get("type"), "NamespaceIndex", 1) == 0 else None
            if kind in (_REFRESH_START, _REFRESH_END):
                self._refreshing = kind == _REFRESH_START
            elif kind == _OVERFLOW:
                self._inlet.gap(Gap(Cause.OVERFLOW, t_from=arrival, t_to=arrival, detail="the server's queue of events overflowed"))
            else:
                rows.append(self._row(known, arrival))
        if rows:
            texts, times, received, valid = zip(*rows, strict=True)
            await self._inlet.put(
                Block(
                    np.array(texts, f"|S{EVENT_BYTES}"),
                    np.array(times, np.int64),
                    np.full(len(rows), arrival, np.int64),
                    t_server=np.array(received, np.int64),
                    valid=np.array(valid, np.uint8),
                )
            )

    def _row(self, known: dict[str, Any], arrival: int) -> tuple[bytes, int, int, int]:
        time, received = _ns(known.pop("time", None)), _ns(known.pop("received", None))
        event = {key: _plain(value) for key, value in known.items()}
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > EVENT_BYTES:
            event["message"] = str(event.get("message", ""))[:100]
            event = {key: event[key] for key in ("id", "type", "source", "message", "severity", "condition", "active") if key in event}
            text = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()[:EVENT_BYTES]
            detail = f"an event of more than {EVENT_BYTES} bytes was shortened"
            self._inlet.gap(Gap(Cause.GARBAGE, t_from=arrival, t_to=arrival, detail=detail))
        return text, time, received, int(Valid.INITIAL if self._refreshing else Valid.GOOD)


def _ns(moment: Any) -> int:
    if not isinstance(moment, datetime):
        return NO_TIME
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    ns = (aware - _EPOCH) // (datetime.resolution) * 1000
    return ns if 0 < ns < 2**63 else NO_TIME


def _plain(value: Any) -> str | int | float | bool:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, ua.LocalizedText):
        return str(value.Text or "")
    if isinstance(value, ua.NodeId):
        known = ua.ObjectIdNames.get(value.Identifier) if value.NamespaceIndex == 0 else None
        return str(known or value.to_string())
    return str(value)
