"""Prints, as a JSON list, all that a reader sees of each HDF5 file named: shapes, types, attributes, links, values.

Inside /entry/integrity the names and values count, not the way in which they are typed. Chunks behind a filter are compared as stored.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import h5py
import numpy as np


def type_of(item: Any) -> str:
    dtype = item.get_type().dtype
    return repr((dtype, dtype.str, h5py.check_string_dtype(dtype), h5py.check_enum_dtype(dtype)))


def dump(path: str) -> Any:
    out: dict[str, Any] = {}

    def each(name: str, item: Any) -> None:
        signed = not name.startswith("entry/integrity")
        entry: list[Any] = [type(item).__name__, {n: repr(item.attrs[n]) for n in item.attrs}]
        if signed:
            entry += [[n, item.attrs.get_id(n).shape, type_of(item.attrs.get_id(n))] for n in item.attrs]
        if isinstance(item, h5py.Dataset):
            plist, chunks = item.id.get_create_plist(), []
            entry += [item.shape, item.dtype.str, item.maxshape, item.chunks, repr(item.fillvalue), type_of(item.id) if signed else ""]
            entry.append([plist.get_filter(n)[:3] for n in range(plist.get_nfilters())])
            if plist.get_nfilters():
                infos = [item.id.get_chunk_info(n) for n in range(item.id.get_num_chunks())]
                chunks = [(i.chunk_offset, i.filter_mask, str(item.id.read_direct_chunk(i.chunk_offset)[1])) for i in infos]
                entry.append(chunks)
            else:
                entry.append(hashlib.sha256(repr(np.asarray(item[()]).tolist()).encode()).hexdigest())
        out[name] = entry

    def links(name: str, group: Any) -> None:
        if isinstance(group, h5py.Group):
            found = {member: group.get(member, getlink=True) for member in group}
            out[f"{name}/"] = {member: link.path for member, link in found.items() if isinstance(link, h5py.SoftLink)}

    with h5py.File(path, "r") as file:
        each("", file)
        file.visititems(each)
        file.visititems(links)
    return json.loads(json.dumps(out, default=str))


if __name__ == "__main__":
    print(json.dumps([dump(path) for path in sys.argv[1:]]))
