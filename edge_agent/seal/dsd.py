"""Dataset descriptors: what a chunk is a chunk of (docs/signed-chunks.md, DSD)."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from edge_agent.seal.cbor import SealError, dumps, fields, loads


class Counter(IntEnum):
    """What the seq fields of a dataset's chunks promise."""

    NONE = 0
    FRAME = 1


@dataclass(frozen=True, slots=True)
class Dsd:
    """What a dataset is: its path and type (the grammar of the page), and where its chunks come from.

    ``chunk`` and ``maxdims`` are element counts (None = unlimited), ``filters`` are ``(id, flags, values)``, ``fill`` is one element.
    """

    path: str
    type: Any
    chunk: tuple[int, ...]
    maxdims: tuple[int | None, ...]
    filters: tuple[tuple[int, int, tuple[int, ...]], ...]
    fill: bytes
    source_id: str
    counter: Counter = Counter.NONE
    step: int = 1
    _encoded: bytes = field(default=b"", init=False, repr=False, compare=False)

    def encode(self) -> bytes:
        """Deterministic CBOR; made once, because every step of a dataset's life asks for it."""
        if not self._encoded:
            object.__setattr__(self, "_encoded", self._encode())
        return self._encoded

    def _encode(self) -> bytes:
        return dumps(
            {
                1: unicodedata.normalize("NFC", self.path), 2: self.type, 3: list(self.chunk), 4: list(self.maxdims),
                5: [[i, flags, list(values)] for i, flags, values in self.filters], 6: self.fill, 7: 0,
                8: [self.source_id, int(self.counter), self.step],
            }
        )  # fmt: skip

    def digest(self) -> bytes:
        """The 32 bytes that name this dataset in every CHUNK leaf."""
        return dsd_digest(self.encode())


def dsd_digest(encoded: bytes) -> bytes:
    r"""``SHA-256("HSC1-dsd\0" || CBOR)``."""
    return hashlib.sha256(b"HSC1-dsd\0" + encoded).digest()


def parse_dsd(encoded: bytes) -> Dsd:
    """The descriptor in its CBOR.

    Raises:
        SealError: not a descriptor.
    """
    path, kind, chunk, maxdims, filters, fill, options, source = fields(
        loads(encoded, "DSD"), "DSD", k1=str, k2=list, k3=list, k4=list, k5=list, k6=bytes, k7=int, k8=list
    )
    try:
        source_id, counter, step = source
        dsd = Dsd(
            path, kind, tuple(int(n) for n in chunk), tuple(None if n is None else int(n) for n in maxdims),
            tuple((int(i), int(flags), tuple(int(v) for v in values)) for i, flags, values in filters),
            fill, str(source_id), Counter(counter), int(step),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise SealError(f"DSD: {error}") from error
    if options != 0 or dsd.step < 1 or not _is_grammar(kind) or dsd.encode() != encoded:
        raise SealError("DSD: a field has a value that HSC/1 does not know")
    if not dsd.chunk or min(dsd.chunk) < 1 or len(dsd.chunk) != len(dsd.maxdims):
        raise SealError(f"DSD: chunks of {dsd.chunk} elements in a dataset of {dsd.maxdims}")
    return dsd


def _is_grammar(kind: Any) -> bool:
    """Whether a type is made of texts and numbers only; False and True would compare as numbers."""
    return all(_is_grammar(part) for part in kind) if isinstance(kind, list) else type(kind) in (str, int)
