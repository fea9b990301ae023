"""What a master file says of a dataset: which segments hold it, in which order, how much of it each. No segment is opened."""

from __future__ import annotations

from pathlib import Path

import h5py
from h5py import h5d, h5s

from edge_agent.seal.cbor import SealError
from edge_agent.segment import reader
from edge_agent.segment.report import Joined
from edge_agent.segment.verify import UNREADABLE

MAX_SOURCES = 1 << 16


def joined(path: Path, dataset: str) -> Joined:
    """Read what a master says of a dataset; nothing that is wrong with the file is raised."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            real = reader.resolved(file, dataset)
            node = reader.open_object(file, real)
            properties = node.get_create_plist() if isinstance(node, h5d.DatasetID) else None
            if properties is None or properties.get_layout() != h5d.VIRTUAL:
                raise SealError(f"{real}: the master file joins no dataset of this name")
            count = properties.get_virtual_count()
            if count > MAX_SOURCES:
                raise SealError(f"{real}: {count} sources")
            members, at = [], 0
            for number in range(count):
                first, end = _rows(properties.get_virtual_vspace(number))
                whole = properties.get_virtual_srcspace(number).get_select_type() == h5s.SEL_ALL
                if properties.get_virtual_dsetname(number) != real or first != at or not whole:
                    raise SealError(f"{real}: source {number} is not the whole dataset of the next segment")
                members.append((str(properties.get_virtual_filename(number)), end - first))
                at = end
    except SealError as error:
        return Joined(dataset, error=str(error))
    except UNREADABLE as error:
        return Joined(dataset, error=f"HDF5 cannot read {path.name}: {error}")
    return Joined(real, tuple(members))


def _rows(space: object) -> tuple[int, int]:
    """First row and end of what is selected in a dataspace."""
    first, last = space.get_select_bounds()  # type: ignore[attr-defined]
    return int(first[0]), int(last[0]) + 1
