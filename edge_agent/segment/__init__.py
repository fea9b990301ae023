"""The layout of a segment, its reader, its verifier, the master file: the one place that knows what is where (docs/layout.md)."""

import os

# Before h5py is imported: no filter plugin is ever looked for, and a lock of another program does not stop a reader.
os.environ["HDF5_PLUGIN_PATH"] = "::"
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "BEST_EFFORT")
