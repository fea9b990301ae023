"""Compresses frames as areaDetector's NDPluginCodec sends them.

HDF5's own filters (h5py, hdf5plugin) do the work on a file in memory; what they put around the compressor's output is taken off
again, since NDPluginCodec sends "lz4" and "bslz4" bare, "blosc" and "zlib" whole. JPEG, of frames of uint8, is Pillow's.
"""

from __future__ import annotations

import io
from typing import Any, Final

import h5py
import hdf5plugin
import numpy as np
import numpy.typing as npt
from PIL import Image

CODECS: Final = ("none", "zlib", "lz4", "bslz4", "blosc", "jpeg")

_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "zlib": {"compression": "gzip", "compression_opts": 1},
    "lz4": dict(hdf5plugin.LZ4()),
    "bslz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "blosc": dict(hdf5plugin.Blosc(cname="lz4", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)),
}
_HEADERS: Final = {"lz4": 16, "bslz4": 12}
"""Bytes that the HDF5 filter puts before the compressor's output: sizes, and for lz4 the length of its only block."""

_PARAMETERS: Final = {"|i1": 1, "<i2": 2, "<i4": 3, "<i8": 4, "|u1": 5, "<u2": 6, "<u4": 7, "<u8": 8, "<f4": 9, "<f8": 10}
"""pvData's ScalarType of the pixels, as NDPluginCodec puts it into codec.parameters."""


def compress(frame: npt.NDArray[Any], codec: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Return the payload, and the frame as it comes out of it: another one only for JPEG, which loses.

    Args:
        frame: (rows, columns), C-contiguous, little-endian; uint8 for jpeg.
        codec: one of `CODECS` but "none".
    """
    if codec == "jpeg":
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=90)
        file.seek(0)
        shown = np.asarray(Image.open(file))
        return np.frombuffer(file.getvalue(), np.uint8), shown
    with h5py.File("frame", "w", driver="core", backing_store=False) as memory:
        dataset = memory.create_dataset("frame", data=frame, chunks=frame.shape, **_FILTERS[codec])
        memory.flush()
        _, chunk = dataset.id.read_direct_chunk((0,) * frame.ndim)
    return np.frombuffer(chunk, np.uint8)[_HEADERS.get(codec, 0) :], frame


def pixel_type(dtype: np.dtype[Any]) -> int:
    """The number of a pixel type in codec.parameters."""
    return _PARAMETERS[dtype.str]
