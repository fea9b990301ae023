"""The streams of one instrument, by name. They outlive connections, so that an outage is declared where it happened."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.opcua.images import ImageStream
from adapters.opcua.nodes import Variable
from adapters.opcua.rows import Outlet
from edge_agent.adapter import Sink


class Outlets:
    """``active``: names of the streams that are monitored now. ``complained``: what was said once already."""

    def __init__(self) -> None:
        self._streams: dict[str, Outlet | ImageStream] = {}
        self.active: set[str] = set()
        self.complained: set[str] = set()

    def of(self, sink: Sink, variable: Variable) -> Outlet | ImageStream:
        """The stream of a variable, made when it is asked for first."""
        name = variable.stream.name
        if name not in self._streams:
            self._streams[name] = (
                ImageStream(sink, variable.stream, variable.table)
                if variable.is_image
                else Outlet(sink, variable.stream, variable.table.counts_by)
            )
        return self._streams[name]

    def named(self, name: str) -> Outlet | ImageStream:
        """The stream of this name."""
        return self._streams[name]

    def interrupted(self, t_from: Mapping[str, int], why: str) -> None:
        """Nothing was heard of these streams since then (UTC ns), as far as they are active."""
        for name in self.active & t_from.keys():
            self._streams[name].interrupted(t_from[name], why)

    def resumed(self, t_to: int) -> None:
        """Declare the interruptions that nothing has ended."""
        for stream in self._streams.values():
            stream.resumed(t_to)
