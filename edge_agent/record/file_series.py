"""The vendor files of a run: a tree without an HDF5 file, which goes into the run's sidecar."""

from __future__ import annotations

from edge_agent.record.continuity import gap_leaf
from edge_agent.record.items import AdoptedItem, GapItem, Item
from edge_agent.record.series import ROW_LIMITS, Limits, RunState, Series
from edge_agent.seal import leaf

SERIES = "files"


class FileSeries(Series):
    """See the module."""

    with_data = False

    def __init__(self, state: RunState, limits: Limits = ROW_LIMITS) -> None:
        """Open nothing yet."""
        super().__init__(state, SERIES, limits)

    def _write(self, item: Item) -> None:
        segment = self._open()
        if isinstance(item, GapItem):
            segment.gap(gap_leaf(item.key, item.gap))
        else:
            assert isinstance(item, AdoptedItem)  # noqa: S101 - by the channel
            size, mtime = item.item.size, item.item.mtime_ns
            segment.append_leaf(leaf.FileLeaf(item.path, size, item.root, item.digest, mtime).payload())
        segment.settle(item)
