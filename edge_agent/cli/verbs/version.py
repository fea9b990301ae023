"""``edge-agent version``: what runs here, for a report."""

from __future__ import annotations

import typer

from edge_agent.cli.options import JsonFlag
from edge_agent.words import t

LIBRARIES = ("h5py", "hdf5plugin", "numpy", "asyncua", "p4p", "aioca", "pyserial", "paho-mqtt", "cryptography")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("version", help=t("Print the version of edge-agent and of what it stands on."))(version)


def version(as_json: JsonFlag = False) -> None:
    """Print versions."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    from edge_agent import __version__
    from edge_agent.cli import output

    libraries: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            libraries[name] = installed(name)
        except PackageNotFoundError:
            libraries[name] = None
    if as_json:
        output.emit({"edge-agent": __version__, "python": platform.python_version(), "system": platform.platform(), "libraries": libraries})
        return
    output.say(f"edge-agent {__version__}, Python {platform.python_version()}, {platform.platform()}")
    output.say(", ".join(f"{name} {found or t('(not installed)')}" for name, found in libraries.items()))
