"""Reads every dataset of an HDF5 file by normal slicing; needs h5py, hdf5plugin and numpy, nothing else.

    python read_everything.py FILE      prints {path: [shape, dtype, SHA-256 of the C-order bytes]} as JSON
    python read_everything.py --about   prints the versions and whether the project can be imported

A variable-length string counts as its UTF-8 bytes after their length (8 bytes, little-endian). A null dataset has the shape null.
"""

import hashlib
import importlib.util
import json
import sys

import h5py
import hdf5plugin
import numpy as np

STEP = 64 * 2**20


def feed(digest, values):
    if values.dtype.names and values.dtype.hasobject:
        for name in values.dtype.names:
            feed(digest, values[name])
    elif values.dtype.hasobject:
        for value in values.reshape(-1):
            text = value.encode() if isinstance(value, str) else value
            if not isinstance(text, bytes):
                raise TypeError(f"cannot hash a {type(value).__name__}: only variable-length strings are expected")
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        digest.update(np.ascontiguousarray(values).tobytes())


def describe(dataset):
    digest = hashlib.sha256()
    if dataset.shape is None:
        return [None, str(dataset.dtype), digest.hexdigest()]
    dtype = str(dataset.dtype.descr) if dataset.dtype.names else dataset.dtype.str
    if dataset.ndim == 0:
        feed(digest, np.asarray(dataset[()], dtype=dataset.dtype))
    elif dataset.size:
        row = max(1, dataset.size // dataset.shape[0] * dataset.dtype.itemsize)
        whole = dataset.chunks[0] if dataset.chunks else 1
        rows = max(1, STEP // row // whole) * whole
        for start in range(0, dataset.shape[0], rows):
            feed(digest, np.asarray(dataset[start : start + rows]))
    return [list(dataset.shape), dtype, digest.hexdigest()]


def read(path):
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found["/" + name] = describe(item)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def about():
    return {
        "hdf5": h5py.version.hdf5_version,
        "h5py": h5py.version.version,
        "hdf5plugin": hdf5plugin.version,
        "numpy": np.__version__,
        "project": importlib.util.find_spec("edge_agent") is not None,
    }


if __name__ == "__main__":
    print(json.dumps(about() if sys.argv[1] == "--about" else read(sys.argv[1])))
