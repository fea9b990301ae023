"""Opens ports: a serial device, a raw TCP connection, or RFC 2217 (Telnet Com Port Control).

Invariants: a port is opened exclusively where the system can; `Port.read` returns at least every `PATIENCE_SECONDS`;
whatever goes wrong with a port is a `PortDown` that says why and what to do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import serial
from serial.tools import list_ports

from adapters.serial.com_port import ComPort
from adapters.serial.config import USB, SerialConfig

PATIENCE_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 3.0
WRITE_SECONDS: Final = 1.0
MOST_READ: Final = 65536

_CLOSED = ("the device server closed the connection", "look whether another client took the port")
_PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}
# TypeError is what pyserial raises when the port is closed by another thread meanwhile.
_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, NotImplementedError)
if sys.platform != "win32":
    import termios

    _ERRORS = (*_ERRORS, termios.error)  # pyserial lets some of them through


class PortDown(Exception):
    """The port cannot be opened or is gone. ``why`` is the evidence, ``try_`` what to do."""

    def __init__(self, why: str, try_: str = "") -> None:
        super().__init__(f"{why}; {try_}" if try_ else why)
        self.why = why
        self.try_ = try_


class Port(Protocol):
    """An open port. `read` is called by one thread, `write` by another; `close` by the reading one."""

    def read(self) -> bytes:
        """What has arrived, at least one byte, or nothing after `PATIENCE_SECONDS`. Raises PortDown."""
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
    found = ", ".join(sorted(there)) or "none"
    raise PortDown(f"no USB adapter has the serial number {serial_number} (found: {found})", "plug it in, or correct port")


class SerialPort:
    """A device, or RFC 2217 with ``rfc2217://host:port``, by pyserial."""

    def __init__(self, name: str, config: SerialConfig) -> None:
        self._name = name
        try:
            self._serial = self._make(name, config)
            self._serial.port = name
            self._serial.open()
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

    def read(self) -> bytes:
        """See `Port`."""
        try:
            return bytes(self._serial.read(min(self._serial.in_waiting, MOST_READ) or 1))
        except _ERRORS as e:
            raise explain(self._name, e) from e

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
        self._socket.settimeout(PATIENCE_SECONDS)

    def read(self) -> bytes:
        """See `Port`."""
        try:
            data = self._socket.recv(MOST_READ)
        except TimeoutError:
            return b""
        except OSError as e:
            raise explain(self._name, e) from e
        if not data:
            raise PortDown(*_CLOSED)
        return data

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
        devices = ", ".join(sorted(str(port.device) for port in list_ports.comports())) or "none"
        return PortDown(f"there is no {name} (ports found: {devices})", "plug it in, or correct port")
    if code in (errno.EACCES, errno.EPERM):
        return PortDown(f"this user may not open {name}", "add the user to the group of the device, as: usermod -aG dialout USER")
    if code in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error):
        return PortDown(f"another program has {name} open", "close that program")
    if code == errno.ENOTTY:
        return PortDown(f"{name} is no serial port", "correct port")
    if code in (errno.ECONNRESET, errno.EPIPE):
        return PortDown(*_CLOSED)
    if code == errno.ECONNREFUSED:
        return PortDown("nobody listens there (connection refused)", "look whether the device server is on and the port number is right")
    if isinstance(error, serial.SerialTimeoutException):
        return PortDown("it takes no data (write timeout)", "look at the cable and at the flow control (xonxoff, rtscts)")
    if isinstance(error, ValueError | NotImplementedError):
        return PortDown(f"it does not take these settings: {error}", "correct baudrate, bytesize, parity or stopbits")
    if "support RFC2217" in str(error):
        return PortDown("it does not speak RFC 2217", "look at the settings of the device server, or use socket:// for raw TCP")
    if "waiting for option" in str(error):
        return PortDown(f"the device server does not confirm a setting ({error})", "append ?ign_set_control to port")
    if code == errno.EIO or "returned no data" in str(error):
        return PortDown("the port is gone (unplugged?)", "plug it in again")
    return PortDown(str(error) or type(error).__name__)


def _code(error: BaseException) -> int | None:
    """The system's number for an error; pyserial keeps it in words and leaves the number to the error that it caught."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, _ERRORS) and error.args and isinstance(error.args[0], int):
        return error.args[0]
    return _code(error.__context__) if error.__context__ is not None else None
