"""Opens ports: a serial device, a raw TCP connection, or RFC 2217 (Telnet Com Port Control).

Invariants: a port is opened exclusively where the system can; `Port.read` returns in the time that it is given (`PATIENCE_SECONDS`
where the port is behind RFC 2217);
whatever goes wrong with a port is a `PortDown` that says why and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import serial
from serial.tools import list_ports

from adapters.serial.com_port import ComPort
from adapters.serial.config import USB, SerialConfig
from adapters.serial.line_errors import LineErrors, counted_by_driver
from adapters.serial.why import Why

PATIENCE_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 3.0
WRITE_SECONDS: Final = 1.0
MOST_READ: Final = 65536

_CLOSED = (Why("the device server closed the connection"), Why("look whether another client took the port"))
_PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}
# TypeError is what pyserial raises when the port is closed by another thread meanwhile.
_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, NotImplementedError)
if sys.platform != "win32":
    import termios

    _ERRORS = (*_ERRORS, termios.error)  # pyserial lets some of them through


class PortDown(Exception):
    """The port cannot be opened or is gone. ``reason`` is the evidence, and what to do."""

    def __init__(self, why: str, try_: str = "") -> None:
        self.reason = Why("{why}; {cure}", why=why, cure=try_) if try_ else why
        super().__init__(self.reason)


class Port(Protocol):
    """An open port. `read` is called by one thread, `write` by another; `close` by the reading one."""

    def read(self, patience: float = PATIENCE_SECONDS) -> bytes:
        """What has arrived, at least one byte, or nothing after ``patience`` seconds. Raises PortDown."""
        ...

    def errors(self) -> LineErrors | None:
        """What was counted of a bad line so far; None where nobody counts."""
        ...

    def write(self, data: bytes) -> None:
        """Send; waits `WRITE_SECONDS` at most. Raises PortDown."""
        ...

    def close(self) -> None:
        """Give the port back; raises nothing."""
        ...


def open_port(config: SerialConfig) -> Port:
    """Open the port of a configuration; blocks up to about `CONNECT_SECONDS`. Raises PortDown."""
    if config.port.startswith("socket://"):
        return TcpPort(config.port)
    name = find_usb(config.port.removeprefix(USB)) if config.port.startswith(USB) else config.port
    return SerialPort(name, config)


def find_usb(serial_number: str) -> str:
    """The device of the USB adapter with this serial number. Raises PortDown."""
    there = {port.serial_number: port.device for port in list_ports.comports() if port.serial_number}
    if serial_number in there:
        return str(there[serial_number])
    found = ", ".join(sorted(there)) or Why("none")
    why = Why("no USB adapter has the serial number {number} (found: {found})", number=serial_number, found=found)
    raise PortDown(why, Why("plug it in, or correct port"))


class SerialPort:
    """A device, or RFC 2217 with ``rfc2217://host:port``, by pyserial."""

    def __init__(self, name: str, config: SerialConfig) -> None:
        self._name = name
        try:
            self._serial = self._make(name, config)
            self._serial.port = name
            self._serial.open()
            # pyserial's own timeout cannot be changed without setting up the port anew.
            self._selects = os.name == "posix" and not isinstance(self._serial, ComPort)
        except _ERRORS as e:
            raise explain(name, e) from e

    @staticmethod
    def _make(name: str, config: SerialConfig) -> Any:
        settings: dict[str, Any] = {
            "baudrate": config.baudrate,
            "bytesize": config.bytesize,
            "parity": _PARITIES[config.parity],
            "stopbits": config.stopbits,
            "xonxoff": config.xonxoff,
            "rtscts": config.rtscts,
            "timeout": PATIENCE_SECONDS,
        }
        if "://" in name:  # RFC 2217 has neither of the two below
            return ComPort(None, **settings)
        return serial.Serial(None, write_timeout=WRITE_SECONDS, exclusive=True if os.name == "posix" else None, **settings)

    def read(self, patience: float = PATIENCE_SECONDS) -> bytes:
        """See `Port`."""
        try:
            if self._selects and not select.select([self._serial.fileno()], (), (), patience)[0]:
                return b""
            return bytes(self._serial.read(min(self._serial.in_waiting, MOST_READ) or 1))
        except _ERRORS as e:
            raise explain(self._name, e) from e

    def errors(self) -> LineErrors | None:
        """See `Port`."""
        if isinstance(self._serial, ComPort):
            return self._serial.errors
        try:
            return counted_by_driver(self._serial.fileno()) if self._selects else None
        except _ERRORS:  # the next read says what is wrong with the port
            return None

    def write(self, data: bytes) -> None:
        """See `Port`."""
        try:
            self._serial.write(data)
        except _ERRORS as e:
            raise explain(self._name, e) from e

    def close(self) -> None:
        """See `Port`."""
        with contextlib.suppress(*_ERRORS):  # it is given up anyway, and the device may be gone
            self._serial.close()


class TcpPort:
    """A raw TCP connection to a device server. pyserial's own reads one byte a call."""

    def __init__(self, url: str) -> None:
        self._name = url
        parts = urlsplit(url)
        try:
            self._socket = socket.create_connection((parts.hostname or "", parts.port or 0), CONNECT_SECONDS)
        except OSError as e:
            raise explain(url, e) from e
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A device server that lost its power says nothing; the keep-alive finds out within half a minute.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._socket.settimeout(WRITE_SECONDS)

    def read(self, patience: float = PATIENCE_SECONDS) -> bytes:
        """See `Port`."""
        try:
            if not select.select([self._socket], (), (), patience)[0]:
                return b""
            data = self._socket.recv(MOST_READ)
        except (OSError, ValueError) as e:
            raise explain(self._name, e) from e
        if not data:
            raise PortDown(*_CLOSED)
        return data

    def errors(self) -> LineErrors | None:
        """See `Port`: a raw connection tells nothing of the line behind the device server."""
        return None

    def write(self, data: bytes) -> None:
        """See `Port`."""
        try:
            self._socket.sendall(data)
        except OSError as e:
            raise explain(self._name, e) from e

    def close(self) -> None:
        """See `Port`."""
        self._socket.close()


def explain(name: str, error: Exception) -> PortDown:
    """What an error of the system means for a port, and what to do."""
    code = _code(error)
    if code == errno.ENOENT:
        devices = ", ".join(sorted(str(port.device) for port in list_ports.comports())) or Why("none")
        return PortDown(Why("there is no {name} (ports found: {devices})", name=name, devices=devices), Why("plug it in, or correct port"))
    if code in (errno.EACCES, errno.EPERM):
        return PortDown(
            Why("this user may not open {name}", name=name), Why("add the user to the group of the device, as: usermod -aG dialout USER")
        )
    if code in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error):
        return PortDown(Why("another program has {name} open", name=name), Why("close that program"))
    if code == errno.ENOTTY:
        return PortDown(Why("{name} is no serial port", name=name), Why("correct port"))
    if code in (errno.ECONNRESET, errno.EPIPE):
        return PortDown(*_CLOSED)
    if code == errno.ECONNREFUSED:
        return PortDown(
            Why("nobody listens there (connection refused)"), Why("look whether the device server is on and the port number is right")
        )
    if isinstance(error, serial.SerialTimeoutException):
        return PortDown(Why("it takes no data (write timeout)"), Why("look at the cable and at the flow control (xonxoff, rtscts)"))
    if isinstance(error, ValueError | NotImplementedError):
        return PortDown(Why("it does not take these settings: {error}", error=error), Why("correct baudrate, bytesize, parity or stopbits"))
    if "support RFC2217" in str(error):
        return PortDown(Why("it does not speak RFC 2217"), Why("look at the settings of the device server, or use socket:// for raw TCP"))
    if "waiting for option" in str(error):
        return PortDown(Why("the device server does not confirm a setting ({error})", error=error), Why("append ?ign_set_control to port"))
    if code == errno.EIO or "returned no data" in str(error):
        return PortDown(Why("the port is gone (unplugged?)"), Why("plug it in again"))
    return PortDown(str(error) or type(error).__name__)


def _code(error: BaseException) -> int | None:
    """The system's number for an error; pyserial keeps it in words and leaves the number to the error that it caught."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, _ERRORS) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return _code(error.__context__) if error.__context__ is not None else None
