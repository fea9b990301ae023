"""DPAPI, for this machine and not for one user: what is protected here is read by no other Windows machine (CryptProtectData)."""

from __future__ import annotations

import sys

_UI_FORBIDDEN = 0x1  # a service cannot answer a dialogue
_LOCAL_MACHINE = 0x4


def protect(data: bytes) -> bytes:
    """Encrypt.

    Raises:
        OSError: Windows refused, or this is not Windows.
    """
    return _call("CryptProtectData", data, _UI_FORBIDDEN | _LOCAL_MACHINE)


def unprotect(data: bytes) -> bytes:
    """The inverse of `protect`.

    Raises:
        OSError: of another machine, changed, or this is not Windows.
    """
    return _call("CryptUnprotectData", data, _UI_FORBIDDEN)


def _call(name: str, data: bytes, flags: int) -> bytes:
    if sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        class Blob(ctypes.Structure):
            _fields_ = (("size", wintypes.DWORD), ("data", ctypes.POINTER(ctypes.c_char)))

        source = Blob(len(data), ctypes.cast(ctypes.create_string_buffer(data, len(data)), ctypes.POINTER(ctypes.c_char)))
        made = Blob()
        if not getattr(ctypes.windll.crypt32, name)(ctypes.byref(source), None, None, None, None, flags, ctypes.byref(made)):
            raise ctypes.WinError()
        try:
            return ctypes.string_at(made.data, made.size)
        finally:
            ctypes.windll.kernel32.LocalFree(made.data)
    raise OSError("DPAPI exists on Windows only")
