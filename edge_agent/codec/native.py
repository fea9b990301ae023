"""Reaches bitshuffle's C functions inside installed wheels, without importing those wheels.

Importing `hdf5plugin` or `bitshuffle.h5` registers HDF5 filters in the process, and then HDF5 rewrites filter values
when a dataset is created. So the shared library is located on disk and opened by ctypes; calls through ctypes
release the interpreter lock. Two wheels carry the functions:

- `hdf5plugin`: exists for every platform, built for SSE2; the default;
- `bitshuffle`: built for AVX2 and with OpenMP; faster, used only where it is installed and the processor has AVX2
  and its companions (elsewhere an unknown instruction ends the process), and held to one thread per caller.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from edge_agent.codec.contract import Octets
from edge_agent.errors import ConfigError

HASWELL = frozenset({"abm", "avx2", "bmi1", "bmi2", "fma", "movbe"})
"""What the `bitshuffle` wheel's compiler was allowed to use (-march=haswell), in Linux's names."""

log = logging.getLogger(__name__)


class BitshuffleLibrary:
    """The bitshuffle functions of one shared library (bitshuffle_core.h, bitshuffle.h)."""

    def __init__(self, path: Path) -> None:
        """Open the library.

        Raises:
            ConfigError: the file cannot be loaded, or lacks the functions.
        """
        self.path = path
        self._thread = threading.local()
        try:
            handle = ctypes.CDLL(str(path))
            self._compress = handle.bshuf_compress_lz4
            self._decompress = handle.bshuf_decompress_lz4
            self._bound = handle.bshuf_compress_lz4_bound
            self._block = handle.bshuf_default_block_size
            self._using_avx2 = handle.bshuf_using_AVX2
        except (OSError, AttributeError) as error:
            raise unusable(f"{path} does not offer bitshuffle's functions: {error}", "reinstall its package") from error
        size, address = ctypes.c_size_t, ctypes.c_void_p
        for function in (self._compress, self._decompress):
            function.argtypes, function.restype = (address, address, size, size, size), ctypes.c_int64
        self._bound.argtypes, self._bound.restype = (size, size, size), size
        self._block.argtypes, self._block.restype = (size,), size
        self._using_avx2.argtypes, self._using_avx2.restype = (), ctypes.c_int
        # Absent when the library was built without OpenMP.
        self._limit = getattr(handle, "omp_set_num_threads", None)
        if self._limit is not None:
            self._limit.argtypes, self._limit.restype = (ctypes.c_int,), None

    @property
    def uses_avx2(self) -> bool:
        """Whether the library was compiled for AVX2."""
        return bool(self._using_avx2())

    @lru_cache(256)  # noqa: B019 - a library is loaded for good, and a call would give the interpreter lock away
    def block(self, itemsize: int) -> int:
        """Return the default block size in elements."""
        return int(self._block(itemsize))

    def bound(self, elements: int, itemsize: int) -> int:
        """Return the largest size in bytes that `compress` may write."""
        return int(self._bound(elements, itemsize, 0))

    def compress(self, raw: Octets, out: Octets, itemsize: int, block: int) -> int:
        """Compress all of `raw` into `out`, which has at least `bound()` bytes; return the size or a negative error."""
        self._one_thread()
        return int(self._compress(_address(raw), _address(out), raw.nbytes // itemsize, itemsize, block))

    def decompress(self, stored: Octets, raw: Octets, itemsize: int, block: int) -> int:
        """Fill `raw` from `stored`; return the stored bytes used or a negative error.

        The C code trusts the block lengths in `stored`: the caller has checked them.
        """
        self._one_thread()
        return int(self._decompress(_address(stored), _address(raw), raw.nbytes // itemsize, itemsize, block))

    def _one_thread(self) -> None:
        # OpenMP keeps its thread count per calling thread; encoder threads already fill the machine.
        if self._limit is not None and not getattr(self._thread, "limited", False):
            self._limit(1)
            self._thread.limited = True


def _address(array: Octets) -> int:
    """Where its bytes are; ``array.ctypes.data`` says the same and makes two objects in Python for it."""
    return int(array.__array_interface__["data"][0])


def find_library(package: str, pattern: str) -> Path:
    """Return the one file matching `pattern` inside an installed package, without importing the package (or asking whether it may be).

    Raises:
        ConfigError: the package is not installed or has no such file.
    """
    # Not by way of `sys.meta_path`: there stands the guard that keeps such packages from being imported while segments are open.
    spec = PathFinder.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise unusable(f"the package {package} is not installed", f"pip install {package}")
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob(pattern)):
            return path
    raise unusable(f"the installed package {package} has no {pattern}", f"pip install --force-reinstall {package}")


def plugin_library() -> BitshuffleLibrary:
    """Open the library in the `hdf5plugin` wheel."""
    return BitshuffleLibrary(find_library("hdf5plugin", "plugins/*h5bshuf.*"))


def avx2_library() -> BitshuffleLibrary:
    """Open the library in the `bitshuffle` wheel.

    Raises:
        ConfigError: it is not installed, not built for AVX2, or this processor is too old.
    """
    path = find_library("bitshuffle", "ext.*.so")
    if missing := HASWELL - processor_flags():
        raise unusable(f"this processor is not known to have {', '.join(sorted(missing))}", "use the library of hdf5plugin")
    library = BitshuffleLibrary(path)
    if not library.uses_avx2:
        raise unusable(f"{path} is not built for AVX2", "use the library of hdf5plugin")
    return library


def best_library() -> BitshuffleLibrary:
    """Open the fastest library that this machine can run.

    Raises:
        ConfigError: not even `hdf5plugin` is installed.
    """
    try:
        library = avx2_library()
    except ConfigError as error:
        log.debug("bitshuffle wheel not used: %s", error.why)
        library = plugin_library()
    log.info("bitshuffle functions from %s", library.path)
    return library


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the processor's features as Linux names them; none where they cannot be known."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def unusable(why: str, cure: str) -> ConfigError:
    """Return the error for a library that cannot be used here."""
    return ConfigError("A codec cannot use its library.", why=why, try_=cure, code="CFG_CODEC_LIBRARY")
