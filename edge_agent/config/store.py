"""The operating system's store for secrets of a service, behind one interface.

On Linux these are systemd credentials (systemd.exec(5), ``LoadCredentialEncrypted=``): files that only the service sees, in
``$CREDENTIALS_DIRECTORY``. On Windows a file per secret that DPAPI encrypted for the machine (``CryptProtectData``,
``CRYPTPROTECT_LOCAL_MACHINE``). Login keyrings are left out: a daemon has no login.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

from edge_agent.config import dpapi
from edge_agent.words import t


class Store(Protocol):
    """Reads secrets by name."""

    def read(self, name: str) -> bytes:
        """The secret's bytes.

        Raises:
            OSError: no such secret, or it may not be read.
        """
        ...

    def cure(self, name: str) -> str:
        """What the operator does to put a secret of this name into the store."""
        ...


class SystemdCredentials:
    """Credentials that systemd decrypted for this service."""

    def read(self, name: str) -> bytes:
        """The bytes of ``$CREDENTIALS_DIRECTORY/name``."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise FileNotFoundError(t("CREDENTIALS_DIRECTORY is not set: systemd gave this process no credentials"))
        return Path(folder, name).read_bytes()

    def cure(self, name: str) -> str:
        """The two steps with systemd-creds."""
        return t(
            "systemd-creds encrypt --name={name} FILE /etc/credstore.encrypted/{name}, and LoadCredentialEncrypted={name} in the unit",
            name=name,
        )


class Dpapi:
    """Files that DPAPI encrypted for this machine, ``NAME.dpapi`` in ``%PROGRAMDATA%/edge-agent/secrets``."""

    def read(self, name: str) -> bytes:
        """Decrypt the file of this name."""
        return dpapi.unprotect((_dpapi_folder() / f"{name}.dpapi").read_bytes())

    def cure(self, name: str) -> str:
        """The file to make."""
        return t(
            "encrypt the secret with [Security.Cryptography.ProtectedData]::Protect (LocalMachine) into {path}", path=_dpapi_folder() / name
        )


def system_store() -> Store:
    """The store of this operating system."""
    return Dpapi() if sys.platform == "win32" else SystemdCredentials()


def _dpapi_folder() -> Path:
    return Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "edge-agent", "secrets")
