"""One encoder per HDF5 filter pipeline, each owning the filter values that the file must hold; decoders for what a source packed itself.

Nothing here registers a filter in the process: encoded chunks go into the file by direct chunk writes, and any HDF5
with the standard plugins reads them back. Encoders are safe to share between threads and release the interpreter
lock while they work. What an encoder writes is proven in the tests against the ordinary HDF5 read path.
"""

from __future__ import annotations

from functools import cache

from edge_agent.codec.buffers import Buffers, BuffersExhausted, Lease
from edge_agent.codec.contract import CodecError, Decoder, Encoder, Filter, Readable, Writable
from edge_agent.codec.plain import Plain
from edge_agent.errors import ConfigError

__all__ = [
    "CARRIED",
    "NAMES",
    "Buffers",
    "BuffersExhausted",
    "CodecError",
    "Decoder",
    "Encoder",
    "Filter",
    "Lease",
    "Readable",
    "Writable",
    "decoder",
    "encoder",
]

NAMES: tuple[str, ...] = ("bitshuffle-lz4", "shuffle-zstd", "none")
"""Every codec name that a stream may be configured with."""

CARRIED: tuple[str, ...] = ("bitshuffle-lz4", "lz4", "blosc", "deflate")
"""Codecs in which a source may deliver its frames: they are stored as they came (`edge_agent.model.Packed`)."""


@cache
def encoder(name: str) -> Encoder:
    """Return the encoder called `name`, the same one each time.

    Raises:
        ConfigError: the name is unknown, or the C library that it needs is not installed.
    """
    # Each with its library only when it is asked for: a verifier needs at most one of them.
    if name == "bitshuffle-lz4":
        from edge_agent.codec.bitshuffle_lz4 import BitshuffleLz4
        from edge_agent.codec.native import best_library

        return BitshuffleLz4(best_library())
    if name == "shuffle-zstd":
        from edge_agent.codec.shuffle_zstd import ShuffleZstd

        return ShuffleZstd()
    if name == "none":
        return Plain()
    raise ConfigError(f"There is no codec {name!r}.", why=f"the codecs are {', '.join(NAMES)}", try_="name one of them", code="CFG_CODEC")


@cache
def decoder(name: str) -> Decoder:
    """Return what reads the pipeline called `name`: an encoder, or the decoder of a codec that is only carried.

    Raises:
        ConfigError: the name is unknown, or the C library that it needs is not installed.
    """
    if name == "lz4":
        from edge_agent.codec.lz4 import Lz4

        return Lz4()
    if name == "blosc":
        from edge_agent.codec.blosc import Blosc

        return Blosc()
    if name == "deflate":
        from edge_agent.codec.deflate import Deflate

        return Deflate()
    return encoder(name)
