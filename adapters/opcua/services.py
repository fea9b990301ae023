"""The services of a server that carry values: Read, Publish and HistoryRead, answered in numpy.

The library sends the requests, checks signatures and reads the headers; the values are read by `adapters.opcua.binary`. Its own
subscription object is not used: it hides the revised parameters, keeps one request in flight, and its queue drops in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import ua

from adapters.opcua.binary import Reader, Structures, Value
from adapters.opcua.notifications import Published, read_published
from edge_agent.model import NO_TIME, utc_now_ns

BATCH = 100
"""Nodes a request; many servers take no more."""

_HISTORY_DATA = (658, 18_551)
"""Encoding ids of HistoryData and HistoryModifiedData."""
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class History:
    """What a server has of one variable. ``status`` is the name of a failure, empty otherwise; ``more`` continues the reading."""

    values: list[Value]
    status: str = ""
    more: bytes | None = None


async def ask(client: Any, request: Any, timeout: float | None = None) -> tuple[bytes, int]:
    """Send a request; the answer's bytes and where its content begins. Raises what the server refuses with, or why there is no answer."""
    protocol = client.uaclient.protocol
    if protocol is None:
        raise ConnectionError("the connection is closed")
    answer = await protocol.send_request(request, timeout)
    ua.ua_binary.nodeid_from_binary(answer)
    header = ua.ua_binary.struct_from_binary(ua.ResponseHeader, answer)
    header.ServiceResult.check()
    return answer._data, answer.cur_pos  # noqa: SLF001 - its bytes(), the only other way, makes a copy


async def read(client: Any, wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
    """The ``ua.DataValue`` of each ``(node id, attribute)``."""
    results: list[Any] = []
    for i in range(0, len(wanted), BATCH):
        parameters = ua.ReadParameters()
        for node_id, attribute in wanted[i : i + BATCH]:
            parameters.NodesToRead.append(ua.ReadValueId(NodeId=node_id, AttributeId=attribute))
        results += await client.uaclient.read(parameters)
    return results


async def read_values(client: Any, node_ids: Sequence[Any], structures: Structures | None = None) -> list[Value]:
    """The present value of each variable."""
    values: list[Value] = []
    for i in range(0, len(node_ids), BATCH):
        request = ua.ReadRequest()
        request.Parameters.TimestampsToReturn = ua.TimestampsToReturn.Both
        for node_id in node_ids[i : i + BATCH]:
            request.Parameters.NodesToRead.append(ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value))
        data, at = await ask(client, request)
        reader = Reader(data, at, structures)
        values += [reader.value() for _ in range(max(0, reader.length()))]
    return values


async def publish(client: Any, acknowledge: Sequence[tuple[int, int]], structures: Structures | None) -> tuple[Published, int]:
    """The next message of any subscription, and when it arrived (UTC ns); waits until the server has one."""
    request = ua.PublishRequest()
    request.Parameters.SubscriptionAcknowledgements = [
        ua.SubscriptionAcknowledgement(SubscriptionId=subscription, SequenceNumber=number) for subscription, number in acknowledge
    ]
    asked = utc_now_ns()
    data, at = await ask(client, request, timeout=0)
    arrival = utc_now_ns()
    message = read_published(data, at, arrival, structures)
    message.asked = asked
    return message, arrival


async def history(client: Any, node_id: Any, t_from: int, t_to: int, structures: Structures | None, more: bytes | None = None) -> History:
    """Raw values of one variable from ``t_from`` to ``t_to`` (UTC ns, both inclusive), as many as the server gives at once."""
    details = ua.ReadRawModifiedDetails(
        IsReadModified=False, StartTime=_moment(t_from), EndTime=_moment(t_to, 1), NumValuesPerNode=0, ReturnBounds=False
    )
    request = ua.HistoryReadRequest()
    request.Parameters = ua.HistoryReadParameters(
        HistoryReadDetails=details,
        TimestampsToReturn=ua.TimestampsToReturn.Both,
        ReleaseContinuationPoints=False,  # True, the library's default, asks to forget them and for no values
        NodesToRead=[ua.HistoryReadValueId(NodeId=node_id, ContinuationPoint=more)],
    )
    data, at = await ask(client, request)
    reader = Reader(data, at, structures)
    if reader.length() < 1:
        return History([], "BadNoData")
    status = ua.StatusCode(reader.by_library(lambda buffer: ua.ua_binary.Primitives.UInt32.unpack(buffer)))
    following = reader.string()
    type_id, body = reader.extension()
    values = list(_history_values(Reader(body, 0, structures))) if body is not None and type_id.Identifier in _HISTORY_DATA else []
    return History(values, status.name if status.is_bad() else "", following or None)


def _history_values(reader: Reader) -> Iterator[Value]:
    for _ in range(max(0, reader.length())):
        yield reader.value()


def _moment(t_ns: int, round_up: int = 0) -> datetime | None:
    return None if t_ns == NO_TIME else _EPOCH + timedelta(microseconds=t_ns // 1000 + round_up)
