"""Deterministic CBOR (RFC 8949 section 4.2.1), and refusing anything else.

`loads` accepts only the one encoding that `dumps` would have made, so that two different byte strings never mean the same
statement. Items that HSC/1 has no use for (floats, tags but those of COSE signatures, other simple values) are refused before the decoder
sees them: general decoders turn some into dates, patterns and huge numbers.
"""

from __future__ import annotations

from typing import Any

import cbor2

COSE_SIGN1 = 18
COSE_SIGN = 98
_DEPTH = 64
_FALSE_TRUE_NULL = frozenset({0xF4, 0xF5, 0xF6})
_LABELS = frozenset({*range(24), 0x20, 0x21, 0x22})
"""Initial bytes of the integers that are map keys: 0 to 23, -1 to -3. False and True would be equal to some of them in Python."""
_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(2, 8)


class SealError(ValueError):
    """Bytes that are not what HSC/1 says. The message names the part."""


def dumps(value: Any) -> bytes:
    """Encode deterministically; map keys are non-negative integers or texts (where both RFC 8949 orders agree)."""
    return cbor2.dumps(value, canonical=True)


def loads(data: bytes, what: str) -> Any:
    """Decode exactly one deterministic item.

    Args:
        data: the bytes.
        what: name of the part, for the message.

    Raises:
        SealError: not CBOR, trailing bytes, or not the deterministic encoding.
    """
    _scan(data, what)
    try:
        value = cbor2.loads(data)
        again = dumps(value)
    except (cbor2.CBORError, ValueError, TypeError) as error:
        raise SealError(f"{what}: not CBOR ({error})") from error
    if again != data:
        raise SealError(f"{what}: not the deterministic encoding of one item")
    return value


def loads_own(data: bytes) -> Any:
    """Decode what `dumps` made in this program and a checksum has covered since: `loads`, which trusts nothing, takes ten times as long."""
    return cbor2.loads(data)


Kind = type | int


def fields(value: Any, what: str, **required: Kind | tuple[Kind, ...]) -> list[Any]:
    """Take integer keys ``k1``, ``k2`` ... out of a map and check their types.

    Args:
        value: what `loads` gave.
        what: name of the part, for the message.
        **required: ``k<number>`` to a type, to the length of a byte string, or to several of them; a key that is not named must be absent.

    Returns:
        The values in the order of the keyword arguments.

    Raises:
        SealError: not a map, a key missing or extra, a value of another type.
    """
    if not isinstance(value, dict):
        raise SealError(f"{what}: not a map")
    keys = [int(name[1:]) for name in required]
    # The types too, because True == 1.
    if set(value) != set(keys) or any(type(key) is not int for key in value):
        raise SealError(f"{what}: has keys {sorted(map(str, value))}, wants {sorted(keys)}")
    for key, kind in zip(keys, required.values(), strict=True):
        if not is_one_of(value[key], kind):
            size = f" of {len(value[key])} bytes" if isinstance(value[key], bytes) else ""
            raise SealError(f"{what}: key {key} is a {type(value[key]).__name__}{size}")
    return [value[key] for key in keys]


def is_one_of(value: Any, kind: Kind | tuple[Kind, ...]) -> bool:
    """Whether a decoded value is exactly of a type, a byte string of a length, or one of several such kinds."""
    if isinstance(kind, tuple):
        return any(is_one_of(value, one) for one in kind)
    if isinstance(kind, int):
        return isinstance(value, bytes) and len(value) == kind
    # Exactly, because True is an int.
    return type(value) is kind


def octets(value: Any, size: int) -> bytes:
    """A byte string of that length.

    Raises:
        SealError: anything else.
    """
    if not is_one_of(value, size):
        raise SealError(f"a {type(value).__name__} where a byte string of {size} bytes belongs")
    return bytes(value)


def _scan(data: bytes, what: str) -> None:
    """Walk the initial bytes of RFC 8949 section 3 and refuse what is cut, too deep, or of a kind that HSC/1 does not use."""
    at = 0
    todo, maps = [1], [False]
    while todo:
        if not todo[-1]:
            todo.pop()
            maps.pop()
            continue
        key = maps[-1] and not todo[-1] & 1
        todo[-1] -= 1
        if at >= len(data):
            raise SealError(f"{what}: cut short")
        initial = data[at]
        kind, argument = initial >> 5, initial & 31
        at += 1
        if key and kind != _TEXT and initial not in _LABELS:
            raise SealError(f"{what}: a map key that is neither a text nor a small integer")
        if kind == _SIMPLE:
            if initial not in _FALSE_TRUE_NULL:
                raise SealError(f"{what}: a float or simple value, which HSC/1 does not use")
            continue
        if argument >= 24:
            width = 1 << (argument - 24)
            if width > 8:
                raise SealError(f"{what}: an item of indefinite length")
            argument = int.from_bytes(data[at : at + width], "big")
            at += width
        if kind in (_BYTES, _TEXT):
            at += argument
        elif kind == _TAG and argument not in (COSE_SIGN1, COSE_SIGN):
            raise SealError(f"{what}: tag {argument}, which HSC/1 does not use")
        elif kind in (_ARRAY, _MAP, _TAG):
            todo.append({_ARRAY: argument, _MAP: 2 * argument, _TAG: 1}[kind])
            maps.append(kind == _MAP)
            if len(todo) > _DEPTH:
                raise SealError(f"{what}: nested more than {_DEPTH} deep")
    if at != len(data):
        raise SealError(f"{what}: {'trailing bytes' if at < len(data) else 'cut short'}")
