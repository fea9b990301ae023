"""The systemd unit of the daemon, and installing it.

The unit hides from the service everything that it does not need; `systemd-analyze security edge-agent` shows what is left. Serial
ports need the group ``dialout``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from edge_agent.errors import PermissionRefused, UsageError
from edge_agent.words import t

NAME = "edge-agent.service"
UNIT_FOLDER = Path("/etc/systemd/system")

UNIT = """\
[Unit]
Description=edge-agent: instrument data, signed and landed
Documentation=https://github.com/edge-agent/edge-agent-daq
After=network-online.target time-sync.target
Wants=network-online.target

[Service]
Type=notify
ExecStartPre={command} check {config}
ExecStart={command} run --config {config}
Restart=always
RestartSec=2
# Segments and runs are closed within 10 s; the rest is room for slow disks.
TimeoutStopSec=30
WatchdogSec=60
User={user}
SupplementaryGroups=dialout
StateDirectory=edge-agent
StateDirectoryMode=0750
UMask=0027
ReadWritePaths={spool}
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


def unit_text(config: Path, spool: Path, user: str) -> str:
    """The unit for one configuration; paths are absolute."""
    command = shutil.which("edge-agent") or f"{sys.executable} -m edge_agent.cli"
    return UNIT.format(command=command, config=config.absolute(), spool=spool.absolute(), user=user)


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
    except PermissionError as error:
        raise PermissionRefused(
            t("The unit cannot be written."),
            why=f"{path}: {error.strerror}",
            try_=t("run it as root: sudo edge-agent service install"),
            code="SERVICE_WRITE",
        ) from error
    if Path("/run/systemd/system").is_dir() and folder == UNIT_FOLDER:
        subprocess.run(["systemctl", "daemon-reload"], check=True)
    return path
