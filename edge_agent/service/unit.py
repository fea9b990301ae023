"""The systemd unit of the daemon, and installing it.

The unit hides from the service everything that it does not need; `systemd-analyze security edge-agent` shows what is left. Serial
ports need the group ``dialout``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from edge_agent.config.models import Config
from edge_agent.config.targets import FolderTarget
from edge_agent.errors import PermissionRefused, UsageError
from edge_agent.words import t

NAME = "edge-agent.service"
UNIT_FOLDER = Path("/etc/systemd/system")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
SAFE = re.compile(r"[A-Za-z0-9_./:@+-]+")

UNIT = """\
[Unit]
Description=edge-agent: instrument data, signed and landed
After=network-online.target time-sync.target
Wants=network-online.target

[Service]
Type=notify
ExecStartPre={command} check {config}
ExecStart={command} run --config {config}
Restart=always
RestartSec=2
# After a crash large segments are recovered first, however long that takes.
TimeoutStartSec=infinity
# Segments and runs are closed within 10 s; the rest is room for slow disks.
TimeoutStopSec=30
WatchdogSec=60
User={user}
SupplementaryGroups=dialout
StateDirectory=edge-agent
StateDirectoryMode=0750
UMask=0027
ReadWritePaths={paths}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
NoNewPrivileges=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
CapabilityBoundingSet=
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def unit_text(file: Path, config: Config, user: str) -> str:
    """The unit for one configuration.

    Args:
        file: the configuration's path.
        config: what is in it: the service may write to the spool, to the keys and to targets that are folders, and nowhere else.
        user: the account that the service runs as.

    Raises:
        UsageError: a path or the account's name cannot be written into a unit.
    """
    if not USER.fullmatch(user):
        raise UsageError(t("{user!r} is no account name.", user=user), try_="--user edge-agent", code="SERVICE_USER")
    program = shutil.which("edge-agent")
    command = _argument(program) if program else f"{_argument(sys.executable)} -m edge_agent.cli"
    shares = [target.folder for target in config.targets.values() if isinstance(target, FolderTarget)]
    folders = [config.spool.dir, config.keys_dir, *shares]
    # A share that is not mounted must not keep the service from starting: "-".
    paths = " ".join(_quoted(f"-{Path(folder).absolute()}") for folder in dict.fromkeys(folders))
    return UNIT.format(command=command, config=_argument(str(file.absolute())), paths=paths, user=user)


def _argument(text: str) -> str:
    """One word of a command line in a unit (systemd.service(5)): variables are taken literally too."""
    return _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    """One word of a unit file (systemd.syntax(7), systemd.unit(5)): quoted, with specifiers taken literally."""
    if any(ord(c) < 32 for c in text):
        raise UsageError(t("A path with control characters cannot be written into a unit."), why=repr(text), code="SERVICE_PATH")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if SAFE.fullmatch(text) else f'"{escaped}"'


def install(text: str, folder: Path = UNIT_FOLDER) -> Path:
    """Write the unit and have systemd read it, where one runs.

    Raises:
        UsageError: this is no system with systemd units.
        PermissionRefused: the folder may not be written.
    """
    if os.name != "posix":
        raise UsageError(t("Windows services are not installed by this version."), try_=t("see docs/windows.md"), code="SERVICE_WINDOWS")
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PermissionRefused(
            t("The unit cannot be written."),
            why=f"{path}: {error.strerror}",
            try_=t("run it as root: sudo edge-agent service install"),
            code="SERVICE_WRITE",
        ) from error
    if Path("/run/systemd/system").is_dir() and folder == UNIT_FOLDER:
        subprocess.run(["systemctl", "daemon-reload"], check=True)
    return path
