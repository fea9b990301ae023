"""A block device that writes down everything that is done to it. Run as a program, as root, in a mount namespace of its own or not.

    python -m tests.torture.block_recorder FILE SIZE LOG

Mounts itself over FILE, which then is a file of SIZE bytes, for a loop device; speaks the kernel's FUSE protocol itself
(linux/fuse.h, 7.31), of which one file needs a dozen calls. Each write and each flush goes to LOG with the monotonic time at which it came, before
it is answered: what a file system wrote when a flush returned stands in the log before the flush.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = struct.Struct("<IIQQIIII")
OUT = struct.Struct("<IiQ")
ENTRY = struct.Struct("<qqq")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
MAX_WRITE = 1 << 20
GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT = 3, 4, 14, 15, 16, 17, 18, 20, 25, 26
SILENT = (2, 36, 42)
"""FORGET, INTERRUPT and BATCH_FORGET get no answer."""
FLUSHED = -1


@dataclass(frozen=True, slots=True)
class Event:
    """A write, or a flush (``data`` is None), when it came in monotonic ns."""

    t_ns: int
    offset: int
    data: bytes | None


def read_log(path: Path) -> Iterator[Event]:
    """What was done, in order."""
    data = path.read_bytes()
    position = 0
    while position + ENTRY.size <= len(data):
        t_ns, offset, size = ENTRY.unpack_from(data, position)
        position += ENTRY.size
        if offset == FLUSHED:
            yield Event(t_ns, 0, None)
        else:
            yield Event(t_ns, offset, data[position : position + size])
            position += size


class Recorder:
    """The server of one file."""

    def __init__(self, size: int, log: Path) -> None:
        self.content = bytearray(size)
        self.log = log.open("wb", buffering=0)

    def answer(self, opcode: int, body: memoryview) -> bytes | int:
        """What to answer to a request: bytes, or a negative error."""
        if opcode == INIT:
            _, minor, readahead, _ = struct.unpack_from("<IIII", body)
            flags = 1 << 5 | 1 << 22  # big writes, MAX_PAGES
            return struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), readahead, flags, 16, 12, MAX_WRITE, 1, MAX_WRITE // 4096, 0, 0)
        if opcode in (GETATTR, SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + ATTR.pack(
                1, len(self.content), len(self.content) // 512, 0, 0, 0, 0, 0, 0, 0o100600, 1, 0, 0, 0, 4096, 0
            )
        if opcode == OPEN:
            return struct.pack("<QII", 1, 0, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return bytes(self.content[offset : offset + size])
        if opcode == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + size]
            self.content[offset : offset + size] = data
            self.log.write(ENTRY.pack(time.monotonic_ns(), offset, size) + data)
            return struct.pack("<II", size, 0)
        if opcode == FSYNC:
            self.log.write(ENTRY.pack(time.monotonic_ns(), FLUSHED, 0))
            return b""
        if opcode in (RELEASE, FLUSH):
            return b""
        if opcode == STATFS:
            return struct.pack("<QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        return -errno.ENOSYS

    def serve(self, fd: int) -> None:
        """Until it is unmounted."""
        while True:
            try:
                request = memoryview(os.read(fd, MAX_WRITE + 65536))
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, opcode, unique, *_ = HEAD.unpack_from(request)
            if opcode in SILENT:
                continue
            said = self.answer(opcode, request[HEAD.size :])
            error, body = (said, b"") if isinstance(said, int) else (0, said)
            os.write(fd, OUT.pack(OUT.size + len(body), error, unique) + body)


def main() -> None:
    place, size, log = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    place.touch()
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=100600,user_id=0,group_id=0".encode()
    if libc.mount(b"recorder", os.fsencode(place), b"fuse", 6, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    os.write(1, b"ready\n")
    Recorder(size, log).serve(fd)


if __name__ == "__main__":
    main()
