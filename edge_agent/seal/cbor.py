"""Deterministic CBOR (RFC 8949 section 4.2.1), and refusing anything else.

`loads` accepts only the one encoding that `dumps` would have made, so that two different byte strings never mean the same statement.
"""

from __future__ import annotations

from typing import Any

import cbor2


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
    try:
        value = cbor2.loads(data)
        again = dumps(value)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError, UnicodeError) as error:
        raise SealError(f"{what}: not CBOR ({error})") from error
    if again != data:
        raise SealError(f"{what}: not the deterministic encoding of one item")
    return value


def fields(value: Any, what: str, **required: type | tuple[type, ...]) -> list[Any]:
    """Take integer keys ``k1``, ``k2`` ... out of a map and check their types.

    Args:
        value: what `loads` gave.
        what: name of the part, for the message.
        **required: ``k<number>`` to type; a key that is not named must be absent.

    Returns:
        The values in the order of the keyword arguments.

    Raises:
        SealError: not a map, a key missing or extra, a value of another type.
    """
    if not isinstance(value, dict):
        raise SealError(f"{what}: not a map")
    keys = [int(name[1:]) for name in required]
    if set(value) != set(keys):
        raise SealError(f"{what}: has keys {sorted(map(str, value))}, wants {sorted(keys)}")
    for key, kind in zip(keys, required.values(), strict=True):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value[key], kinds) or (isinstance(value[key], bool) and bool not in kinds):
            raise SealError(f"{what}: key {key} is a {type(value[key]).__name__}")
    return [value[key] for key in keys]
