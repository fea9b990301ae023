"""The name under which a file travels: safe on every disk that it may land on, and made back into the original one.

A name is the path below the watched folder with ``/``, in Unicode NFC. Characters that some disks cannot hold
(``<>:"|?*`` and the backslash, a blank or dot at an end, device names of Windows) are written ``%3A`` as in addresses
(RFC 3986, 2.1), and a ``%`` that would then be misread is ``%25``. What no escape can save is refused: control and invisible
characters, bytes that are no UTF-8, and names that are too long.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_PART_BYTES: Final = 200
MAX_NAME_BYTES: Final = 700
MAX_PARTS: Final = 24

_INVISIBLE: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
_UNSAFE: Final = re.compile(r'[<>:"|?*\\]|%(?=[0-9A-Fa-f]{2})|^ |[ .]$')


class BadName(ValueError):
    """A name that cannot travel; the message says why."""


def travel_name(path: str) -> str:
    """The name for a path below the watched folder (``/`` between parts).

    Raises:
        BadName: it cannot be made safe.
    """
    parts = unicodedata.normalize("NFC", path).split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadName("it has an empty part, '.' or '..'")
    if any(unicodedata.category(c) in _INVISIBLE for part in parts for c in part):
        raise BadName("it holds control or invisible characters, or bytes that are not UTF-8")
    safe = [_safe(part) for part in parts]
    name = "/".join(safe)
    if len(parts) > MAX_PARTS or len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in safe):
        raise BadName(f"it is too long: at most {MAX_PART_BYTES} bytes a part, {MAX_NAME_BYTES} in all, {MAX_PARTS} folders deep")
    return name


def _safe(part: str) -> str:
    if _DEVICE.fullmatch(part):
        part = _escape(part[0]) + part[1:]
        return part[:3] + _UNSAFE.sub(lambda match: _escape(match[0]), part[3:])
    return _UNSAFE.sub(lambda match: _escape(match[0]), part)


def _escape(character: str) -> str:
    return f"%{ord(character):02X}"
