"""How the identity key lies on the disk: a plain file that only its owner reads, or sealed by the operating system for this machine.

A sealed key is of no use on another machine, so a copied folder, a backup or a disk without its system gives no identity away; nor can it
be restored elsewhere. It is read once a start and signs session records only.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from edge_agent.config import dpapi

NAME = "edge-agent-identity"
SECONDS = 20.0


class Sealer(Protocol):
    """Turns the key (PEM) into what is stored, and back. ``suffix`` of the stored file tells which sealer made it."""

    suffix: ClassVar[str]

    def seal(self, data: bytes) -> bytes:
        """What is stored.

        Raises:
            OSError: the system refused.
        """
        ...

    def unseal(self, data: bytes) -> bytes:
        """The key again.

        Raises:
            OSError: sealed for another machine, changed, or the system refused.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlainFile:
    """Mode 0600 and nothing more."""

    suffix: ClassVar[str] = ""

    def seal(self, data: bytes) -> bytes:
        """As it is."""
        return data

    def unseal(self, data: bytes) -> bytes:
        """As it is."""
        return data


def run(command: Sequence[str], data: bytes) -> bytes:
    """What a program makes of ``data``.

    Raises:
        OSError: it is not there, fails or hangs.
    """
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} does not end") from error
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class SystemdCreds:
    """``systemd-creds`` with the host's secret (``/var/lib/systemd/credential.secret``); needs root.

    Not with a TPM: it would bind the key to the state of the firmware, and an update would take the identity away.
    """

    suffix: ClassVar[str] = ".cred"
    run: Callable[[Sequence[str], bytes], bytes] = run

    def seal(self, data: bytes) -> bytes:
        """Encrypt and authenticate (systemd-creds(1))."""
        return self.run(("systemd-creds", "--with-key=host", f"--name={NAME}", "encrypt", "-", "-"), data)

    def unseal(self, data: bytes) -> bytes:
        """Decrypt."""
        return self.run(("systemd-creds", f"--name={NAME}", "decrypt", "-", "-"), data)


@dataclass(frozen=True, slots=True)
class Dpapi:
    """Windows: for this machine."""

    suffix: ClassVar[str] = ".dpapi"
    protect: Callable[[bytes], bytes] = dpapi.protect
    unprotect: Callable[[bytes], bytes] = dpapi.unprotect

    def seal(self, data: bytes) -> bytes:
        """Encrypt."""
        return self.protect(data)

    def unseal(self, data: bytes) -> bytes:
        """Decrypt."""
        return self.unprotect(data)


PLAIN = PlainFile()
SEALERS: tuple[Sealer, ...] = (SystemdCreds(), Dpapi(), PLAIN)
"""Those that a stored key may be of; a sealed one before a plain one that a crash left beside it."""


def sealer_of(seal: Literal["file", "system"]) -> Sealer:
    """The sealer that a configuration asks for."""
    if seal == "file":
        return PLAIN
    return Dpapi() if sys.platform == "win32" else SystemdCreds()
