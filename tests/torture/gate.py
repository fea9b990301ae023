"""Stands between a process and the system: sees each of its calls that change files, and lets it pass, fail or be the last.

Linux on x86-64, by seccomp's user notification (seccomp_unotify(2)): the process gives itself a filter that stops it in calls of
`CALLS`, all or some kinds, all its threads included, and hands a listener to whoever watches. Any other call costs nothing, and the numbers are those of the
process, not of a thread, so that every call can be met. Errors are those of the system; a fault comes instead of the call, never after it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

FDS = {"write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "sendfile": 40, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "fallocate": 285}
"""Calls whose first argument is an open file, with their numbers on x86-64."""
PATHS = {"rename": (82, 0), "unlink": (87, 0), "mkdir": (83, 0), "rmdir": (84, 0), "truncate": (76, 0), "link": (86, 1)}
"""Calls that name a file, with their numbers and the argument that says which (the new name of a link)."""
AT = {"renameat": (264, 1), "renameat2": (316, 1), "unlinkat": (263, 1), "mkdirat": (258, 1), "linkat": (265, 3)}
CALLS = tuple(FDS) + tuple(PATHS) + tuple(AT)
NAMES = {number: name for name, number in FDS.items()} | {number: name for name, (number, _) in (PATHS | AT).items()}
ARGUMENT = dict.fromkeys(FDS, 0) | {name: argument for name, (_, argument) in (PATHS | AT).items()}

_SECCOMP, _SET_FILTER, _NEW_LISTENER = 317, 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NO_NEW_PRIVS = 38
PAGE = 4096
RANDOM = re.compile("[0-9a-f]{16,}")
"""A part of a name that is another one each time."""


@dataclass(frozen=True, slots=True)
class Call:
    """The ``n``-th call of its kind on a file; ``file`` is a path below the watched folder."""

    kind: str
    file: str
    n: int

    def __str__(self) -> str:
        return f"{self.kind} {self.file} {self.n}"


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def enter(to: socket.socket, kinds: Collection[str]) -> None:
    """Filter this process from now on, and send the listener; only `Watch` lets its calls of these kinds pass."""
    numbers = sorted(number for number, name in NAMES.items() if name in kinds)
    code = [struct.pack("<HBBI", 0x20, 0, 0, 0)]  # load the number of the call
    code += [struct.pack("<HBBI", 0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    code += [struct.pack("<HBBI", 0x06, 0, 0, verdict) for verdict in (_ALLOW, _NOTIFY)]
    kept = ctypes.create_string_buffer(b"".join(code))
    program = _Program(len(code), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
    socket.send_fds(to, [b"."], [listener])
    os.close(listener)


@dataclass
class Watch:
    """Answers for one process. ``fault`` instead of call ``at``: a number of `errno`, or 0 for SIGKILL; None: only count.

    ``seen`` are the calls in their order; ``met`` says whether ``at`` came.
    """

    pid: int
    folder: Path
    at: Call | None = None
    fault: int | None = None
    seen: list[Call] = field(default_factory=list)
    met: bool = False
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def serve(self, listener: int, until: float) -> None:
        """Until the process ends; it is killed at a time of the monotonic clock."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            events = poll.poll(100)
            if not events:
                if time.monotonic() > until:
                    os.kill(self.pid, signal.SIGKILL)
                continue
            if not events[0][1] & select.POLLIN:
                return
            buffer = bytearray(80)
            try:
                fcntl.ioctl(listener, _RECEIVE, buffer)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # it was killed meanwhile
                    continue
                raise
            answer = self._answer(buffer)
            if answer is not None:
                try:
                    fcntl.ioctl(listener, _SEND, answer)
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise

    def _answer(self, notice: bytearray) -> bytes | None:
        number, thread = struct.unpack_from("<QI", notice)
        call = self._call(thread, struct.unpack_from("<i", notice, 16)[0], struct.unpack_from("<6Q", notice, 32))
        if call is not None:
            self.seen.append(call)
            if call == self.at:
                self.met = True
                if self.fault == 0:
                    os.kill(self.pid, signal.SIGKILL)
                    return None
                if self.fault is not None:
                    return struct.pack("<QqiI", number, 0, -self.fault, 0)
        return struct.pack("<QqiI", number, 0, 0, _CONTINUE)

    def _call(self, thread: int, number: int, arguments: tuple[int, ...]) -> Call | None:
        kind = NAMES[number]
        argument = arguments[ARGUMENT[kind]]
        try:
            if kind in FDS:
                name = os.readlink(f"/proc/{thread}/fd/{argument}")
            else:
                name = _text(thread, argument)
                if not name.startswith("/"):
                    place = f"fd/{arguments[ARGUMENT[kind] - 1]}" if kind in AT else "cwd"
                    name = f"{os.readlink(f'/proc/{thread}/{place}')}/{name}"
        except OSError:  # it was killed meanwhile
            return None
        file = below(self.folder, name)
        if file is None:
            return None
        self._counts[kind, file] += 1
        return Call(kind, file, self._counts[kind, file])


def below(folder: Path, name: str) -> str | None:
    """How a file below the folder is called in a `Call`; None for others."""
    return RANDOM.sub("X", name.removeprefix(f"{folder}/").removesuffix(" (deleted)")) if name.startswith(f"{folder}/") else None


def _text(thread: int, address: int) -> str:
    """A path in the memory of a process that waits; only up to the end of its page may there be memory at all."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        found = memory.read(PAGE - address % PAGE)
        if b"\0" not in found:
            found += memory.read(PAGE)
    return os.fsdecode(found.partition(b"\0")[0])
