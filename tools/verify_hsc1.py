#!/usr/bin/env python3
"""Verifies HDF5 files and runs signed with HSC/1, written from docs/signed-chunks.md alone.

It shares no code with the program that writes the files. What holds here:

- No filter is ever loaded: chunks are hashed as they are stored, one after the other, once. Only those with rows that were signed
  before their chunk are decoded as well, by the few lines of Zstandard below.
- Everything that could make the library open another file (external storage and links, virtual datasets, plugins) is
  refused before anything is read.
- Each file is read in a child process with limited memory and time. A child that dies is a file at level 0.
- Whatever the page does not allow is level 0, and the first thing wrong is named. Without a root the highest level is 1.

It needs Python 3.11, h5py (built on HDF5 1.12, 1.14 or 2.x), cbor2 and cryptography. One thing is out of its reach,
because h5py has no call for it: the flag "do not filter partial edge chunks" of a dataset (DSD field 7).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import heapq
import itertools
import json
import math
import multiprocessing
import os
import re
import struct
import sys
import threading
import unicodedata
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

for _name in ("HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG"):
    os.environ.pop(_name, None)
os.environ |= {"HDF5_PLUGIN_PATH": "::", "HDF5_USE_FILE_LOCKING": "FALSE", "OPENBLAS_NUM_THREADS": "1"}

import cbor2  # noqa: E402
import numpy as np  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: E402
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding  # noqa: E402
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5s, h5t  # noqa: E402

FORMAT = "HSC/1"
README = (
    "This file is signed chunk by chunk (HSC/1). To check it without our software:\n"
    "python verify_hsc1.py FILE --root root.pem\n"
    "The format is described in docs/signed-chunks.md of edge-agent.\n"
)
INTEGRITY = b"/entry/integrity"
SEGMENT_SUFFIXES = (".nxs", ".h5")
PIECE = 8388608
EPOCH, EPOCHS_ABOVE = 256, 4096
NO_COUNTER = 2**64 - 1
MEMORY_LIMIT = 4 << 30
SECONDS = 20
Json = dict[Any, Any]


class Bad(Exception):
    """The first thing wrong, in a sentence."""


def want(condition: object, sentence: str) -> None:
    """Raise `Bad(sentence)` unless the condition holds."""
    if not condition:
        raise Bad(sentence)


def sha(*parts: bytes) -> bytes:
    """SHA-256 of the concatenation."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


# ---- CBOR -----------------------------------------------------------------------------------------------------------


def b16(value: object) -> bool:
    """16 bytes."""
    return isinstance(value, bytes) and len(value) == 16


def b32(value: object) -> bool:
    """32 bytes."""
    return isinstance(value, bytes) and len(value) == 32


def no_entries(value: object) -> bool:
    """An empty map."""
    return isinstance(value, Mapping) and not value


def anything(value: object) -> bool:
    """Any CBOR value."""
    return True


def positive(value: object) -> bool:
    """A number from 1 on."""
    return fits(value, int) and value > 0  # type: ignore[operator]


def grammar(value: object) -> bool:
    """What a type is made of: texts, numbers and arrays of them."""
    return all(map(grammar, value)) if isinstance(value, list) else isinstance(value, str) or fits(value, int)


MAYBE_INT = (int, None)
CLOCK_STATE = [str, MAYBE_INT, MAYBE_INT, bool]
HEAD = {1: "HSC/1/head", 2: b16, 3: b16, 4: int, 5: b32, 6: int, 7: (b32, None), 8: int, 9: int, 10: b16,
        11: CLOCK_STATE, 12: (b32, None), 13: int, 14: 1}  # fmt: skip
ED25519_KEY = {1: 1, -1: 6, -2: b32}
P256_KEY = {1: 2, -1: 1, -2: b32, -3: b32}
ML_DSA_KEY = {1: 7, 3: -49, -1: lambda value: isinstance(value, bytes) and len(value) == 1952}
ALGORITHMS = {1: -19, 2: -9, 7: -49}  # of a COSE key, by its type
NAMES = {-19: "Ed25519", -9: "ES256", -49: "ML-DSA-65"}
SESSION = {1: "HSC/1/session", 2: b16, 3: [(ED25519_KEY, P256_KEY, ML_DSA_KEY)], 4: b16, 5: int, 6: int}
CHAIN = {1: [bytes], 2: [bytes]}
DSD = {1: str, 2: grammar, 3: [positive], 4: [MAYBE_INT], 5: [[int, int, [int]]], 6: bytes, 7: 0, 8: [str, (0, 1), positive]}
OPEN = {1: b16, 2: b16, 3: int, 4: int, 5: (None, [b16, b32]), 6: {str: int}, 7: b32, 8: b16, 9: b16, 10: str}
CLOSE = {1: [[b32, [int], int]], 2: (b32, None), 3: b32, 4: str, 5: str}
GAP = {1: str, 2: MAYBE_INT, 3: MAYBE_INT, 4: str, 5: MAYBE_INT, 6: int, 7: int, 8: str}
CLOCK = {1: MAYBE_INT, 2: (None, CLOCK_STATE), 3: int, 4: int}
ROWS = {1: [b32], 2: int, 3: int, 4: b32}
RESET = {1: str, 2: MAYBE_INT, 3: int, 4: str}
FILE = {1: str, 2: int, 3: PIECE, 4: b32, 5: b32, 6: int}
BODIES: dict[int, tuple[str, Any]] = {
    2: ("DATASET", {1: b32}), 3: ("META", {1: b32}), 4: ("GAP", GAP), 5: ("CLOCK", CLOCK), 6: ("CLOSE", CLOSE), 7: ("OPEN", OPEN),
    8: ("SEQ_RESET", RESET), 9: ("ROWS", ROWS), 10: ("FILE", FILE),
}  # fmt: skip
SIDECAR = {1: FORMAT, 2: bytes, 3: [bytes], 4: CHAIN, 5: [{1: b16, 2: [bytes]}]}
RUN = {1: "HSC/1/run", 2: b16, 3: int, 4: b16, 5: [[int, b16, (str, None), int, b32, b32, int]], 6: [[str, int, b32]],
       7: (None, [str, int, b32]), 8: {str: b32}, 9: [[str, int, MAYBE_INT]], 10: str, 11: b32}  # fmt: skip
RECEIPTS = {1: "HSC/1/receipts", 2: [bytes], 3: [bytes], 4: [{1: b16, 2: int, 3: int, 4: bytes, 5: [b32]}], 5: [bytes], 6: [bytes],
            7: CHAIN}  # fmt: skip
AMENDMENT = {1: "HSC/1/amendment", 2: b16, 3: b16, 4: b32, 5: int, 6: (b32, None), 7: [[str, (str, None), str]], 8: str, 9: str, 10: int}
WITNESS = {1: "HSC/1/witness", 2: b16, 3: b16, 4: int, 5: b32, 6: b32, 7: int}
CUSTODY = {1: "HSC/1/custody", 2: b16, 3: b16, 4: b32, 5: b32, 6: int, 7: str, 8: str, 9: int, 10: str}
SLICE = {1: "HSC/1/slice", 2: str, 3: [{1: CHAIN, 2: bytes, 3: [[int, bytes, [b32]]], 4: bytes, 5: bytes, 6: [[int, int]], 7: [bytes]}],
         4: (bytes, None), 5: (bytes, None)}  # fmt: skip
SLICE_BEGINS = b"\xa5\x01\x6bHSC/1/slice"
KEY_END = {1: [b32], 2: str, 3: int}
SET_ASIDE = {1: str, 2: (b16, None), 3: str, 4: int}
LOG_BODIES: dict[int, Json] = {
    64: {1: b16, 2: b16, 3: str, 4: int}, 65: {1: [b32], 2: b32, 3: int}, 66: {1: int, 2: b16, 3: b32, 4: int},
    67: {1: int, 2: b16, 3: b32, 4: int}, 68: {1: b16, 2: b32, 3: b16, 4: int, 5: int}, 69: {1: str, 2: [b32], 3: int}, 70: KEY_END,
    71: KEY_END, 72: {1: b16, 2: b16, 3: int, 4: str, 5: int}, 73: {1: [[b16, int, b32]], 2: int}, 74: SET_ASIDE, 75: SET_ASIDE,
    76: {1: int, 2: int}, 77: {1: b32, 2: int}, 78: {1: str, 2: str, 3: int}, 79: {1: b16, 2: int, 3: int},
    80: {1: b16, 2: int, 3: b32, 4: int},
}  # fmt: skip


def fits(value: Any, spec: Any) -> bool:
    """Whether a value has a form: a type, a test, a constant, alternatives (tuple), `[item]`, a fixed list or a map."""
    if spec is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**64) <= value < 2**64  # no bignums
    if isinstance(spec, type):
        return isinstance(value, spec)
    if isinstance(spec, tuple):
        return any(fits(value, one) for one in spec)
    if isinstance(spec, list):
        if not isinstance(value, list):
            return False
        items = spec * len(value) if len(spec) == 1 else spec
        return len(items) == len(value) and all(map(fits, value, items))
    if isinstance(spec, dict):
        if not isinstance(value, dict):
            return False
        if len(spec) == 1 and isinstance(kind := next(iter(spec)), type):
            return all(fits(k, kind) and fits(v, spec[kind]) for k, v in value.items())
        return value.keys() == spec.keys() and all(fits(v, spec[k]) for k, v in value.items())
    return bool(spec(value)) if callable(spec) else type(value) is type(spec) and value == spec


def known(value: Any) -> bool:
    """Whether all that is in it is of the kinds that the format uses; True and False are no keys, though Python takes them for 1 and 0."""
    if isinstance(value, Mapping):
        return all(type(key) in (int, str) and known(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(known, value))
    return value is None or isinstance(value, str | bytes | bool) or fits(value, int)


def decode_dsd(raw: bytes, what: str) -> Json:
    """A descriptor, checked as far as that goes without its dataset."""
    dsd: Json = decode(raw, what, DSD)
    want(unicodedata.is_normalized("NFC", dsd[1]), f"{dsd[1]}: the path in the descriptor is not in form NFC")
    want(0 < len(dsd[3]) == len(dsd[4]), f"{dsd[1]}: chunks and dataset have different ranks")
    return dsd


def decode(raw: bytes, what: str, spec: Any = anything) -> Any:
    """Decode deterministic CBOR (RFC 8949 section 4.2.1), compare it with its own encoding, check its form."""
    try:
        value = cbor2.loads(raw)
        again = cbor2.dumps(value, canonical=True)
    except Exception as error:
        raise Bad(f"{what}: is not CBOR ({error})") from error
    want(again == raw, f"{what}: is not deterministic CBOR, or something follows it")
    want(known(value.value if isinstance(value, cbor2.CBORTag) else value), f"{what}: has a key or value that the format does not use")
    want(fits(value, spec), f"{what}: has other fields than the format allows")
    return value


# ---- Trees (RFC 9162) -----------------------------------------------------------------------------------------------


class Frontier:
    """The right edge of a Merkle tree; `root()` costs log2 of the size."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[bytes] = []

    def push(self, *payload: bytes) -> None:
        """Append a leaf."""
        self.push_node(sha(b"\0", *payload))

    def push_node(self, node: bytes) -> None:
        """Append a leaf by its hash."""
        size = self.size
        while size & 1:
            node, size = sha(b"\1", self.peaks.pop(), node), size >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Root over the leaves so far."""
        node = self.peaks[-1] if self.peaks else sha()
        for left in self.peaks[-2::-1]:
            node = sha(b"\1", left, node)
        return node


def included(payload: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    node, last = sha(b"\0", payload), size - 1
    for sibling in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = sha(b"\1", sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = sha(b"\1", node, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and node == root


# ---- Zstandard (RFC 8878), as far as one chunk needs it; no dictionaries ----------------------------------------------

DEFAULTS = (
    ([4, 3, *[2] * 11, 1, 1, 1, *[2] * 9, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1], 6),
    ([*[1] * 6, 2, 2, 2, *[1] * 15, *[-1] * 5], 5),
    ([1, 4, 3, *[2] * 6, *[1] * 37, *[-1] * 7], 6),
)  # literal lengths, offsets, match lengths (section 3.1.1.3.2.2)
LENGTH_BITS = [*[0] * 16, 1, 1, 1, 1, 2, 2, 3, 3, 4, *range(6, 17)]
MATCH_BITS = [*[0] * 32, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, *range(7, 17)]
Fse = tuple[int, list[tuple[int, int, int]]]  # accuracy, and by state: symbol, bits, base of the next state


def code_bases(bits: list[int], start: int) -> list[int]:
    """First value of each code: every code continues where the one before ended."""
    return list(itertools.accumulate((1 << b for b in bits[:-1]), initial=start))


LENGTH_BASES, MATCH_BASES = code_bases(LENGTH_BITS, 0), code_bases(MATCH_BITS, 3)


class Backwards:
    """A bit stream that is read from its end (section 4.1)."""

    def __init__(self, raw: bytes) -> None:
        want(raw and raw[-1], "zstd: a bit stream has no end")
        self.raw, self.at = raw, 8 * len(raw) - 9 + raw[-1].bit_length()

    def peek(self, count: int) -> int:
        """The next bits; before the beginning there are zeros."""
        low = self.at - count
        if low < 0:
            return (int.from_bytes(self.raw[:8], "little") & (1 << max(self.at, 0)) - 1) << -low & (1 << count) - 1
        return int.from_bytes(self.raw[low >> 3 : (low >> 3) + 8], "little") >> (low & 7) & (1 << count) - 1

    def take(self, count: int) -> int:
        """The next bits, consumed."""
        value = self.peek(count)
        self.at -= count
        return value


def fse_table(shares: list[int], accuracy: int) -> Fse:
    """Decoding table of a distribution (section 4.1.1)."""
    size, high = 1 << accuracy, (1 << accuracy) - 1
    symbols, following = [0] * size, [max(share, 1) for share in shares]
    for symbol, share in enumerate(shares):
        if share == -1:
            symbols[high] = symbol
            high -= 1
    at = 0
    for symbol, share in enumerate(shares):
        for _ in range(share):
            symbols[at] = symbol
            at = (at + (size >> 1) + (size >> 3) + 3) & size - 1
            while at > high:
                at = (at + (size >> 1) + (size >> 3) + 3) & size - 1
    table = []
    for symbol in symbols:
        bits = accuracy + 1 - following[symbol].bit_length()
        table.append((symbol, bits, (following[symbol] << bits) - size))
        following[symbol] += 1
    return accuracy, table


def read_fse(raw: bytes, most: int, symbols: int) -> tuple[Fse, int]:
    """A table description and its length in bytes (section 4.1.1)."""
    stream, at = int.from_bytes(raw[:512], "little"), 4
    accuracy = (stream & 15) + 5
    want(accuracy <= most, "zstd: an accuracy out of range")
    left, shares = 1 << accuracy, list[int]()
    while left > 0 and len(shares) < symbols:
        bits = (left + 1).bit_length()
        value, few = stream >> at & (1 << bits) - 1, (1 << bits) - 2 - left
        low = value & (1 << bits - 1) - 1
        short = low < few
        value = low if short else value - few * (value >= 1 << bits - 1)
        at += bits - short
        shares.append(value - 1)
        left -= abs(value - 1)
        while value == 1:  # a share of zero: how many more follow
            shares += [0] * (more := stream >> at & 3)
            at += 2
            if more != 3:
                break
    want(left == 0 and len(shares) <= symbols and at <= 8 * len(raw), "zstd: a damaged distribution")
    return fse_table(shares, accuracy), (at + 7) // 8


class Zstd:
    """Decodes one frame; what one block leaves for the next is kept here."""

    def __init__(self, most: int) -> None:
        self.most, self.out = most, bytearray()
        self.huffman: tuple[int, list[tuple[int, int]]] | None = None
        self.tables: list[Fse | None] = [None, None, None]
        self.offsets = [1, 4, 8]

    def frame(self, raw: bytes) -> bytes:
        """The content of a frame that is all of `raw`, at most `most` bytes."""
        want(raw[:4] == b"\x28\xb5\x2f\xfd" and len(raw) > 5, "zstd: is not a frame")
        single = raw[4] >> 5 & 1
        want(raw[4] & 3 == 0, "zstd: needs a dictionary")
        at, last = 5 + (1 - single) + ((single, 2, 4, 8)[raw[4] >> 6]), 0
        while not last:
            header = int.from_bytes(raw[at : at + 3], "little")
            last, kind, size = header & 1, header >> 1 & 3, header >> 3
            at += 3
            taken = 1 if kind == 1 else size
            want(kind < 3 and at + taken <= len(raw) and size <= 1 << 17, "zstd: a damaged block")
            part = raw[at : at + taken]
            self.out += part if kind == 0 else part * size if kind == 1 else b""
            if kind == 2:
                self.block(part)
            want(len(self.out) <= self.most, "zstd: holds more than its chunk")
            at += taken
        want(at + 4 * (raw[4] >> 2 & 1) == len(raw), "zstd: something follows the frame")
        return bytes(self.out)

    def block(self, raw: bytes) -> None:
        """A compressed block: literals, then sequences (section 3.1.1.3)."""
        literals, at = self.literals(raw)
        count, at = raw[at], at + 1
        if count == 255:
            count, at = int.from_bytes(raw[at : at + 2], "little") + 0x7F00, at + 2
        elif count >= 128:
            count, at = (count - 128 << 8) + raw[at], at + 1
        used = self.sequences(raw, at, count, literals) if count else 0
        self.out += literals[used:]

    def literals(self, raw: bytes) -> tuple[bytes, int]:
        """The literals of a block, and where its sequences begin (section 3.1.1.3.1)."""
        kind, form, head = raw[0] & 3, raw[0] >> 2 & 3, int.from_bytes(raw[:5], "little")
        if kind < 2:
            at, size = (1, head >> 3 & 31) if not form & 1 else (2, head >> 4 & 0xFFF) if form == 1 else (3, head >> 4 & 0xFFFFF)
            return (raw[at : at + size], at + size) if kind == 0 else (raw[at : at + 1] * size, at + 1)
        bits = (10, 10, 14, 18)[form]
        at = (3, 3, 4, 5)[form]
        size, end = head >> 4 & (1 << bits) - 1, at + (head >> 4 + bits & (1 << bits) - 1)
        want(end <= len(raw) and size <= 1 << 17, "zstd: damaged literals")
        if kind == 2:
            at += self.read_huffman(raw[at:end])
        if form == 0:
            return self.stream(raw[at:end], size), end
        ends = list(itertools.accumulate((at + 6, *struct.unpack_from("<HHH", raw, at))))
        each = (size + 3) // 4
        parts = [self.stream(raw[a:b], n) for a, b, n in zip(ends, [*ends[1:], end], (each, each, each, size - 3 * each), strict=True)]
        return b"".join(parts), end

    def read_huffman(self, raw: bytes) -> int:
        """Read a tree description; returns its length (section 4.2.1)."""
        head, weights = raw[0], list[int]()
        if head >= 128:
            used = 1 + (head - 126) // 2
            weights = [n for byte in raw[1:used] for n in (byte >> 4, byte & 15)][: head - 127]
        else:
            used = 1 + head
            (accuracy, table), at = read_fse(raw[1:used], 6, 256)
            bits = Backwards(raw[1 + at : used])
            states, turn = [bits.take(accuracy), bits.take(accuracy)], 0
            while len(weights) < 255:
                symbol, count, base = table[states[turn]]
                weights.append(symbol)
                if bits.at < count:
                    weights.append(table[states[1 - turn]][0])
                    break
                states[turn], turn = base + bits.take(count), 1 - turn
        total = sum(1 << weight - 1 for weight in weights if weight)
        want(total and max(weights) <= 11 and used <= len(raw), "zstd: a damaged Huffman tree")
        depth = total.bit_length()
        rest = (1 << depth) - total
        want(rest & rest - 1 == 0, "zstd: a damaged Huffman tree")
        weights.append(rest.bit_length())
        ordered = [(w, symbol) for w in range(1, depth + 1) for symbol, one in enumerate(weights) if one == w]
        self.huffman = depth, [(symbol, depth + 1 - w) for w, symbol in ordered for _ in range(1 << w - 1)]
        return used

    def stream(self, raw: bytes, size: int) -> bytes:
        """`size` symbols of one Huffman stream (section 4.2.2)."""
        want(self.huffman, "zstd: no Huffman tree yet")
        depth, table = self.huffman or (0, [])
        bits, out, mask = Backwards(raw), bytearray(), (1 << depth) - 1
        padded, at = bytes(4) + raw + bytes(4), bits.at + 32  # zeros before the beginning, so that nothing is negative
        for _ in range(size):
            low = at - depth
            symbol, used = table[int.from_bytes(padded[low >> 3 : (low >> 3) + 4], "little") >> (low & 7) & mask]
            at -= used
            out.append(symbol)
            if at < 32:
                break
        want(at == 32 and len(out) == size, "zstd: a damaged Huffman stream")
        return bytes(out)

    def sequences(self, raw: bytes, at: int, count: int, literals: bytes) -> int:
        """Carry out the sequences; returns how many literals they used (section 3.1.1.4)."""
        modes, at = raw[at], at + 1
        for n, (shift, most, symbols) in enumerate(((6, 9, 36), (4, 8, 32), (2, 9, 53))):
            mode = modes >> shift & 3
            if mode == 0:
                self.tables[n] = fse_table(*DEFAULTS[n])
            elif mode == 1:
                self.tables[n], at = (0, [(raw[at], 0, 0)]), at + 1
            elif mode == 2:
                self.tables[n], used = read_fse(raw[at:], most, symbols)
                at += used
        want(all(self.tables), "zstd: no table yet")
        tables: list[Any] = self.tables
        bits, used = Backwards(raw[at:]), 0
        states = [bits.take(accuracy) for accuracy, _ in tables]
        for n in range(count):
            (length, a, x), (offset, b, y), (match, c, z) = (table[state] for (_, table), state in zip(tables, states, strict=True))
            distance = (1 << offset) + bits.take(offset)
            size = MATCH_BASES[match] + bits.take(MATCH_BITS[match])
            run = LENGTH_BASES[length] + bits.take(LENGTH_BITS[length])
            if n < count - 1:
                first = x + bits.take(a)
                third = z + bits.take(c)
                states = [first, y + bits.take(b), third]
            distance = self.distance(distance, run)
            self.out += literals[used : used + run]
            used += run
            possible = 0 < distance <= len(self.out) and used <= len(literals) and len(self.out) + size <= self.most
            want(possible, "zstd: a damaged sequence")
            start = len(self.out) - distance
            self.out += (self.out[start:] * (size // distance + 1))[:size] if distance < size else self.out[start : start + size]
        want(bits.at == 0, "zstd: a damaged sequence stream")
        return used

    def distance(self, value: int, run: int) -> int:
        """The distance of a match; the last three are remembered (section 3.1.1.5)."""
        if value > 3:
            self.offsets = [value - 3, *self.offsets[:2]]
        elif which := value - (run != 0):
            found = self.offsets[0] - 1 if which == 3 else self.offsets[which]
            self.offsets = [found, *(self.offsets[:2] if which != 1 else (self.offsets[0], self.offsets[2]))]
        return self.offsets[0]


# ---- Keys and signatures --------------------------------------------------------------------------------------------


def thumbprint(key: Json) -> bytes:
    """RFC 9679 thumbprint of a COSE key."""
    return sha(cbor2.dumps(key, canonical=True))


def holds(key: Json, signature: bytes, signed: bytes, what: str) -> bool:
    """Check a signature; False when this build of cryptography has no ML-DSA."""
    try:
        if key[1] == 1:
            Ed25519PublicKey.from_public_bytes(key[-2]).verify(signature, signed)
        elif key[1] == 2:
            want(len(signature) == 64, f"{what}: the signature is wrong")
            dss = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
            point(key, what).verify(dss, signed, ec.ECDSA(hashes.SHA256()))
        else:
            from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

            MLDSA65PublicKey.from_public_bytes(key[-1]).verify(signature, signed)
    except InvalidSignature:
        raise Bad(f"{what}: the signature is wrong") from None
    except (ImportError, UnsupportedAlgorithm):
        return False
    return True


def point(key: Json, what: str) -> ec.EllipticCurvePublicKey:
    """A P-256 key; its point must lie on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + key[-2] + key[-3])
    except ValueError as error:
        raise Bad(f"{what}: a P-256 key is no point of the curve ({error})") from error


def lists(value: Any) -> Any:
    """Arrays as lists: cbor2 gives tuples inside of a tag."""
    return [lists(one) for one in value] if isinstance(value, list | tuple) else value


def cose_parts(item: Any, tag: int, last: Any, what: str) -> list[Any]:
    """The four parts of a COSE_Sign1 (tag 18) or COSE_Sign (tag 98), given as bytes or as tagged item."""
    found = decode(item, what) if isinstance(item, bytes) else item
    parts = lists(found.value) if isinstance(found, cbor2.CBORTag) and isinstance(found.value, list | tuple) else []
    form = parts and found.tag == tag and fits(parts, [bytes, no_entries, bytes, last])
    want(form, f"{what}: is not a tagged COSE_Sign{'1' if tag == 18 else ''} with an empty unprotected header")
    return parts


def unwrap(item: Any, what: str) -> tuple[Json, bytes, bytes, bytes]:
    """Protected header, payload, signature and signature input of a COSE_Sign1."""
    protected, _, payload, signature = cose_parts(item, 18, bytes, what)
    header = decode(protected, f"{what}: protected header", {1: (-19, -9), 3: str, 4: b32})
    return header, payload, signature, cbor2.dumps(["Signature1", protected, b"", payload], canonical=True)


def open_cose(item: Any, kind: str, keys: dict[bytes, Json], what: str) -> tuple[bytes, bytes]:
    """Check a COSE_Sign1; `keys` are COSE keys by kid. Returns payload and kid."""
    header, payload, signature, signed = unwrap(item, what)
    kid = header[4]
    want(header[3] == f"application/x.hsc1-{kind}+cbor", f"{what}: has content type {header[3]!r}")
    want(kid in keys, f"{what}: is signed by a key that nothing here vouches for")
    want(header[1] == ALGORITHMS[keys[kid][1]], f"{what}: names another algorithm than its key")
    holds(keys[kid], signature, signed, what)
    return payload, kid


def open_cose_of_all(item: Any, kind: str, sessions: dict[bytes, Session], what: str) -> tuple[bytes, Session, str]:
    """Check a COSE_Sign by a session. Returns payload, session and the downgrade: what its record promises and is not there."""
    body, _, payload, signatures = cose_parts(item, 98, [[bytes, no_entries, bytes]], what)
    content_type = decode(body, f"{what}: protected header", {3: str})[3]
    want(content_type == f"application/x.hsc1-{kind}+cbor", f"{what}: has content type {content_type!r}")
    want(signatures, f"{what}: has no signature")
    headers = [decode(one[0], f"{what}: header of a signature", {1: int, 4: b32}) for one in signatures]
    session = sessions.get(headers[0][4])
    want(session, f"{what}: is signed by a key that nothing here vouches for")
    assert session is not None  # noqa: S101 - by the line above
    keys = {thumbprint(key): key for key in session.keys}
    want(all(h[4] in keys for h in headers), f"{what}: is signed by a key that nothing here vouches for")
    order = [list(keys).index(h[4]) for h in headers]
    want(order == sorted(set(order)), f"{what}: has a signature twice, or out of order")
    missing = dict.fromkeys(keys)
    for header, (protected, _, signature) in zip(headers, signatures, strict=True):
        key = keys[header[4]]
        want(header[1] == ALGORITHMS[key[1]], f"{what}: names another algorithm than its key")
        if holds(key, signature, cbor2.dumps(["Signature", body, protected, b"", payload], canonical=True), what):
            del missing[header[4]]
    want(len(missing) < len(keys), f"{what}: has no signature that can be checked here")
    lacks = " and no ".join(NAMES[ALGORITHMS[keys[kid][1]]] for kid in missing)
    return payload, session, f"{what} has no {lacks} signature that holds, and its session record promises one" if lacks else ""


def key_with_name(certificate: x509.Certificate, pattern: str) -> tuple[Json, str] | None:
    """COSE key (Ed25519 or P-256) and the one URI name that matches; None when the certificate is another kind."""
    try:
        key = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if re.fullmatch(pattern, uri)]
    if len(uris) != 1:
        return None
    if isinstance(key, Ed25519PublicKey):
        return {1: 1, -1: 6, -2: key.public_bytes_raw()}, uris[0]
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        numbers = key.public_numbers()
        return {1: 2, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}, uris[0]
    return None


def names_agent(certificate: x509.Certificate) -> bool:
    """Whether a certificate is one of an identity, right or wrong."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    return any(uri.startswith("urn:hsc:agent:") for uri in names.get_values_for_type(x509.UniformResourceIdentifier))


@dataclass(frozen=True, slots=True)
class Roots:
    """What the caller trusts: certificates, or the SHA-256 of one that the key chain must then contain; `stampers` for time-stamps."""

    certificates: tuple[bytes, ...] = ()
    fingerprint: bytes | None = None
    stampers: tuple[bytes, ...] = ()

    @property
    def given(self) -> bool:
        """Whether there is a root at all."""
        return bool(self.certificates or self.fingerprint)

    def certify(self, certificate: x509.Certificate, carried: Iterable[bytes]) -> bool:
        """Whether a root issued the certificate, or is it. Dates do not count (keys are valid by position in the log)."""
        for der in (*self.certificates, *(c for c in carried if sha(c) == self.fingerprint)):
            root = x509.load_der_x509_certificate(der)
            if root == certificate:
                return True
            with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
                certificate.verify_directly_issued_by(root)
                if root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Session:
    """The keys of a session (COSE keys) and who vouches for them."""

    keys: tuple[Json, ...]
    agent_id: bytes
    boot_id: bytes
    identity: bytes
    trusted: bool


def certificates(ders: list[bytes], what: str) -> list[x509.Certificate]:
    """Parse certificates."""
    try:
        return [x509.load_der_x509_certificate(der) for der in ders]
    except (ValueError, x509.InvalidVersion) as error:
        raise Bad(f"{what}: a certificate cannot be read ({error})") from error


def open_chain(item: Any, roots: Roots, what: str) -> dict[bytes, Session]:
    """Check a key chain (as bytes or map): sessions by the kid of each of their keys."""
    chain = decode(item, what) if isinstance(item, bytes) else item
    want(fits(chain, CHAIN), f"{what}: has other fields than the format allows")
    keys: dict[bytes, Json] = {}
    owners: dict[bytes, tuple[str, bool]] = {}
    order, seen, agents = list[bytes](), set[x509.Certificate](), set[str]()
    below: x509.Certificate | None = None
    for certificate in certificates(chain[1], what):
        if names_agent(certificate):
            found = key_with_name(certificate, r"urn:hsc:agent:(?s:.*)")
            named = found and re.fullmatch("[0-9a-f]{32}", found[1].removeprefix("urn:hsc:agent:"))
            want(named, f"{what}: an identity certificate has another kind of key, or not one name of an agent")
            want(certificate not in seen, f"{what}: an identity certificate stands there twice")
            seen.add(certificate)
            assert found is not None  # noqa: S101 - by the line above
            kid = thumbprint(found[0])
            trusted = roots.certify(certificate, chain[1]) or (kid in owners and owners[kid][1])
            keys[kid], owners[kid] = found[0], (found[1][-32:], trusted)
            agents.add(found[1])
            order += [kid] if order[-1:] != [kid] else []
            below = certificate
        else:
            want(below is not None and issued(below, certificate), f"{what}: a certificate is no identity and certifies none before it")
            below = None
    want(len(agents) == 1, f"{what}: has identity certificates of no agent or of several")
    signers = list[bytes]()
    sessions: dict[bytes, Session] = {}
    for number, record in enumerate(chain[2]):
        name = f"{what}: session record {number}"
        payload, kid = open_cose(record, "session", keys, name)
        signers += [kid] if kid not in signers else []
        body = decode(payload, name, SESSION)
        want(body[2].hex() == owners[kid][0], f"{name}: names another agent than its identity certificate")
        kinds = [key[1] for key in body[3]]
        want(kinds and kinds[0] in (1, 2) and kinds[1:] in ([], [7]), f"{name}: the keys are not Ed25519 or P-256, then perhaps ML-DSA-65")
        if kinds[0] == 2:
            point(body[3][0], name)
        session = Session(tuple(body[3]), body[2], body[4], kid, owners[kid][1])
        sessions |= {thumbprint(key): session for key in body[3]}
    want(sessions, f"{what}: holds no session record")
    want(order == signers, f"{what}: has identities that signed no session record, or not in the order of what they signed")
    return sessions


def open_head(item: Any, sessions: dict[bytes, Session], what: str) -> tuple[Any, bytes, Session, str]:
    """Check a head: its map, its hash, its session, its downgrade."""
    payload, session, downgrade = open_cose_of_all(item, "head", sessions, what)
    head = decode(payload, what, HEAD)
    want(head[2] == session.agent_id, f"{what}: names another agent than its key")
    want(head[10] == session.boot_id, f"{what}: names another boot than its session key")
    return head, sha(payload), session, downgrade


# ---- Time-stamps (RFC 3161 and RFC 5652, DER) ------------------------------------------------------------------------

SIGNED_DATA, TST_INFO = bytes.fromhex("06092a864886f70d010702"), bytes.fromhex("060b2a864886f70d0109100104")
CONTENT_TYPE, MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010903"), bytes.fromhex("06092a864886f70d010904")
SIGNING_CERTIFICATE = bytes.fromhex("060b2a864886f70d010910022f")
DIGESTS = {bytes.fromhex("0609608648016503040201"): hashes.SHA256(), bytes.fromhex("0609608648016503040202"): hashes.SHA384(),
           bytes.fromhex("0609608648016503040203"): hashes.SHA512()}  # fmt: skip


def der(raw: bytes) -> list[tuple[int, bytes, bytes]]:
    """Tag, content and whole of the items that stand one after the other."""
    found, at = [], 0
    while at < len(raw):
        start, size = at + 2, raw[at + 1] if at + 1 < len(raw) else 0x80
        if size > 127:
            start, size = start + size - 128, int.from_bytes(raw[start : start + size - 128])
        want(raw[at + 1 : at + 2] != b"\x80" and at + 2 <= start <= start + size <= len(raw), "is not DER")
        found.append((raw[at], raw[start : start + size], raw[at : start + size]))
        at = start + size
    return found


def structure(raw: bytes, tags: str, optional: str = "") -> list[tuple[int, bytes, bytes]]:
    """The items of some content, which must have these tags (hexadecimal), then some of the optional ones in their order."""
    items = der(raw)
    found = bytes(tag for tag, _, _ in items)
    must, may = bytes.fromhex(tags), iter(bytes.fromhex(optional))
    want(found[: len(must)] == must and all(tag in may for tag in found[len(must) :]), "has another structure")
    # An object identifier ends with its last part; versions and serial numbers are not negative.
    ends = [content[-1:] if tag == 0x06 else content[:1] for tag, content, _ in items if tag in (0x02, 0x06)]
    want(all(b"" < end < b"\x80" for end in ends), "has another structure")
    return items


def digest_of(algorithm: bytes) -> hashes.HashAlgorithm:
    """The hash of an AlgorithmIdentifier's content."""
    oid, *none = structure(algorithm, "06", "05")
    want(oid[2] in DIGESTS and all(not n[1] for n in none), "uses a hash other than SHA-256, SHA-384 and SHA-512")
    return DIGESTS[oid[2]]


def hashed(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    """The digest of some bytes."""
    return hashlib.new(algorithm.name, data).digest()


def open_token(token: bytes, stampers: tuple[bytes, ...]) -> tuple[bytes, datetime.datetime]:
    """Check a TimeStampToken: the SHA-256 digest that it is about, and its time. Revocation is not looked up."""
    try:
        ((_, whole, _),) = structure(token, "30")
        kind, explicit = structure(whole, "06a0")
        want(kind[2] == SIGNED_DATA, "is no CMS SignedData")
        _, algorithms, content, *rest, signers = structure(structure(explicit[1], "30")[0][1], "023130", "a0a131")
        for tag, inner, _ in rest:
            # The signature of a certificate is a whole number of bytes.
            want(tag != 0xA0 or all(structure(one, "303003")[2][1][:1] == b"\0" for _, one, _ in der(inner)), "has another structure")
        for tag, algorithm_used, _ in der(algorithms[1]):
            want(tag == 0x30 and digest_of(algorithm_used), "has another structure")
        carried = [x509.load_der_x509_certificate(whole) for tag, inner, _ in rest if tag == 0xA0 for _, _, whole in der(inner)]
        inner_kind, inner = structure(content[1], "06a0")
        want(inner_kind[2] == TST_INFO, "holds no TSTInfo")
        info = structure(inner[1], "04")[0][1]
        _, _, imprint, _, when, *_ = structure(structure(info, "30")[0][1], "0206300218", "300102a0a1")
        algorithm, digest = structure(imprint[1], "3004")
        time = datetime.datetime.strptime(when[1].decode().partition(".")[0].rstrip("Z") + "+0000", "%Y%m%d%H%M%S%z")
        want(signers[0] == 0x31, "has no signer")
        certificate = check_signer(structure(structure(signers[1], "30")[0][1], "023030a03004", "a1"), info, carried)
        want(digest_of(algorithm[1]).name == "sha256" and b32(digest[1]), "is not over a SHA-256 digest")
        want(leads(certificate, carried, stampers, time), "no given root vouches for it at its time")
    except Bad:
        raise
    except Exception as error:  # whatever is in it, a token adds nothing and takes nothing away
        raise Bad(f"cannot be read, or its signature is wrong ({type(error).__name__}: {error})") from error
    return digest[1], time


def check_signer(signer: list[tuple[int, bytes, bytes]], info: bytes, carried: list[x509.Certificate]) -> x509.Certificate:
    """Check the one SignerInfo of a token; returns the certificate that signed."""
    _, name, hash_of_info, attributes, algorithm_of_key, signature = signer[:6]
    structure(algorithm_of_key[1], "06", "0530")
    issuer, serial = structure(name[1], "3002")
    same = [c for c in carried if c.issuer.public_bytes() == issuer[2] and c.serial_number == int.from_bytes(serial[1], signed=True)]
    want(same, "does not carry the certificate that signed it")
    certificate, algorithm = same[0], digest_of(hash_of_info[1])
    values = {kind[2]: der(value[1]) for _, pair, _ in der(attributes[1]) for kind, value in [der(pair)]}
    want([v[2] for v in values.get(CONTENT_TYPE, [])] == [TST_INFO], "signs another type of content")
    want([v[1] for v in values.get(MESSAGE_DIGEST, [])] == [hashed(algorithm, info)], "signs another TSTInfo")
    want(SIGNING_CERTIFICATE in values, "does not name the certificate that signed it")
    named = der(der(der(values[SIGNING_CERTIFICATE][0][1])[0][1])[0][1])
    certificate_hash = hashes.SHA256() if named[0][0] == 0x04 else digest_of(named[0][1])
    raw = certificate.public_bytes(Encoding.DER)
    want(next(v[1] for v in named if v[0] == 0x04) == hashed(certificate_hash, raw), "names another certificate than its signer")
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    want(usage.critical and list(usage.value) == [x509.ExtendedKeyUsageOID.TIME_STAMPING], "is signed by a certificate that may not stamp")
    key, data = certificate.public_key(), b"\x31" + attributes[2][1:]
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature[1], data, padding.PKCS1v15(), algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature[1], data, ec.ECDSA(algorithm))
    else:
        want(isinstance(key, Ed25519PublicKey), "is signed with an algorithm that this verifier does not know")
        key.verify(signature[1], data)  # type: ignore[union-attr, call-arg]
    return certificate


def leads(certificate: x509.Certificate, carried: list[x509.Certificate], stampers: tuple[bytes, ...], time: datetime.datetime) -> bool:
    """Whether a chain of at most 8 certificates, each valid at that time, leads to a root."""
    roots = [x509.load_der_x509_certificate(raw) for raw in stampers]
    at = certificate
    for _ in range(8):
        if not at.not_valid_before_utc <= time <= at.not_valid_after_utc:
            return False
        if at in roots:
            return True
        above = next((c for c in (*roots, *carried) if c != at and issued(at, c)), None)
        if above is None:
            return False
        at = above
    return False


def issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether a CA signed a certificate."""
    with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        certificate.verify_directly_issued_by(authority)
        return authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return False


# ---- The log of a segment -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Log:
    """What the leaves of one tree say. `chunks`: dsd -> {offset: (mask, size, hash)}, in order of writing."""

    roots: dict[int, bytes] = field(default_factory=dict)
    open: Json = field(default_factory=dict)
    close: Json = field(default_factory=dict)
    datasets: list[bytes] = field(default_factory=list)
    chunks: dict[bytes, dict[tuple[int, ...], tuple[int, int, bytes]]] = field(default_factory=dict)
    numbers: dict[bytes, list[int]] = field(default_factory=dict)
    frames: dict[bytes, list[int]] = field(default_factory=dict)
    meta: bytes | None = None
    gaps: list[Json] = field(default_factory=list)
    files: list[Json] = field(default_factory=list)
    clocks: list[tuple[int, Json]] = field(default_factory=list)
    rows: list[Json] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    epochs: list[bytes] = field(default_factory=list)
    size: int = 0


def read_log(payloads: Iterable[bytes], sizes: set[int], dsds: dict[bytes, Json]) -> Log:
    """Read leaves in order and check what concerns order: OPEN, CLOSE, DATASET before CHUNK, continuity."""
    log, tree, epoch = Log(roots={0: sha()}), Frontier(), Frontier()
    steps = {d[8][0]: d[8][2] for d in dsds.values() if d[8][1] == 1}
    following: dict[str, int] = {}

    def advance(source: str, first: int, end: int, what: str) -> None:
        expected = following.get(source, first)
        hole = f"{what}: source {source} goes on at {first}, but {expected} is next: numbers are missing or repeated"
        want(first == expected and first <= end, hole)
        following[source] = end + steps[source]

    for index, payload in enumerate(payloads):
        what = f"leaf {index}"
        node = sha(b"\0", payload)
        tree.push_node(node)
        if epoch.size == EPOCH:
            log.epochs.append(epoch.root())
            epoch = Frontier()
        epoch.push_node(node)
        if tree.size in sizes:
            log.roots[tree.size] = tree.root()
        want(not log.close, f"{what}: stands after CLOSE")
        want(len(payload) > 5 and payload[:4] == b"HSC1", f"{what}: is not a leaf")
        kind = payload[4]
        want((kind == 7) == (index == 0), f"{what}: OPEN must be leaf 0 and only leaf 0")
        if kind == 1:
            offset, dsd, entry, first, end, segment_id = parse_chunk(payload, what)
            want(dsd in log.chunks, f"{what}: a chunk of a dataset that no DATASET leaf announced")
            what = f"{dsds[dsd][1]} chunk at {list(offset)} ({what})"
            want(segment_id == log.open[9], f"{what}: belongs to another segment")
            want(len(offset) == len(dsds[dsd][3]), f"{what}: has the wrong rank")
            want(offset not in log.chunks[dsd], f"{what}: is in the tree twice")
            check_mask(entry[0], dsds[dsd], what)
            source, frames, _ = dsds[dsd][8]
            numbered = first == end and (first != NO_COUNTER) == bool(frames)
            want(numbered, f"{what}: does not have the numbers of its kind of source")
            if frames:
                advance(source, first, end, what)
            log.chunks[dsd][offset] = entry
            log.numbers[dsd].append(index)
            log.frames.setdefault(dsd, []).append(first)
            continue
        want(kind in BODIES, f"{what}: is of the unknown type {kind}")
        name, spec = BODIES[kind]
        body = decode(payload[5:], f"{what} ({name})", spec)
        if kind == 2:
            want(body[1] in dsds and body[1] not in log.chunks, f"{what}: announces a dataset without descriptor, or one twice")
            log.datasets.append(body[1])
            log.chunks[body[1]], log.numbers[body[1]] = {}, []
        elif kind == 3:
            log.meta = body[1]
        elif kind == 4:
            log.gaps.append(body)
            want((body[2] is None) == (body[3] is None), f"{what} (GAP): has only one of its two numbers")
            if body[2] is not None and body[1] in steps:
                advance(body[1], body[2], body[3], f"{what} (GAP)")
        elif kind == 5:
            want(body[1] is not None or body[2] is not None, f"{what} (CLOCK): says nothing")
            log.clocks.append((index, body))
        elif kind == 6:
            log.close = body
        elif kind == 7:
            log.open = body
            following.update({source: body[6][source] + step for source, step in steps.items() if source in body[6]})
        elif kind == 8 and body[1] in steps:
            following[body[1]] = body[3]
        elif kind == 9:
            check_rows(body, log, dsds, f"{what} (ROWS)")
            log.rows.append(body)
        elif kind == 10:
            log.files.append(body)
    want(log.close, "the last leaf is not CLOSE")
    nothing = log.meta is None and log.close[2] == bytes(32)  # a series of files has no META
    want(nothing or log.close[2] == log.meta, "CLOSE names another META digest than the last META leaf")
    want(log.close[3] == log.open[7], "CLOSE names another policy than OPEN")
    want(log.close[5] in ("rolled", "run-end", "recovered", "failed"), f"CLOSE has the reason {log.close[5]!r}")
    log.last = {source: n - steps[source] for source, n in following.items()}
    log.size = tree.size
    log.epochs.append(epoch.root())
    return log


def check_rows(body: Json, log: Log, dsds: dict[bytes, Json], what: str) -> None:
    """The rows must lie within one chunk that nobody signed yet, in each of the columns."""
    names, first, n = body[1], body[2], body[3]
    want(names and len(set(names)) == len(names), f"{what}: names no dataset, or one twice")
    want(all(name in log.chunks for name in names), f"{what}: names a dataset that no DATASET leaf announced")
    lengths = {dsds[name][3][0] if dsds[name][3] and dsds[name][4][1:] == dsds[name][3][1:] else 0 for name in names}
    want(len(lengths) == 1 and lengths != {0}, f"{what}: its datasets are not chunked alike by rows")
    (length,) = lengths
    where = f"{what}: rows {first} to {first + n - 1} of {dsds[names[0]][1]}"
    want(first >= 0 < n and first % length + n <= length, f"{where} are not within one chunk")
    place = first - first % length
    signed = [name for name in names if (place, *[0] * (len(dsds[name][3]) - 1)) in log.chunks[name]]
    want(not signed, f"{where} are signed after their chunk")


def clock_warning(heads: list[Json], clocks: list[tuple[int, Json]]) -> str:
    """What is impossible about the times of the anchor heads of one boot; it damages nothing."""
    for n, (before, head) in enumerate(itertools.pairwise(heads)):
        if before[10] != head[10]:
            continue
        leaves = [body for index, body in clocks if before[4] <= index < head[4]]
        passed = head[9] - before[9]
        gained = head[8] - before[8] - passed - sum(body[1] or 0 for body in leaves)
        unsure = sum(max(one[11][2] or 0, 0) for one in (before, head))
        states = [before[11], *(body[2] for body in leaves if body[2] is not None)]
        between = f"between head {n} and head {n + 1}"
        if passed < 0:
            return f"the boot clock ran backwards {between}"
        if abs(gained) > 5_000_000 + passed // 2000 + unsure:
            return f"the wall clock moved by {gained / 1e9:.3f} s {between} and no CLOCK leaf says why"
        if [states[-1][0], states[-1][3]] != [head[11][0], head[11][3]]:
            return f"the state of the clock changed {between} and no CLOCK leaf says so"
    return ""


def parse_chunk(payload: bytes, what: str) -> tuple[tuple[int, ...], bytes, tuple[int, int, bytes], int, int, bytes]:
    """Offset, dsd, (filter mask, stored size, hash), seq_first, seq_last and segment_id of a CHUNK leaf."""
    rank = payload[53] if len(payload) > 53 else 0
    want(0 < rank <= 32 and len(payload) == 122 + 8 * rank, f"{what} (CHUNK): has the wrong length")
    segment_id, dsd, _, *offset, mask, size, digest, _, first, end = struct.unpack(f">16s32sB{rank}QIQ32sqQQ", payload[5:])
    return tuple(offset), dsd, (mask, size, digest), first, end, segment_id


def check_mask(mask: int, dsd: Json, what: str) -> None:
    """The filters that a chunk left out are among those of its dataset."""
    want(not mask >> len(dsd[5]), f"{what}: the filter mask {mask:#x} names filters that the dataset does not have")


def check_close(head: Json, log: Log, what: str) -> None:
    """The close head must cover exactly the log."""
    want(head[3] == log.open[9], f"{what}: belongs to another tree")
    want(head[2] == log.open[1], f"{what}: names another agent than OPEN")
    want(head[4] == log.size, f"{what}: covers {head[4]} leaves, the file has {log.size}")
    want(head[5] == log.roots[log.size], f"{what}: the leaves do not give its root: a leaf was changed")
    want(head[13] != 3, f"{what}: the agent itself declared this segment damaged")
    want(head[13] in (1, 2), f"{what}: is not the head of a closed segment")


def facts(log: Log, state: int, head_hash: bytes, session: Session) -> Json:
    """What a run compares with its statement, as JSON."""
    counts: dict[str, list[int | None]] = {}
    for gap in log.gaps:
        number, count = counts.get(gap[1], [0, 0])
        counts[gap[1]] = [(number or 0) + 1, None if count is None or gap[5] is None else count + gap[5]]
    one = log.open
    return {"agent": one[1].hex(), "run": one[2].hex(), "run_no": one[3], "ordinal": one[4], "series": one[10], "policy": one[7].hex(),
            "previous": one[5] and [one[5][0].hex(), one[5][1].hex()], "start": one[6], "last": log.last, "segment": one[9].hex(),
            "head": head_hash.hex(), "state": state, "trusted": session.trusted, "identity": session.identity.hex(), "gaps": len(log.gaps),
            "gap_counts": counts, "chunks": sum(map(len, log.chunks.values())), "uncounted": [], "downgrade": "", "clock": "",
            "early": []}  # fmt: skip


# ---- HDF5: types, values, META --------------------------------------------------------------------------------------


def type_of(tid: Any, what: str) -> list[Any]:
    """The type as an array of the page; refuses everything that the page does not know."""
    want(not tid.committed(), f"{what}: uses a committed type")
    kind, size = tid.get_class(), tid.get_size()
    if kind in (h5t.INTEGER, h5t.FLOAT):
        order = tid.get_order()
        plain = order in (0, 1) and tuple(tid.get_pad()) == (0, 0)
        if kind == h5t.INTEGER and plain:
            return ["int", size, order, tid.get_sign(), tid.get_precision(), tid.get_offset()]
        # The form of a float has no place for these, and readers obey them.
        if plain and tid.get_norm() == h5t.NORM_IMPLIED and tid.get_inpad() == h5t.PAD_ZERO and tid.get_offset() == 0:
            return ["flt", size, order, list(map(int, tid.get_fields())), tid.get_ebias(), tid.get_precision()]
    elif kind == h5t.STRING:
        tail = [int(tid.get_strpad()), int(tid.get_cset())]
        return ["vstr", *tail] if tid.is_variable_str() else ["str", size, *tail]
    elif kind == h5t.ENUM:
        members = [[tid.get_member_name(i).decode(), int(tid.get_member_value(i))] for i in range(tid.get_nmembers())]
        return ["enum", type_of(tid.get_super(), what), sorted(members)]
    elif kind == h5t.COMPOUND:
        columns = []
        for i in range(tid.get_nmembers()):
            member = type_of(tid.get_member_type(i), what)
            want(member[0] != "vstr", f"{what}: has a variable string inside another type")
            columns.append([tid.get_member_name(i).decode(), tid.get_member_offset(i), member])
        return ["cmp", size, columns]
    elif kind == h5t.ARRAY:
        member = type_of(tid.get_super(), what)
        want(member[0] != "vstr", f"{what}: has a variable string inside another type")
        return ["arr", list(map(int, tid.get_array_dims())), member]
    elif kind == h5t.OPAQUE:
        return ["opq", size, tid.get_tag().decode()]
    raise Bad(f"{what}: has a type that the format does not allow (HDF5 class {kind})")


def used_bytes(tid: Any) -> list[tuple[int, int]]:
    """The ranges of an element that are not padding."""
    if tid.get_class() == h5t.COMPOUND:
        members = [(tid.get_member_offset(i), tid.get_member_type(i)) for i in range(tid.get_nmembers())]
        return [(at + a, at + b) for at, member in members for a, b in used_bytes(member)]
    if tid.get_class() == h5t.ARRAY:
        base = tid.get_super()
        return [(at + a, at + b) for at in range(0, tid.get_size(), base.get_size()) for a, b in used_bytes(base)]
    return [(0, tid.get_size())]


def without_padding(raw: bytes, tid: Any) -> bytes:
    """Elements with compound padding set to zero."""
    if tid.get_class() not in (h5t.COMPOUND, h5t.ARRAY):
        return raw
    mask = np.zeros(tid.get_size(), np.uint8)
    for start, stop in used_bytes(tid):
        mask[start:stop] = 255
    return bytes((np.frombuffer(raw, np.uint8).reshape(-1, mask.size) & mask).tobytes())


def dims_of(space: Any, what: str) -> list[int] | None:
    """Dimensions; None for a scalar."""
    want(space.get_simple_extent_type() in (h5s.SIMPLE, h5s.SCALAR), f"{what}: has a null dataspace")
    return list(map(int, space.get_simple_extent_dims())) if space.get_simple_extent_type() == h5s.SIMPLE else None


def value_of(item: Any, tid: Any, dims: list[int] | None, limit: int, what: str) -> Any:
    """The stored bytes of an attribute or contiguous dataset in the file's type, or a list of byte strings."""
    variable = tid.get_class() == h5t.STRING and tid.is_variable_str()
    shape, size = tuple(dims or ()), math.prod(dims or ()) * tid.get_size()
    want(size <= limit, f"{what}: claims more bytes than the file has")
    array = np.zeros(shape, tid.dtype if variable else f"V{tid.get_size()}")
    if size and isinstance(item, h5a.AttrID):
        item.read(array, mtype=None if variable else tid)
    elif size:
        item.read(h5s.ALL, h5s.ALL, array, mtype=None if variable else tid)
    return [bytes(one or b"") for one in array.ravel()] if variable else without_padding(array.tobytes(), tid)


class Segment:
    """One open HDF5 file and where in it we are, for the sentence that says what is wrong."""

    def __init__(self, path: str) -> None:
        self.size = os.path.getsize(path)
        self.limit = max(self.size, 1 << 20)
        self.at = "the file"
        self.file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
        self.root = h5g.open(self.file, b"/")

    def attributes(self, oid: Any, what: str) -> Json:
        """Attributes as META has them."""
        found: Json = {}
        for index in range(h5a.get_num_attrs(oid)):
            attribute = h5a.open(oid, index=index)
            name = attribute.name.decode() if isinstance(attribute.name, bytes) else attribute.name
            self.at = label = f"{what}@{name}"
            tid = attribute.get_type()
            form, dims = type_of(tid, label), dims_of(attribute.get_space(), label)
            want(name not in found, f"{label}: is there twice")
            found[name] = [form, dims, value_of(attribute, tid, dims, self.limit, label)]
        return found

    def links(self, group: Any, what: str) -> Iterator[tuple[bytes, Any]]:
        """Names and link infos of a group; refuses external links."""
        names: list[bytes] = []
        group.links.iterate(lambda name: names.append(name if isinstance(name, bytes) else name.encode()))
        want(len(set(names)) == len(names), f"{what}: two links have one name")
        for name in names:
            info = group.links.get_info(name)
            want(info.type in (h5l.TYPE_HARD, h5l.TYPE_SOFT), f"{what}: link {name.decode()!r} leads out of the file")
            yield name, info

    def follow(self, path: str) -> str:
        """A path without soft links, as far as the file has it; META proves the links."""
        for _ in range(16):
            group, names, done = self.root, [name for name in path.split("/") if name], ""
            for number, name in enumerate(names):
                info = dict(self.links(group, path)).get(name.encode()) if isinstance(group, h5g.GroupID) else None
                if info is None:
                    return path
                if info.type == h5l.TYPE_SOFT:
                    target = group.links.get_val(name.encode()).decode()
                    path = "/".join([target if target.startswith("/") else f"{done}/{target}", *names[number + 1 :]])
                    break
                group, done = h5o.open(group, name.encode()), f"{done}/{name}"
            else:
                return "/" + "/".join(names)
        raise Bad(f"{path}: more than 16 soft links")

    def walk(self) -> tuple[dict[str, Any], dict[str, Json]]:
        """Objects by their first path, and the further links; checks all types and layouts before any value is read."""
        objects: dict[str, Any] = {"/": self.root}
        links: dict[str, Json] = {}
        first = {h5o.get_info(self.root).addr: "/"}
        heap: list[tuple[bytes, bytes, Any, Any]] = []

        def push(group: Any, path: bytes) -> None:
            for name, info in self.links(group, path.decode()):
                if (below := path.rstrip(b"/") + b"/" + name) != INTEGRITY:
                    heapq.heappush(heap, (below, name, group, info))

        push(self.root, b"/")
        while heap:
            raw, name, group, info = heapq.heappop(heap)
            self.at = path = raw.decode()
            if info.type == h5l.TYPE_SOFT:
                links[path] = {"l": "soft", "t": group.links.get_val(name).decode()}
            elif info.u in first:
                links[path] = {"l": "hard", "t": first[info.u]}
            else:
                first[info.u] = path
                objects[path] = item = h5o.open(group, name)
                h5o.get_info(item)  # fails on broken links between index nodes, over which visitors would stumble
                want(isinstance(item, h5g.GroupID | h5d.DatasetID), f"{path}: is neither a group nor a dataset")
                if isinstance(item, h5g.GroupID):
                    push(item, raw)
                else:
                    refuse_foreign(item, path)
        return objects, links

    def meta(self) -> tuple[bytes, dict[str, Any]]:
        """META digest, and the chunked datasets by path."""
        objects, entries = self.walk()
        chunked: dict[str, Any] = {}
        for path, item in objects.items():
            entry: Json = {"k": "g", "a": self.attributes(item, path)}
            self.at = path
            if isinstance(item, h5d.DatasetID):
                tid = item.get_type()
                entry |= {"k": "d", "t": type_of(tid, path)}
                if item.get_create_plist().get_layout() == h5d.CHUNKED:
                    want(entry["t"][0] != "vstr", f"{path}: variable strings in chunks are not covered by chunk hashes")
                    chunked[path] = item
                else:
                    entry["s"] = dims_of(item.get_space(), path)
                    entry["v"] = value_of(item, tid, entry["s"], self.limit, path)
            entries[path] = entry
        return sha(b"HSC1-meta\0", cbor2.dumps(entries, canonical=True)), chunked

    def integrity(self) -> tuple[Any, list[str]]:
        """The integrity group, which must be exactly what the page says, and the names in it."""
        group = self.root
        for part in (b"entry", b"integrity"):
            found = dict(self.links(group, "/"))
            self.at = "/entry/integrity"
            want(part in found, "the file has no /entry/integrity: it is not signed")
            want(found[part].type == h5l.TYPE_HARD, "/entry/integrity: is reached by a soft link")
            group = h5o.open(group, part)
            want(isinstance(group, h5g.GroupID), "/entry/integrity: is not a group")
        marks = {name: text(*value) for name, value in self.attributes(group, self.at).items()}
        expected = {"NX_class": "NXcollection", "format": FORMAT}
        want(marks == expected, f"/entry/integrity: has other attributes than NX_class and format = {FORMAT}")
        members = sorted(name.decode() for name, _ in self.links(group, self.at))
        right = ["README", "descriptors", "events", "heads", "index", "keychain", "leaves"]
        plain = [name for name in members if name != "epochs"]
        want(plain == right, f"/entry/integrity: holds {', '.join(members)} instead of {', '.join(right)}")
        return group, members

    def tables(self) -> tuple[dict[str, Any], list[Any]]:
        """What the integrity group holds: arrays by name, and the indices."""
        group, members = self.integrity()
        arrays: dict[str, Any] = {}
        for name in members:
            if name != "index":
                arrays[name] = self.table(group, name, 1, 2 if name in ("leaves", "epochs") else 1)
        index = self.index(group)
        names = {name.decode() for name, _ in self.links(index, "/entry/integrity/index")}
        want(names == {str(n) for n in range(len(names))}, "/entry/integrity/index: has other names than 0, 1, 2 ...")
        return arrays, [self.table(index, str(n), 4, 1).view("<u4").tolist() for n in range(len(names))]

    def index(self, group: Any) -> Any:
        """The group of the indices."""
        index = h5o.open(group, b"index")
        plain = isinstance(index, h5g.GroupID) and h5o.get_info(index).rc == 1 and h5o.get_info(group).rc == 1
        want(plain, "/entry/integrity/index: is not a plain group")
        marks = {name: text(*value) for name, value in self.attributes(index, "/entry/integrity/index").items()}
        want(marks == {"NX_class": "NXcollection"}, "/entry/integrity/index: has other attributes than NX_class")
        return index

    def rows(self, group: Any, name: str, width: int, rank: int, first: int | None, count: int) -> Any:
        """Some rows of one dataset of the integrity group; `first` None: only its dimensions."""
        found = self.table(group, name, width, rank, whole=False)
        if first is None:
            return found.shape
        want(0 <= first and first + count <= found.shape[0], f"{self.at}: has {found.shape[0]} rows")
        shape = (count, *found.shape[1:])
        want(math.prod(shape) * width <= self.limit, f"{self.at}: claims more bytes than the file has")
        array = np.zeros(shape, f"V{width}")
        if array.size:
            space = found.get_space()
            space.select_hyperslab((first, *(0 for _ in shape[1:])), shape)
            found.read(h5s.create_simple(shape), space, array, mtype=found.get_type())
        return np.frombuffer(array.tobytes(), np.uint8).reshape((count, -1)) if rank == 2 else np.frombuffer(array.tobytes(), np.uint8)

    def table(self, group: Any, name: str, width: int, rank: int, whole: bool = True) -> Any:
        """One dataset of the integrity group as bytes (README as text), or not `whole` the open dataset; plain, and linked once."""
        self.at = path = f"/entry/integrity/{'index/' if width == 4 else ''}{name}"
        want(dict(self.links(group, path))[name.encode()].type == h5l.TYPE_HARD, f"{path}: is a soft link")
        item = h5o.open(group, name.encode())
        want(isinstance(item, h5d.DatasetID), f"{path}: is not a dataset")
        refuse_foreign(item, path)
        tid, dims = item.get_type(), dims_of(item.get_space(), path)
        form = type_of(tid, path)
        want(item.get_create_plist().get_layout() in (h5d.CONTIGUOUS, h5d.COMPACT), f"{path}: is stored in chunks")
        want(h5a.get_num_attrs(item) == 0 and h5o.get_info(item).rc == 1, f"{path}: has attributes or further links")
        if name == "README":
            words = text(form, dims, value_of(item, tid, dims, self.limit, path))
            want(words == README, f"{path}: has another text")
            return README
        want(form == ["int", width, 0, 0, 8 * width, 0] and dims is not None and len(dims) == rank, f"{path}: has the wrong type or rank")
        if not whole:
            return item
        raw = np.frombuffer(value_of(item, tid, dims, self.limit, path), np.uint8)
        return raw.reshape(dims) if rank == 2 else raw


def text(form: list[Any], dims: list[int] | None, value: Any) -> str | None:
    """A scalar string of META as text; None when it is another value."""
    if dims is not None or form[0] not in ("str", "vstr"):
        return None
    raw = bytes(value[0] if isinstance(value, list) else value)
    return raw.rstrip(b"\0").decode(errors="replace")


def refuse_foreign(dataset: Any, path: str) -> None:
    """Refuse what would make the library read another file, a type that the page does not know, and unsigned properties."""
    plist, space = dataset.get_create_plist(), dataset.get_space()
    want(plist.get_external_count() == 0, f"{path}: keeps its values in an external file")
    want(plist.get_layout() in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED), f"{path}: is a virtual dataset")
    type_of(dataset.get_type(), path)
    if plist.get_layout() != h5d.CHUNKED and dims_of(space, path) is not None:
        want(tuple(space.get_simple_extent_dims(True)) == tuple(space.get_simple_extent_dims()), f"{path}: is not in chunks but could grow")
    if plist.get_layout() != h5d.CHUNKED:
        want(plist.fill_value_defined() == 1, f"{path}: has a fill value that nothing signs")


def payloads_of(leaves: Any, events: bytes, begin: int = 0) -> Iterator[bytes]:
    """Leaf payloads in order from the two tables, or from parts of them (`events` from `begin` on); every byte must be accounted for."""
    rows, width = leaves.shape
    table, position = leaves.tobytes(), begin
    want(width >= 16, "/entry/integrity/leaves: rows are too narrow")
    for index in range(rows):
        row = table[index * width : (index + 1) * width]
        length = int.from_bytes(row[:4])
        if length == 0xFFFFFFFF:
            offset, length = struct.unpack_from(">QI", row, 4)
            want(offset == position and position + length <= begin + len(events), f"leaf {index}: does not point to the next event")
            position, end, payload = offset + length, 16, events[offset - begin : offset - begin + length]
        else:
            end, payload = 4 + length, row[4 : 4 + length]
        want(end <= width and not any(row[end:]), f"leaf {index}: is too long, or the padding is not zero")
        want((payload[4:5] == b"\1") == (end != 16 or row[:4] != b"\xff" * 4), f"leaf {index}: stands in the wrong table")
        yield payload
    want(position == begin + len(events), "/entry/integrity/events: holds bytes that belong to no leaf")


def fill_bytes(plist: Any, tid: Any, path: str) -> bytes:
    """The fill value in the file's type; zeros when none was set."""
    defined = plist.fill_value_defined()
    want(defined in (1, 2), f"{path}: has an undefined fill value")
    if defined == 1:
        return bytes(tid.get_size())
    array = np.zeros((), tid.dtype)
    want(array.nbytes == tid.get_size() and tid.dtype.subdtype is None, f"{path}: the fill value cannot be compared")
    plist.get_fill_value(array)
    return without_padding(array.tobytes(), tid)


Chunks = dict[tuple[int, ...], tuple[int, int, bytes]]


def check_dataset(dataset: Any, dsd: Json, shape: list[int], chunks: Chunks, limit: int, part: bool = False) -> None:
    """Compare a chunked dataset with its descriptor, its final shape and its CHUNK leaves; with `part`, only with those given."""
    path, tid, plist, space = dsd[1], dataset.get_type(), dataset.get_create_plist(), dataset.get_space()
    dims, grid = dims_of(space, path), list(map(int, plist.get_chunk()))
    most = [None if n == h5s.UNLIMITED else int(n) for n in space.get_simple_extent_dims(True)]
    filters = [[f[0], f[1], list(map(int, f[2]))] for f in map(plist.get_filter, range(plist.get_nfilters()))]
    fill = fill_bytes(plist, tid, path)
    names = ("type", "chunk shape", "maximum shape", "filters", "fill value", "shape")
    reals: tuple[Any, ...] = (type_of(tid, path), grid, most, filters, fill, dims)
    for name, real, signed in zip(names, reals, (*(dsd[key] for key in range(2, 7)), shape), strict=True):
        want(real == signed, f"{path}: the {name} is {real!r}, but {signed!r} was signed")
    for offset, (mask, size, digest) in chunks.items():
        what = f"{path} chunk at {list(offset)}"
        check_mask(mask, dsd, what)
        want(all(o % g == 0 and o < n for o, g, n in zip(offset, grid, shape, strict=True)), f"{what}: is no place of a chunk")
        want(size <= limit, f"{what}: claims {size} bytes, more than the file has")
        try:
            real_mask, data = read_chunk(dataset, offset, size)
        except (OSError, RuntimeError, ValueError) as error:
            raise Bad(f"{what}: is signed, but the file does not hold it in {size} bytes ({error})") from error
        want(len(data) == size, f"{what}: has {len(data)} bytes, but {size} were signed")
        want(real_mask == mask, f"{what}: the filter mask is {real_mask:#x}, but {mask:#x} was signed")
        want(sha(data) == digest, f"{what}: the stored bytes are not the signed ones")
    if part:
        return
    stored = dataset.get_num_chunks()
    if stored != len(chunks):
        infos = map(dataset.get_chunk_info, range(min(stored, 100_000)))
        extra = next((list(i.chunk_offset) for i in infos if tuple(i.chunk_offset) not in chunks), None)
        raise Bad(f"{path} chunk at {extra}: is in the file but not signed ({stored} chunks, {len(chunks)} signed)")
    whole = math.prod(-(-n // g) for n, g in zip(shape, grid, strict=True))
    want(len(chunks) == whole, f"{path}: {len(chunks)} chunks were signed, and its shape needs {whole}")


def check_early(log: Log, dsds: dict[bytes, Json], chunked: dict[str, Any]) -> list[str]:
    """Compare rows that were signed before their chunk with the chunk; returns datasets that cannot be decoded here."""
    skipped: dict[str, None] = {}
    place: tuple[bytes, int] = b"", -1
    blocks: dict[bytes, bytes] = {}
    for body in log.rows:
        names, first, n = body[1], body[2], body[3]
        unknown_form = [dsds[name][1] for name in names if not decodable(dsds[name])]
        if unknown_form:
            skipped |= dict.fromkeys(unknown_form[:1])
            continue
        start = first - first % dsds[names[0]][3][0]
        if place != (names[0], start):
            place, blocks = (names[0], start), {}
        digest = hashlib.sha256()
        for name in names:
            path, offset = dsds[name][1], (start, *[0] * (len(dsds[name][3]) - 1))
            if name not in blocks:
                want(offset in log.chunks[name], f"{path} chunk at {list(offset)}: rows of it were signed, the chunk was not")
                blocks[name] = decode_chunk(chunked[path], dsds[name], offset, log.chunks[name][offset])
            row = len(blocks[name]) // dsds[name][3][0]
            digest.update(blocks[name][(first - start) * row : (first - start + n) * row])
        last = f"rows {first} to {first + n - 1}"
        want(digest.digest() == body[4], f"{dsds[names[0]][1]}: {last} are not those that were signed before their chunk")
    return list(skipped)


def check_numbers(log: Log, dsds: dict[bytes, Json], chunked: dict[str, Any]) -> None:
    """The `frame_number` beside a dataset that counts is what its chunks were signed as, where that column can be decoded here."""
    paths = {dsd[1]: name for name, dsd in dsds.items()}
    for name, dsd in dsds.items():
        beside = paths.get(f"{dsd[1].rpartition('/')[0]}/frame_number")
        if dsd[8][1] != 1 or beside is None:
            continue
        column = dsds[beside]
        if column[2] != ["int", 8, 0, 0, 64, 0] or len(column[3]) != 1 or not decodable(column):
            continue
        length, numbers = column[3][0], dict[int, bytes]()
        for offset, entry in log.chunks[beside].items():
            numbers[offset[0]] = decode_chunk(chunked[column[1]], column, offset, entry)
        for (row, *_), signed in zip(log.chunks[name], log.frames.get(name, []), strict=True):
            found = numbers.get(row - row % length, b"")[8 * (row % length) :][:8]
            want(found and int.from_bytes(found, "little") == signed, f"{column[1]} at {row}: is not {signed}, the frame's signed number")


def decodable(dsd: Json) -> bool:
    """Whether a dataset is stored plainly or by shuffle and zstd, in elements of a simple type."""
    kind, filters = dsd[2], dsd[5]
    if kind[0] not in ("int", "flt", "str") or math.prod(dsd[3]) * kind[1] > 64 << 20:
        return False
    return not filters or ([f[0] for f in filters] == [2, 32015] and filters[0][2] == [kind[1]])


def decode_chunk(dataset: Any, dsd: Json, offset: tuple[int, ...], entry: tuple[int, int, bytes]) -> bytes:
    """The raw bytes of a chunk whose stored bytes were checked."""
    mask, size, what = entry[0], math.prod(dsd[3]) * dsd[2][1], f"{dsd[1]} chunk at {list(offset)}"
    raw = bytes(read_chunk(dataset, offset, entry[1])[1][: entry[1]])
    if dsd[5] and not mask & 2:
        try:
            raw = Zstd(size).frame(raw)
        except (Bad, IndexError, ValueError, struct.error) as error:
            raise Bad(f"{what}: does not decode ({error})") from error
    want(len(raw) == size, f"{what}: holds {len(raw)} bytes instead of {size}")
    return np.frombuffer(raw, np.uint8).reshape(dsd[2][1], -1).T.tobytes() if dsd[5] and not mask & 1 else raw


_buffer = bytearray()


def read_chunk(dataset: Any, offset: tuple[int, ...], size: int) -> tuple[int, Any]:
    """Filter mask and stored bytes; one buffer serves all chunks where h5py allows it."""
    global _buffer
    extra: Json = {}
    if "`out`" in (h5d.DatasetID.read_direct_chunk.__doc__ or ""):
        _buffer = _buffer if len(_buffer) >= size else bytearray(size)
        extra["out"] = np.frombuffer(_buffer, np.uint8)
    mask, data = dataset.read_direct_chunk(offset, **extra)
    return mask, data


def verify_segment(path: str, roots: Roots, hashed: bool, part: tuple[str, str] | None = None) -> Json:
    """Verify one HDF5 file, or a `part` (dataset, slice) of it; with `hashed`, also its size and SHA-256. Returns `facts`."""
    whole: list[tuple[int, bytes, bytes]] = []
    beside = threading.Thread(target=lambda: whole.append(hash_file(path, pieces=False)), daemon=True)
    if hashed:
        beside.start()
    where = "the file"
    try:
        segment = Segment(path)
        try:
            result = check_slice(segment, roots, *part) if part else check_segment(segment, roots)
        finally:
            where = segment.at
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError, MemoryError) as error:
        raise Bad(f"{where}: the HDF5 library cannot read it ({error})") from error
    if hashed:
        beside.join()
        size, digest, _ = whole[0]
        result |= {"bytes": size, "sha256": digest.hex()}
    return result


def check_segment(segment: Segment, roots: Roots) -> Json:
    """All checks of one file, cheapest and most telling first."""
    arrays, indices = segment.tables()
    sessions = open_chain(arrays["keychain"].tobytes(), roots, "/entry/integrity/keychain")
    raw = decode(arrays["descriptors"].tobytes(), "/entry/integrity/descriptors", [bytes])
    dsds = {sha(b"HSC1-dsd\0", one): decode_dsd(one, f"descriptor {n}") for n, one in enumerate(raw)}
    paths = {dsd[1]: name for name, dsd in dsds.items()}
    want(len(paths) == len(raw), "/entry/integrity/descriptors: two descriptors of one dataset")
    steps: dict[str, int] = {}
    for path, name in paths.items():
        source, kind, step = dsds[name][8]
        want(kind == 0 or steps.setdefault(source, step) == step, f"{path}: source {source} has two steps")
    items = decode(arrays["heads"].tobytes(), "/entry/integrity/heads", [bytes])
    heads = [open_head(item, sessions, f"head {n}") for n, item in enumerate(items)]
    want(heads, "/entry/integrity/heads: is empty")
    segment.at = "/entry/integrity/leaves"
    log = read_log(payloads_of(arrays["leaves"], arrays["events"].tobytes()), {h[0][4] for h in heads} | {len(arrays["leaves"])}, dsds)
    for n, (head, _, session, _) in enumerate(heads):
        before, what = (heads[n - 1] if n else None), f"head {n}"
        want(head[7] == (before[1] if before else None), f"{what}: does not name the head before it")
        want(before is None or (head[6] > before[0][6] and head[4] >= before[0][4]), f"{what}: is not later than the head before it")
        want(head[3] == log.open[9] and session.agent_id == log.open[1], f"{what}: belongs to another tree or agent")
        want(before is None or head[13] == 2 or session == heads[n - 1][2], f"{what}: is of another session than the head before it")
        if n < len(heads) - 1:
            want(head[13] == 0 and log.roots.get(head[4]) == head[5], f"{what}: the first {head[4]} leaves do not give its root")
    check_close(heads[-1][0], log, "the close head")
    want(log.datasets == list(dsds), "/entry/integrity/descriptors: are not the DATASET leaves in their order")
    want(not log.files, "a FILE leaf stands in an HDF5 segment")
    finals = {dsd: (shape, count) for dsd, shape, count in log.close[1]}
    want(len(finals) == len(log.close[1]) and finals.keys() == dsds.keys(), "CLOSE does not name every dataset once")
    want(("epochs" in arrays) == (log.size > EPOCHS_ABOVE), f"/entry/integrity/epochs: is wrong with {log.size} leaves")
    if "epochs" in arrays:
        same = arrays["epochs"].shape == (len(log.epochs), 32) and arrays["epochs"].tobytes() == b"".join(log.epochs)
        want(same, "/entry/integrity/epochs: are not the roots of the leaves")
    want(indices == [log.numbers[dsd] for dsd in dsds], "/entry/integrity/index: does not give the leaves of the chunks")
    digest, chunked = segment.meta()
    for path in sorted(chunked.keys() ^ paths.keys()):
        raise Bad(f"{path}: " + ("is in the file but not signed" if path in chunked else "is signed but missing"))
    for name, dsd in dsds.items():
        segment.at = dsd[1]
        shape, count = finals[name]
        want(count == len(log.chunks[name]), f"{dsd[1]}: CLOSE counts {count} chunks, the tree has {len(log.chunks[name])}")
        check_dataset(chunked[dsd[1]], dsd, shape, log.chunks[name], segment.size)
    want(digest == log.meta, "the groups, attributes, types or small values are not the signed ones (META digest)")
    result = facts(log, heads[-1][0][13], heads[-1][1], heads[-1][2])
    result["trusted"] = all(session.trusted for _, _, session, _ in heads)
    result["downgrade"] = next((downgrade for _, _, _, downgrade in heads if downgrade), "")
    result["clock"] = clock_warning([entry[0] for entry in heads], log.clocks)
    result["early"] = check_early(log, dsds, chunked)
    check_numbers(log, dsds, chunked)
    counted = {d[8][0] for d in dsds.values() if d[8][1] == 1}
    result["uncounted"] = sorted({d[8][0] for d in dsds.values()} - counted)
    return result


# ---- One slice ------------------------------------------------------------------------------------------------------


class Proven:
    """Leaves of a segment, each read with its epoch only, or all at once where there are no epochs."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.group, _ = segment.integrity()
        self.size, self.width = segment.rows(self.group, "leaves", 1, 2, None, 0)
        want(self.size >= 2 and self.width >= 16, "/entry/integrity/leaves: is too small")
        self.epochs: list[bytes] = []
        if self.size > EPOCHS_ABOVE:
            table = segment.table(self.group, "epochs", 1, 2)
            want(table.shape == (-(-self.size // EPOCH), 32), "/entry/integrity/epochs: has the wrong size")
            self.epochs = [row.tobytes() for row in table]
        self.step = EPOCH if self.epochs else self.size
        self.known: dict[int, list[bytes]] = {}

    def root(self) -> bytes:
        """Root over the epochs, which are nodes of the tree; over the leaves where there are none."""
        tree = Frontier()
        for node in self.epochs or [sha(b"\0", payload) for payload in self.piece(0)]:
            tree.push_node(node)
        return tree.root()

    def piece(self, number: int) -> list[bytes]:
        """The payloads of an epoch."""
        if number not in self.known:
            first = number * self.step
            rows = self.segment.rows(self.group, "leaves", 1, 2, first, min(self.step, self.size - first))
            spans = [struct.unpack(">QI", bytes(row[4:16])) for row in rows if bytes(row[:4]) == b"\xff" * 4]
            begin, end = (spans[0][0], sum(spans[-1])) if spans else (0, 0)
            want(begin <= end, f"/entry/integrity/leaves: epoch {number} points outside of events")
            events = self.segment.rows(self.group, "events", 1, 1, begin, end - begin).tobytes()
            payloads, tree = list(payloads_of(rows, events, begin)), Frontier()
            for payload in payloads:
                tree.push(payload)
            want(not self.epochs or tree.root() == self.epochs[number], f"/entry/integrity/leaves: epoch {number} has another root")
            self.known[number] = payloads
        return self.known[number]

    def leaf(self, number: int) -> bytes:
        """One payload."""
        return self.piece(number // self.step)[number % self.step]


def parse_slice(text_of_slice: str, shape: list[int], path: str) -> list[tuple[int, int]]:
    """First element and end along each axis."""
    parts = text_of_slice.replace(" ", "").split(",")
    want(len(parts) <= len(shape), f"{path}: has {len(shape)} axes, the slice {len(parts)}")
    exact = []
    for part, n in zip(parts + [":"] * (len(shape) - len(parts)), shape, strict=True):
        match = re.fullmatch(r"(\d{0,18}):(\d{0,18})|(\d{1,18})", part)
        want(match, f"{part!r}: is not FIRST:END")
        assert match  # noqa: S101
        first, end = (int(match[3]), int(match[3]) + 1) if match[3] else (int(match[1] or 0), int(match[2]) if match[2] else n)
        want(first < end <= n, f"{path}: the slice {part} is empty or outside of the signed shape {shape}")
        exact.append((first, end))
    return exact


def check_slice(segment: Segment, roots: Roots, path: str, slice_: str) -> Json:
    """Check the chunks that hold a slice, with their leaves, the close head and the metadata; nothing is said of anything else."""
    proven, path = Proven(segment), segment.follow(path)
    group = proven.group
    sessions = open_chain(segment.table(group, "keychain", 1, 1).tobytes(), roots, "/entry/integrity/keychain")
    raw = decode(segment.table(group, "descriptors", 1, 1).tobytes(), "/entry/integrity/descriptors", [bytes])
    items = decode(segment.table(group, "heads", 1, 1).tobytes(), "/entry/integrity/heads", [bytes])
    want(items, "/entry/integrity/heads: is empty")
    head, head_hash, session, downgrade = open_head(items[-1], sessions, "the close head")
    first, last = proven.leaf(0), proven.leaf(proven.size - 1)
    want(first[:5] == b"HSC1\7" and last[:5] == b"HSC1\6", "the first and the last leaf are not OPEN and CLOSE")
    opening, closing = decode(first[5:], "OPEN", OPEN), decode(last[5:], "CLOSE", CLOSE)
    log = Log(roots={proven.size: proven.root()}, open=opening, close=closing, size=proven.size)
    check_close(head, log, "the close head")
    named = [(n, one, decode_dsd(one, f"descriptor {n}")) for n, one in enumerate(raw)]
    found = [entry for entry in named if entry[2][1] == path]
    want(len(found) == 1, f"{path}: was not signed as a dataset of chunks")
    number, encoded, dsd = found[0]
    name = sha(b"HSC1-dsd\0", encoded)
    said = [(shape, count) for digest, shape, count in closing[1] if digest == name]
    want(len(said) == 1, f"{path}: CLOSE does not name it once")
    shape, count = said[0]
    want(len(shape) == len(dsd[3]), f"{path}: has the wrong rank")
    steps = [range(a - a % g, b, g) for (a, b), g in zip(parse_slice(slice_, shape, path), dsd[3], strict=True)]
    want(math.prod(map(len, steps)) <= 1 << 20, f"{path}: the slice touches too many chunks")
    wanted = list(itertools.product(*steps))
    chunks, numbers = chunk_leaves(proven, number, name, wanted, [(-(-n // g), g) for n, g in zip(shape, dsd[3], strict=True)], count)
    missing = next((offset for offset in wanted if offset not in chunks), None)
    want(missing is None, f"{path} chunk at {missing}: was not signed")
    leaves_read = sum(map(len, proven.known.values()))
    digest, chunked = segment.meta()
    want(path in chunked, f"{path}: is signed but missing")
    segment.at = path
    check_dataset(chunked[path], dsd, shape, chunks, segment.size, part=True)
    want(digest == closing[2], "the groups, attributes, types or small values are not the signed ones (META digest)")
    result = facts(log, head[13], head_hash, session) | {"chunks": len(chunks), "leaves": leaves_read, "numbers": numbers}
    return result | {"downgrade": downgrade, "uncounted": [] if dsd[8][1] == 1 else [dsd[8][0]]}


def chunk_leaves(
    proven: Proven, number: int, name: bytes, wanted: list[tuple[int, ...]], grid: list[tuple[int, int]], count: int
) -> tuple[Chunks, list[int]]:
    """The CHUNK leaves at some offsets, and their numbers: where the index says if that holds, else among all leaves."""
    places = []
    for offset in wanted:
        place = 0
        for at, (n, size) in zip(offset, grid, strict=True):
            place = place * n + at // size
        places.append(place)
    hints: list[int] = []
    asked = set(wanted)
    if max(places) < count:
        index = proven.segment.index(proven.group)
        few = proven.segment.rows(index, str(number), 4, 1, min(places), max(places) - min(places) + 1).view("<u4")
        hints = [int(few[place - min(places)]) for place in places]
    for tries in (hints, range(proven.size)):
        chunks: Chunks = {}
        numbers: list[int] = []
        for at in tries:
            payload = proven.leaf(at) if at < proven.size else b""
            if payload[:5] != b"HSC1\1":
                continue
            offset, dsd, entry, seq, _, segment_id = parse_chunk(payload, f"leaf {at}")
            if dsd == name and offset in asked and segment_id == decode(proven.leaf(0)[5:], "OPEN", OPEN)[9]:
                chunks[offset] = entry
                numbers.append(seq)
        if len(chunks) == len(wanted):
            break
    return chunks, [n for n in numbers if n != NO_COUNTER]


# ---- Exported slices ------------------------------------------------------------------------------------------------


def is_proof(path: str) -> bool:
    """Whether a file is an exported slice."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(len(SLICE_BEGINS)) == SLICE_BEGINS
    return False


def read_proof(path: str, roots: Roots) -> Json:
    """Verify an exported slice: what is said of its parts, and what sidecar and receipts in it add, or nothing."""
    proof = decode(Path(path).read_bytes(), "the slice", SLICE)
    parts = [check_part(part, proof[2], roots, f"part {n}") for n, part in enumerate(proof[3])]
    want(parts, "the slice: has no part")
    order = [part["ordinal"] for part in parts]
    same = len({(part["agent"], part["run"]) for part in parts}) == 1
    want(same and order == sorted(set(order)), "the slice: its parts are not of one run in the order of its segments")
    run: Json | None = None
    if proof[4] is None:
        want(len(parts) == 1 and proof[5] is None, "the slice: several parts or receipts, and no run statement")
    else:
        run, _, _, sidecar = open_run(path, roots, proof[4])
        entries = {(e[0], e[1], e[5]) for e in run["segments"]}
        named = all((part["ordinal"], part["segment"], part["head"]) in entries and part["run"] == run["run"] for part in parts)
        want(named, "the slice: its run statement is of another run, or names other segments")
        if proof[5] is not None:
            run |= late(path, run, roots, sidecar, proof[5])
    return {"parts": parts, "run": run}


def check_part(part: Json, path: str, roots: Roots, what: str) -> Json:
    """The part of a slice that comes from one segment, without the segment."""
    head, head_hash, session, downgrade = open_head(part[2], open_chain(part[1], roots, f"{what}: key chain"), f"{what}: close head")
    want(head[4] >= 2 and [one[0] for one in part[3][:2]] == [0, head[4] - 1], f"{what}: does not begin with the first and the last leaf")
    for number, payload, proof in part[3]:
        want(included(payload, number, head[4], proof, head[5]), f"{what}: leaf {number} is not in the tree that was signed")
    first, last = part[3][0][1], part[3][1][1]
    want(first[:5] == b"HSC1\7" and last[:5] == b"HSC1\6", f"{what}: the first and the last leaf are not OPEN and CLOSE")
    opening, closing = decode(first[5:], "OPEN", OPEN), decode(last[5:], "CLOSE", CLOSE)
    log = Log(roots={head[4]: head[5]}, open=opening, close=closing, size=head[4])
    check_close(head, log, f"{what}: close head")
    dsd, name = decode_dsd(part[4], f"{what}: descriptor"), sha(b"HSC1-dsd\0", part[4])
    want(dsd[1] == path, f"{what}: is of another dataset than {path}")
    shapes = [shape for digest, shape, _ in closing[1] if digest == name]
    want(len(shapes) == 1 and len(shapes[0]) == len(dsd[3]) == len(part[6]), f"{path}: CLOSE does not name it once, or with another rank")
    inside = all(0 <= a < b <= n for (a, b), n in zip(part[6], shapes[0], strict=True))
    want(inside, f"{path}: the slice is empty or outside of the signed shape {shapes[0]}")
    steps = [range(a - a % g, b, g) for (a, b), g in zip(part[6], dsd[3], strict=True)]
    want(math.prod(map(len, steps)) == len(part[7]) == len(part[3]) - 2, f"{path}: the chunks are not those that hold the slice")
    numbers = []
    for place_, (_, payload, _), stored in zip(itertools.product(*steps), part[3][2:], part[7], strict=True):
        where = f"{path} chunk at {list(place_)}"
        want(payload[:5] == b"HSC1\1", f"{where}: its leaf is not one of a chunk")
        offset, dataset, (mask, size, digest), seq, _, segment_id = parse_chunk(payload, where)
        check_mask(mask, dsd, where)
        want((offset, dataset, segment_id) == (place_, name, opening[9]), f"{where}: the leaf is of another chunk")
        want(len(stored) == size and sha(stored) == digest, f"{where}: the stored bytes are not the signed ones")
        numbers += [seq] if seq != NO_COUNTER else []
    want(sha(b"HSC1-meta\0", part[5]) == closing[2], "the groups, attributes, types or small values are not the signed ones (META digest)")
    entry = decode(part[5], "META", {str: dict}).get(path, {})
    plain = entry.keys() == {"k", "a", "t"} and [entry["k"], entry["t"]] == ["d", dsd[2]]
    want(plain, f"{path}: the metadata has no dataset of chunks of this type there")
    result = facts(log, head[13], head_hash, session) | {"chunks": len(part[7]), "leaves": len(part[3]), "numbers": numbers}
    return result | {"downgrade": downgrade, "uncounted": [] if dsd[8][1] == 1 else [dsd[8][0]]}


def joined(path: str, dataset: str) -> Json:
    """What a master file joins into a dataset: its path without soft links, and name and length of each segment. Opens none of them."""
    segment = Segment(path)
    real, node = segment.follow(dataset), segment.root
    for name in filter(None, real.split("/")):
        info = dict(segment.links(node, real)).get(name.encode()) if isinstance(node, h5g.GroupID) else None
        want(info is not None, f"{real}: is not in the master file")
        node = h5o.open(node, name.encode())
    want(isinstance(node, h5d.DatasetID), f"{real}: is no dataset")
    plist = node.get_create_plist()
    want(plist.get_layout() == h5d.VIRTUAL, f"{real}: is not joined by the master file")
    members, at = [], 0
    for n in range(plist.get_virtual_count()):
        first, last = (int(corner[0]) for corner in plist.get_virtual_vspace(n).get_select_bounds())
        whole = plist.get_virtual_srcspace(n).get_select_type() == h5s.SEL_ALL
        right = whole and first == at and plist.get_virtual_dsetname(n) == real
        want(right, f"{real}: source {n} is not the whole dataset of the next segment")
        members.append([plist.get_virtual_filename(n), last + 1 - first])
        at = last + 1
    return {"dataset": real, "members": members}


# ---- Runs -----------------------------------------------------------------------------------------------------------


def hash_file(path: str, pieces: bool) -> tuple[int, bytes, bytes]:
    """Size, SHA-256 and (if asked) root over the hashes of the 8 MiB pieces."""
    digest, tree, size, buffer = hashlib.sha256(), Frontier(), 0, bytearray(PIECE)
    with open(path, "rb") as file:
        while count := file.readinto(buffer):
            part = memoryview(buffer)[:count]
            digest.update(part)
            if pieces:
                tree.push(bytes(part))
            size += count
    return size, digest.digest(), tree.root()


def place(folder: str, name: str) -> str:
    """The path of a part of a run; refuses names that leave the folder."""
    parts = PurePosixPath(name).parts
    safe = name and not name.startswith("/") and ".." not in parts and not set(name) & set("\\:\0")
    want(safe and unicodedata.is_normalized("NFC", name), f"{name!r}: is no name of a file in the run")
    path = os.path.join(folder, *parts)
    want(os.path.isfile(path), f"{name}: is missing")
    return path


def open_run(path: str, roots: Roots, given: bytes | None = None) -> tuple[Json, Json, Json, Json]:
    """Verify a sidecar by itself: what the run statement says, the statement, the close heads by hash, the sidecar."""
    raw = Path(path).read_bytes() if given is None else given
    sidecar = decode(raw, "the sidecar", SIDECAR)
    sessions = open_chain(sidecar[4], roots, "the sidecar's key chain")
    payload, signer, downgrade = open_cose_of_all(sidecar[2], "run", sessions, "the run statement")
    statement = decode(payload, "the run statement", RUN)
    want(statement[2] == signer.agent_id, "the run statement: names another agent than its key")
    entries = statement[5]
    want([e[0] for e in entries] == list(range(1, len(entries) + 1)), "the run statement: segments are not numbered 1, 2, 3 ...")
    want(len({source for source, _, _ in statement[9]}) == len(statement[9]), "the run statement: counts the gaps of a source twice")
    heads, kids = {}, {}
    for number, item in enumerate(sidecar[3]):
        head, head_hash, session, lacks = open_head(item, sessions, f"close head {number} of the sidecar")
        heads[head_hash] = (head, session)
        kids[head_hash.hex()] = [thumbprint(key).hex() for key in session.keys]
        downgrade = downgrade or lacks
    same = sorted(heads) == sorted(e[5] for e in entries) and len(heads) == len(sidecar[3])
    want(same, "the sidecar's close heads are not those of the run statement")
    segments = [[e[0], e[1].hex(), e[2], e[3], e[4].hex(), e[5].hex(), e[6]] for e in entries]
    result: Json = {"agent": statement[2].hex(), "run": statement[4].hex(), "run_no": statement[3],
                    "policy": statement[11].hex(), "trusted": signer.trusted, "identity": signer.identity.hex(),
                    "downgrade": downgrade, "misplaced": "", "kids": kids, "series": {},
                    "gap_counts": {s: [n, c] for s, n, c in statement[9]},
                    "segments": segments, "witnessed": [], "stamped": "", "amendments": [], "sidecar": sha(raw).hex(),
                    "problem": "", "ahead": "",
                    "times": {name.hex(): times_of(head) for name, (head, _) in heads.items()}}  # fmt: skip
    return result, statement, heads, sidecar


def times_of(head: Json) -> list[Any]:
    """Time of a head, uncertainty (ns), and the receipt that it names."""
    return [head[8], max(head[11][2] or 0, 0), head[12] and head[12].hex()]


def read_run(path: str, roots: Roots) -> Json:
    """Verify a sidecar with everything that is not HDF5: vendor files, master, crate and receipts."""
    folder = os.path.dirname(path)
    result, statement, heads, sidecar = open_run(path, roots)
    entries = statement[5]
    logs = {tree[1]: read_log(tree[2], {len(tree[2])}, {}) for tree in sidecar[5]}
    same = logs.keys() == {e[1] for e in entries if e[2] is None} and len(logs) == len(sidecar[5])
    want(same, "the sidecar's trees are not its series of files")
    files: dict[str, Json] = {}
    for _, segment_id, name, size, digest, head_hash, state in entries:
        head, session = heads[head_hash]
        want(head[3] == segment_id and head[13] == state, f"segment {segment_id.hex()}: its close head has another tree or state")
        if name is None:
            want(size == 0 and digest == bytes(32), "a series of files has a size or digest")
            log = logs[segment_id]
            check_close(head, log, f"the close head of file series {segment_id.hex()}")
            want(not log.datasets and not log.close[1] and log.meta is None, "a series of files announces datasets")
            for leaf in log.files:
                want(leaf[1] not in files, f"{leaf[1]}: is in the tree twice")
                files[leaf[1]] = leaf
            result["series"][segment_id.hex()] = facts(log, state, head_hash, session)
    same = [[f[1], f[2], f[5]] for _, f in sorted(files.items())] == sorted(statement[6])
    want(same, "the run statement lists other files than the FILE leaves")
    for name, leaf in files.items():
        real = hash_file(place(folder, name), pieces=True)
        want(real == (leaf[2], leaf[5], leaf[4]), f"{name}: is not the signed file")
    master = [statement[7]] if statement[7] else []
    others = [(name, None, digest) for name, digest in statement[8].items()]
    for name, size, digest in (*master, *others):
        real = hash_file(place(folder, name), pieces=False)
        want(real[1] == digest and size in (None, real[0]), f"{name}: is not the signed file")
    result["claims"] = [e[2] for e in entries if e[2]] + list(files) + [name for name, _, _ in (*master, *others)]
    return result | late(path, result, roots, sidecar)


def late(path: str, run: Json, roots: Roots, sidecar: Json, given: bytes | None = None) -> Json:
    """What the receipts beside a sidecar add, or those given."""
    receipts = Path(path.removesuffix(".hsc") + ".receipts")
    try:
        if given is None and not receipts.is_file():
            return {}
        return read_receipts(receipts.read_bytes() if given is None else given, run, roots, sidecar[4])
    except Bad as bad:
        return {"problem": f"the receipts do not count: {bad}"}


def read_receipts(raw: bytes, run: Json, roots: Roots, chain: Any) -> Json:
    """What the receipts add: close heads (hex) in a witnessed log, amendments, the time of a stamp. Any wrong receipt spoils the file."""
    receipts = decode(raw, "the file", RECEIPTS)
    carried = [*receipts[2], *(decode(chain, "key chain") if isinstance(chain, bytes) else chain)[1]]
    keys = {}
    for certificate in certificates(receipts[2], "the file"):
        found = key_with_name(certificate, "urn:hsc:receipts")
        want(found, "a certificate is not one of a receipt key")
        if found and roots.certify(certificate, carried):
            keys[thumbprint(found[0])] = found[0]
    amendments = read_amendments(receipts, run, roots)
    if not run["trusted"]:
        return {"amendments": amendments}
    held = dict[str, int]()
    segments = {s[1]: s for s in run["segments"]}
    seen: dict[tuple[bytes, int], bytes] = {}
    first_seen: dict[tuple[bytes, int], int] = {}
    for number, item in enumerate(receipts[3]):
        what = f"receipt {number}"
        kind = "witness" if unwrap(item, what)[0][3] == "application/x.hsc1-witness+cbor" else "custody"
        payload, _ = open_cose(item, kind, keys, what)
        body = decode(payload, what, WITNESS if kind == "witness" else CUSTODY)
        want(body[2].hex() == run["agent"], f"{what}: is for another agent")
        if kind == "witness":
            want(seen.setdefault((body[3], body[4]), body[5]) == body[5], f"{what}: a fork, two roots of one log and size")
            held[sha(item).hex()] = body[7]
            first_seen[body[3], body[4]] = min(body[7], first_seen.get((body[3], body[4]), body[7]))
            continue
        want(body[8] in ("fsynced", "store-digest", "read-back"), f"{what}: has an unknown durability")
        if segment := segments.get(body[3].hex()):
            same = [segment[5], segment[4], segment[3]] == [body[4].hex(), body[5].hex(), body[6]]
            want(same, f"{what}: custody was given for other bytes of segment {segment[0]}")
    witnessed, ahead = [], dict[str, int]()
    closes: dict[str, list[tuple[bytes, int]]] = {}
    key_leaves: list[tuple[bytes, int, int, list[bytes]]] = []
    for number, proof in enumerate(receipts[4]):
        what = f"proof {number}"
        root = seen.get((proof[1], proof[2]))
        good = root is not None and included(proof[4], proof[3], proof[2], proof[5], root)
        want(good, f"{what}: does not lead to a root that a witness signed")
        kind = proof[4][4] if proof[4][:4] == b"HSC1" and len(proof[4]) > 4 else 0
        want(kind in LOG_BODIES, f"{what}: is of no leaf of an agent log")
        body = decode(proof[4][5:], what, LOG_BODIES[kind])
        if kind == 68:
            entry = segments.get(body[1].hex())
            if entry and entry[5] == body[2].hex():
                closes.setdefault(entry[5], []).append((proof[1], proof[3]))
            if entry and [entry[5], run["run"], entry[0]] == [body[2].hex(), body[3].hex(), body[4]]:
                witnessed.append(entry[5])
                gained = run["times"][entry[5]][0] - first_seen[proof[1], proof[2]]
                ahead[entry[5]] = max(gained, ahead.get(entry[5], gained))
        elif kind in (65, 70, 71):
            want(body[1], f"{what}: names no key")
            key_leaves.append((proof[1], proof[3], kind, body[1]))
    misplaced = ""
    for ordinal, _, _, _, _, head, _ in run["segments"]:
        for log, place in closes.get(head, []):
            for other, at, kind, kids in key_leaves:
                mine = log == other and {kid.hex() for kid in kids} & set(run["kids"][head])
                if mine and (at < place) != (kind == 65):
                    said = {65: "announced only behind", 70: "retired before", 71: "compromised before"}[kind]
                    where = f"segment {ordinal} is signed by a key that was {said} its place in the agent log"
                    misplaced = misplaced or where
    times = [t for token in receipts[5] if roots.stampers and (t := stamped(token, roots, bytes.fromhex(run["sidecar"])))]
    clock = next(filter(None, (impossible(e[0], *run["times"][e[5]], ahead.get(e[5], 0), held) for e in run["segments"])), "")
    return {"amendments": amendments, "witnessed": witnessed, "stamped": min(times, default=""), "ahead": clock, "misplaced": misplaced}


def impossible(ordinal: int, time: int, unsure: int, named: str | None, ahead: int, held: dict[str, int]) -> str:
    """What is impossible about the time of a close head, between the receipt that it names and the one that saw it."""
    if ahead > 5_000_000 + unsure:
        return f"the clock of segment {ordinal} was ahead: a witness had seen it {ahead / 1e9:.3f} s before"
    if named is not None and named not in held:
        return f"the receipt that the close head of segment {ordinal} names is not among the receipts"
    if named is not None and held[named] - time > 5_000_000 + unsure:
        younger = f"its close head names a receipt that is {(held[named] - time) / 1e9:.3f} s younger"
        return f"the clock of segment {ordinal} was behind: {younger}"
    return ""


def stamped(token: bytes, roots: Roots, digest: bytes) -> str:
    """The time of a token over the sidecar; nothing for any other, which adds nothing and takes nothing away."""
    with contextlib.suppress(Bad):
        about, time = open_token(token, roots.stampers)
        return time.isoformat() if about == digest else ""
    return ""


def read_amendments(receipts: Json, run: Json, roots: Roots) -> list[Json]:
    """The amendments, which must follow each other, belong to this run and be signed by its agent."""
    if not receipts[6]:
        want(receipts[7] == {1: [], 2: []}, "keys for amendments, and there are none")
        return []
    sessions = open_chain(receipts[7], roots, "the key chain of the amendments")
    found: list[Json] = []
    before, values = None, dict[str, str]()
    for number, item in enumerate(receipts[6], 1):
        what = f"amendment {number}"
        payload, signer, downgrade = open_cose_of_all(item, "amendment", sessions, what)
        want(not downgrade, downgrade)
        body = decode(payload, what, AMENDMENT)
        trusted = all(s.trusted for s in sessions.values()) if run["trusted"] else signer.identity.hex() == run["identity"]
        want(trusted and signer.agent_id == body[2] and body[2].hex() == run["agent"], f"{what}: is not signed by the agent of the run")
        want([body[3].hex(), body[4].hex()] == [run["run"], run["sidecar"]], f"{what}: is of another run or sidecar")
        want(body[5] == number and body[6] == before, f"{what}: does not follow the one before it")
        names = [name for name, _, _ in body[7]]
        form = all(re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)*", name) for name in names)
        want(names and form and len(set(names)) == len(names), f"{what}: changes nothing, a field twice, or one without a name")
        for name, old, new in body[7]:
            want(values.get(name, old) == old, f"{what}: {name} was not {old!r} before")
            values[name] = new
        found.append({"number": number, "changes": body[7], "author": body[8], "reason": body[9], "t_ns": body[10]})
        before = sha(payload)
    return found


def compare_segment(entry: list[Any], seg: Json, run: Json, name: str) -> None:
    """A segment must be the one that the run statement names."""
    ordinal, segment_id, path, size, digest, head, state = entry
    want(seg["segment"] == segment_id and seg["run"] == run["run"], f"{name}: is a segment of another place or run")
    for key, signed in (*((k, run[k]) for k in ("agent", "run_no", "policy")), ("ordinal", ordinal), ("head", head), ("state", state)):
        want(seg[key] == signed, f"{name}: its {key} is {seg[key]}, but the run statement says {signed}")
    if path is not None:
        want(seg["bytes"] == size and seg["sha256"] == digest, f"{name}: is not byte for byte the file of the run statement")


class Total:
    """What the segments of a run say together, in order of their ordinals."""

    def __init__(self) -> None:
        self.trusted = True
        self.downgrade = ""
        self.identities: set[str] = set()
        self.uncounted: set[str] = set()
        self.gaps: dict[str, list[int | None]] = {}
        self.before: dict[str, Json] = {}
        self.clock = ""

    def add(self, seg: Json, name: str) -> None:
        """Add the next segment; within its series it must go on where the one before ended."""
        if earlier := self.before.get(seg["series"]):
            follows = seg["previous"] == [earlier["segment"], earlier["head"]]
            want(follows, f"{name}: does not name the segment before it in series {seg['series']}")
            for source, last in seg["start"].items():
                end = earlier["last"].get(source, last)
                want(end == last, f"{name}: source {source} goes on after {last}, the segment before ended at {end}")
        self.before[seg["series"]] = seg
        self.clock = self.clock or (seg["clock"] and f"{name}: {seg['clock']}")
        self.trusted = self.trusted and seg["trusted"]
        self.downgrade = self.downgrade or seg["downgrade"]
        self.identities.add(seg["identity"])
        self.uncounted |= set(seg["uncounted"])
        for source, (number, count) in seg["gap_counts"].items():
            numbers, counted = self.gaps.get(source, [0, 0])
            self.gaps[source] = [(numbers or 0) + number, None if counted is None or count is None else counted + count]


def verify_run(path: str, roots: Roots) -> tuple[int, str, Json, set[str]]:
    """Level, sentence, counts and the files that belong to a run."""
    (run,) = answers([("run", path, roots, folder_size(path))])
    if "bad" in run:
        return 0, run["bad"], {}, set()
    folder, total = os.path.dirname(path), Total()
    claims = {os.path.normpath(os.path.join(folder, name)) for name in run["claims"]}
    counts = {"segments": len(run["segments"]), "chunks": 0, "gaps": 0}
    try:
        parts = {entry[0]: place(folder, entry[2]) for entry in run["segments"] if entry[2] is not None}
        with contextlib.closing(answers(("part", p, roots, os.path.getsize(p)) for p in parts.values())) as read:
            for entry in run["segments"]:
                seg, name = (next(read), entry[2]) if entry[0] in parts else (run["series"][entry[1]], f"file series {entry[1]}")
                want("bad" not in seg, f"{name}: {seg.get('bad')}")
                compare_segment(entry, seg, run, name)
                total.add(seg, name)
                counts = counts | {key: counts[key] + seg[key] for key in ("chunks", "gaps")}
        said = {source: numbers for source, numbers in run["gap_counts"].items() if numbers[0]}
        want(said == total.gaps, f"the run statement counts the gaps {said}, the segments have {total.gaps}")
        trusted = total.trusted and run["trusted"]
        same = len({run["identity"], *total.identities}) == 1
        want(trusted or same, "the run statement and the segments are signed by different identity keys")
    except Bad as bad:
        return 0, str(bad), counts, claims
    missing = [e[0] for e in run["segments"] if e[5] not in run["witnessed"]]
    level, reason = 3, "witnessed: signed under the root, and another party has seen every segment"
    counts["amendments"] = run["amendments"]
    if run["stamped"]:
        level, reason = 4, f"time-stamped {run['stamped']}: {reason.removeprefix('witnessed: ')}"
    if not trusted:
        level, reason = 1, unknown(run["identity"], roots)
    elif downgrade := run["downgrade"] or total.downgrade or run["misplaced"]:
        level, reason = 1, f"intact, but {downgrade}"
    elif missing or not run["segments"]:
        why = run["problem"] or (f"no witness has seen segment {missing[0]}" if missing else "the run holds no segment")
        level, reason = 2, f"signed under the root; {why}"
    elif clock := total.clock or run["ahead"]:
        level, reason = 2, f"signed under the root; {clock}"
    return level, reason + uncounted_sentence(total.uncounted), counts, claims


def unknown(identity: str, roots: Roots) -> str:
    """The sentence of level 1."""
    key = " ".join(identity[i : i + 4] for i in range(0, len(identity), 4))
    return f"intact, signed by an unknown key ({'the given root did not certify it' if roots.given else 'no root was given'}): {key}"


def uncounted_sentence(sources: Iterable[str]) -> str:
    """Which sources promise no continuity, as the page asks."""
    names = sorted(sources)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f". No counter, so continuity is not promised: {', '.join(names[:3])}{more}" if names else ""


# ---- Child processes, report ----------------------------------------------------------------------------------------


Task = str | tuple[str, str]


def folder_size(path: str) -> int:
    """Bytes below the folder of a file, for a time limit."""
    return sum(os.path.getsize(p) for p in Path(path).parent.rglob("*") if p.is_file())


def work(task: Task, path: str, roots: Roots) -> Json:
    """Do what a child is for."""
    if isinstance(task, tuple) and task[0] == "joined":
        return joined(path, task[1])
    if isinstance(task, tuple):
        return verify_segment(path, roots, hashed=False, part=task)
    if task == "beside":
        result, statement, _, sidecar = open_run(path, roots)
        return result | late(path, result, roots, sidecar) | {"master": master_of(os.path.dirname(path), statement)}
    if task == "proof":
        return read_proof(path, roots)
    return read_run(path, roots) if task == "run" else verify_segment(path, roots, hashed=task == "part")


def master_of(folder: str, statement: Json) -> str:
    """The path of the master file that a run statement names; nothing when it names none."""
    if statement[7] is None:
        return ""
    name, size, digest = statement[7]
    path = place(folder, name)
    want(hash_file(path, pieces=False)[:2] == (size, digest), f"{name}: is not the signed file")
    return path


def child(pipe: Any, task: Task, path: str, roots: Roots, seconds: int) -> None:
    """Work on one file within limits and answer in JSON: what was read is never unpickled."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        for which, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY_LIMIT), (resource.RLIMIT_CPU, seconds)):
            hard = resource.getrlimit(which)[1]
            resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        answer = work(task, path, roots)
    except Bad as bad:
        answer = {"bad": str(bad)}
    except Exception as error:
        answer = {"bad": f"cannot be parsed ({type(error).__name__}: {error})"}
    pipe.send_bytes(json.dumps(answer).encode())
    pipe.close()


class Child:
    """A child process at work on one file."""

    def __init__(self, task: Task, path: str, roots: Roots, size: int) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.task, self.seconds = task, SECONDS + size // 500_000
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=child, args=(theirs, task, path, roots, self.seconds), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self) -> Json:
        """Wait for the answer; `{"bad": sentence}` when something is wrong or the child died."""
        result: Json | None = None
        try:
            in_time = self.pipe.poll(60 + 4 * self.seconds)
            result = json.loads(self.pipe.recv_bytes()) if in_time else {"bad": "took too long"}
        except (EOFError, OSError, ValueError):
            self.process.join()
        if result == {"bad": "took too long"}:
            self.process.kill()
        self.process.join()
        self.pipe.close()
        if result is None or (self.process.exitcode and "bad" not in result):
            code = self.process.exitcode or 0
            who = "reading the sidecar failed" if self.task in ("run", "beside") else "the HDF5 library refused the file"
            return {"bad": f"{who} ({f'signal {-code}' if code < 0 else f'exit code {code}'})"}
        return result


def answers(jobs: Iterable[tuple[Task, str, Roots, int]]) -> Generator[Json, None, None]:
    """Answers in the order of the jobs, as many children at once as there are processors (at most 8)."""
    waiting: deque[Child] = deque()
    try:
        for job in jobs:
            waiting.append(Child(*job))
            if len(waiting) >= min(os.cpu_count() or 1, 8):
                yield waiting.popleft().answer()
        while waiting:
            yield waiting.popleft().answer()
    finally:
        for left in waiting:
            left.process.kill()
            left.process.join()


def line(path: str, kind: str, level: int, reason: str, counts: Json) -> Json:
    """One line of the report."""
    return {"path": path, "kind": kind, "level": level, "ok": False, "reason": reason, "segments": 0, "chunks": 0, "gaps": 0} | counts


def stray(path: str, seg: Json, roots: Roots) -> Json:
    """The line of a segment without its run."""
    if "bad" in seg:
        return line(path, "segment", 0, seg["bad"], {"segments": 1})
    counts = {"segments": 1, "chunks": seg["chunks"], "gaps": seg["gaps"]}
    sentence, level = "signed under the root", 2
    if not seg["trusted"] or seg["downgrade"]:
        sentence, level = f"intact, but {seg['downgrade']}" if seg["trusted"] else unknown(seg["identity"], roots), 1
    skipped = [f"{name}: rows signed early were not compared" for name in seg["early"]]
    sentence += "".join(f"; {told}" for told in (seg["clock"], *skipped) if told)
    return line(path, "segment", level, sentence + uncounted_sentence(seg["uncounted"]), counts)


def run_of(path: str) -> str:
    """The sidecar of the run that a path stands for: a folder, the sidecar, a master; nothing when it is a segment."""
    if os.path.isdir(path):
        found = sorted(str(p) for p in Path(path).glob("*.hsc"))
        return found[0] if len(found) == 1 else ""
    beside = os.path.splitext(path)[0] + ".hsc"
    return beside if path.endswith((".hsc", ".nxs")) and os.path.isfile(beside) else ""


def slice_item(path: str, roots: Roots, dataset: str, slice_: str) -> Json:
    """The line of one slice; witnessed and stamped as its run is, when that stands beside the file."""
    if whole := run_of(path):
        return run_slice_item(whole, roots, dataset, slice_)
    if not os.path.isfile(path):
        return line(path, "slice", 0, "is neither a run nor a file", {})
    (seg,) = answers([((dataset, slice_), path, roots, os.path.getsize(path))])
    beside = list(Path(path).parent.glob("*.hsc"))
    run = next(answers([("beside", str(beside[0]), roots, 0)])) if len(beside) == 1 and "bad" not in seg else None
    return slice_line(path, seg, roots, run)


def slice_line(path: str, seg: Json, roots: Roots, run: Json | None) -> Json:
    """The line of a slice of one segment, at the level that its run gives it."""
    one = stray(path, seg, roots) | {"kind": "slice", "gaps": 0, "leaves": seg.get("leaves", 0), "numbers": seg.get("numbers", [])}
    if one["level"] < 2 or run is None or "bad" in run or not run["trusted"] or run["downgrade"] or run["run"] != seg["run"]:
        return one
    if seg["head"] in run["witnessed"]:
        whole = all(e[5] in run["witnessed"] for e in run["segments"]) and not run["ahead"]
        one["level"] = (4 if run["stamped"] else 3) if whole else 2
        one["reason"] = {4: f"time-stamped {run['stamped']} with its run", 3: "witnessed with its run"}.get(one["level"], one["reason"])
    if run["misplaced"]:
        one["level"], one["reason"] = 1, f"intact, but {run['misplaced']}"
    return one


def together(path: str, lines: list[Json]) -> Json:
    """One line for several slices of a run: the lowest level, all that was checked."""
    lowest = min(lines, key=lambda one: one["level"])
    sums = {key: sum(one[key] for one in lines) for key in ("segments", "chunks", "leaves")}
    return lowest | sums | {"path": path, "numbers": [n for one in lines for n in one["numbers"]]}


def proof_item(path: str, roots: Roots) -> Json:
    """The line of an exported slice."""
    (found,) = answers([("proof", path, roots, os.path.getsize(path))])
    if "bad" in found:
        return line(path, "slice", 0, found["bad"], {})
    return together(path, [slice_line(path, part, roots, found["run"]) for part in found["parts"]])


def run_slice_item(path: str, roots: Roots, dataset: str, slice_: str) -> Json:
    """The line of a slice of a run, its elements counted over the segments; opens the master and the segments that hold it."""
    (run,) = answers([("beside", path, roots, 0)])
    try:
        want("bad" not in run, str(run.get("bad")))
        folder, parts = os.path.dirname(path), list[tuple[str, str]]()
        if run["master"]:
            (found,) = answers([(("joined", dataset), run["master"], roots, os.path.getsize(run["master"]))])
            want("bad" not in found, str(found.get("bad")))
            dataset, members = found["dataset"], found["members"]
            first, _, rest = slice_.replace(" ", "").partition(",")
            ((begin, end),) = parse_slice(first, [sum(n for _, n in members)], dataset)
            for (name, n), at in zip(members, itertools.accumulate((n for _, n in members), initial=0), strict=False):
                if begin < at + n and at < end:
                    parts.append((name, f"{max(begin - at, 0)}:{min(end - at, n)}" + (f",{rest}" if rest else "")))
        else:
            names = [entry[2] for entry in run["segments"] if entry[2] is not None]
            want(len(names) == 1, "the run has no master file that says where its data lie")
            parts = [(names[0], slice_)]
        jobs = [((dataset, piece), place(folder, name), roots, os.path.getsize(place(folder, name))) for name, piece in parts]
        lines = []
        for (name, _), seg in zip(parts, answers(jobs), strict=True):
            want("bad" not in seg, f"{name}: {seg.get('bad')}")
            entry = next((e for e in run["segments"] if e[2] == name), None)
            want(
                entry and [entry[1], entry[5]] == [seg["segment"], seg["head"]], f"{name}: is not the segment that the run statement names"
            )
            seg["downgrade"] = seg["downgrade"] or run["downgrade"]
            lines.append(slice_line(name, seg | {"trusted": seg["trusted"] and run["trusted"]}, roots, run))
        return together(path, lines)
    except Bad as bad:
        return line(path, "slice", 0, str(bad), {})


def items(paths: Iterable[str], roots: Roots) -> Iterator[Json]:
    """Everything to verify below some paths, runs first."""
    for path in paths:
        if is_proof(path):
            yield proof_item(path, roots)
            continue
        below = [path] if os.path.isfile(path) else sorted(str(p) for p in Path(path).rglob("*") if p.is_file())
        found, claimed = False, set[str]()
        for hsc in (p for p in below if p.endswith(".hsc")):
            found = True
            level, reason, counts, claims = verify_run(hsc, roots)
            claimed |= claims
            yield line(hsc, "run", level, reason, counts)
        files = [p for p in below if (p.endswith(SEGMENT_SUFFIXES) or p == path) and not p.endswith(".hsc")]
        strays = [file for file in files if os.path.normpath(file) not in claimed]
        for file, seg in zip(strays, answers(("segment", f, roots, os.path.getsize(f)) for f in strays), strict=True):
            yield stray(file, seg, roots)
        if not found and not files:
            yield line(path, "path", 0, "holds no run and no segment" if os.path.exists(path) else "does not exist", {})


def load_roots(argument: str | None) -> Roots:
    """The root from a file (PEM or DER) or a SHA-256 fingerprint; raises `Bad` when it is neither."""
    if argument is None:
        return Roots()
    if os.path.isfile(argument):
        raw = Path(argument).read_bytes()
        try:
            many = x509.load_pem_x509_certificates(raw) if b"-----BEGIN" in raw else [x509.load_der_x509_certificate(raw)]
        except ValueError as error:
            raise Bad(f"--root {argument}: is not a certificate ({error})") from error
        return Roots(tuple(one.public_bytes(Encoding.DER) for one in many))
    digits = re.sub(r"[\s:]", "", argument).lower().removeprefix("sha256")
    want(re.fullmatch("[0-9a-f]{64}", digits), f"--root {argument}: is neither a file nor 64 hexadecimal digits")
    return Roots(fingerprint=bytes.fromhex(digits))


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 only if every item reaches the level asked, 1 if not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description="Verify files and runs signed with HSC/1 (docs/signed-chunks.md).")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a segment, a run folder, any folder above them, or an exported slice")
    parser.add_argument("--root", help="the facility's root certificate, or its SHA-256 fingerprint")
    parser.add_argument("--tsa-root", metavar="FILE", help="root certificates of time-stamping services")
    parser.add_argument("--level", type=int, default=2, choices=(0, 1, 2, 3, 4), help="level that every item must reach")
    parser.add_argument("--dataset", metavar="PATH", help="check one dataset of a segment or run, and read only what that needs")
    parser.add_argument("--slice", metavar="A:B,C:D", default=":", help="check only these elements of it")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args(argv)
    try:
        roots = load_roots(options.root)
        if options.tsa_root is not None:
            want(os.path.isfile(options.tsa_root), f"--tsa-root {options.tsa_root}: is not a file")
            roots = dataclasses.replace(roots, stampers=load_roots(options.tsa_root).certificates)
    except Bad as bad:
        parser.error(str(bad))
    found = []
    some = (slice_item(path, roots, options.dataset, options.slice) for path in options.paths)
    for one in some if options.dataset else items(options.paths, roots):
        one["ok"] = one["level"] >= options.level
        found.append(one)
        if not options.json:
            amounts = ", ".join(f"{one[k]} {k[:-1] if one[k] == 1 else k}" for k in ("segments", "chunks", "gaps"))
            sys.stdout.write(f"level {one['level']}  {one['path']} ({amounts}): {one['reason']}\n")
            sys.stdout.flush()
    level, ok = min((one["level"] for one in found), default=0), all(one["ok"] for one in found) and bool(found)
    if options.json:
        sys.stdout.write(json.dumps({"items": found, "level": level, "ok": ok}, ensure_ascii=False, indent=1) + "\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
