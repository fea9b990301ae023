"""Reads segments as a researcher does, h5py with hdf5plugin and normal slicing; writes every dataset into one .npz. Run as a program."""

from __future__ import annotations

import sys

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np


def main(target: str, paths: list[str]) -> None:
    found: dict[str, np.ndarray] = {}
    for number, path in enumerate(paths):
        with h5py.File(path, "r") as file:

            def note(name: str, node: object, number: int = number) -> None:
                if isinstance(node, h5py.Dataset) and not name.startswith("entry/integrity") and node.dtype.kind != "O":
                    found[f"{number}/{name}"] = node[()] if node.shape == () else node[:]

            file.visititems(note)
            plotted = file["entry/data"]
            found[f"{number}/plotted"] = plotted[plotted.attrs["signal"]][:]
    np.savez(target, **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
