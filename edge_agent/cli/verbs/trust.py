"""``edge-agent trust ENDPOINT``: shows the certificate of an OPC-UA server, and trusts it from now on when a person says so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.cli.options import ConfigOption, JsonFlag
from edge_agent.words import t

MOST_SKEW_SECONDS = 60


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("trust", help=t("Show the certificate of an OPC-UA server, and trust it from now on."))(trust)


def trust(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help=t("Address of the server, as opc.tcp://192.168.1.30:4840."))],
    folder: Annotated[Path | None, typer.Option(help=t("Folder of our certificates. Default: as configured."))] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=t("Trust it without asking."))] = False,
    expected: Annotated[str, typer.Option("--fingerprint", metavar="SHA256", help=t("Trust it only if it has this fingerprint."))] = "",
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Ask the server, show what it answers, ask the person, pin."""
    import asyncio
    import sys

    from edge_agent.cli import output
    from edge_agent.config.adapters import adapter_module
    from edge_agent.errors import IntegrityError, UsageError

    if not endpoint.startswith("opc.tcp://"):
        raise UsageError(
            t("{endpoint} is no address of an OPC-UA server.", endpoint=endpoint), try_="edge-agent trust opc.tcp://192.168.1.30:4840"
        )
    place = folder or _configured(endpoint, config)
    opcua: Any = adapter_module("opcua")
    found = asyncio.run(opcua.examine(endpoint, place))
    if not as_json:
        output.say(_text(found))
    if expected and _plain(expected) != _plain(found.certificate.fingerprint):
        raise IntegrityError(
            t("The server shows another certificate than the expected one; it is not trusted."),
            why=t("it shows {shown}, expected is {expected}", shown=found.certificate.fingerprint, expected=expected),
            try_=t("ask the person who runs the server"),
        )
    wanted = found.state != "same" and (yes or bool(expected) or (not as_json and sys.stdin.isatty() and _asked()))
    path = opcua.trust(found, place) if wanted else None
    if as_json:
        output.emit({"ok": True, **_object(found), "trusted": wanted or found.state == "same", "file": path and str(path)})
    elif path is not None:
        output.say(t("Trusted from now on: {path}", path=path))
    elif found.state == "same":
        output.say(t("It is trusted already."))
    else:
        output.say(t("Not trusted. If the fingerprint is right: edge-agent trust {endpoint} --yes", endpoint=endpoint))
    return 0 if wanted or found.state == "same" else 6


def _configured(endpoint: str, config: Path | None) -> Path:
    """The folder that the instrument of this endpoint uses, else that of any OPC-UA instrument, else the usual one."""
    from edge_agent.cli.options import config_path
    from edge_agent.config.adapters import adapter_class
    from edge_agent.config.loading import load
    from edge_agent.errors import UsageError

    usual: Path = adapter_class("opcua").Config.model_fields["identity"].default
    try:
        path = config_path(config)
    except UsageError:
        return usual
    found: list[Any] = [table.settings for table in load(path).instruments.values() if table.adapter == "opcua"]
    return next((one.identity for one in found if one.endpoint == endpoint), next((one.identity for one in found), usual))


def _asked() -> bool:
    return typer.confirm(t("Is this the fingerprint that the server itself shows? Trust it?"))


def _text(found: Any) -> str:
    from edge_agent.cli import output

    theirs, own = found.certificate, found.own
    lines = [
        (t("subject"), theirs.subject),
        (t("issuer"), theirs.issuer),
        (t("fingerprint (SHA-256)"), theirs.fingerprint),
        (t("thumbprint (SHA-1)"), theirs.thumbprint),
        (t("valid"), f"{theirs.first_day} – {theirs.last_day}" + (f"  {t('NOT VALID TODAY')}" if theirs.expired else "")),
        (t("offers"), ", ".join(found.security)),
    ]
    if found.ahead_s is not None:
        lines.append((t("its clock"), t("{seconds} s ahead of ours", seconds=f"{found.ahead_s:+.1f}")))
    text = output.columns((found.endpoint, ""), lines)
    if found.ahead_s is not None and abs(found.ahead_s) > MOST_SKEW_SECONDS:
        text += "\n" + t("The clocks are too far apart for a secure connection: set both by the same time server.")
    if found.state == "changed":
        text += "\n" + t("ANOTHER CERTIFICATE WAS TRUSTED BEFORE: {pinned}. Was the server's renewed?", pinned=found.pinned)
    return (
        text
        + "\n"
        + t(
            "Ours, for the server to trust: {path} ({thumbprint}, until {day})",
            path=found.own_path,
            thumbprint=own.thumbprint,
            day=own.last_day,
        )
    )


def _object(found: Any) -> dict[str, Any]:
    def told(one: Any) -> dict[str, Any]:
        keys = ("subject", "issuer", "fingerprint", "thumbprint", "first_day", "last_day", "expired")
        return {key: getattr(one, key) for key in keys}

    return {
        "endpoint": found.endpoint,
        "certificate": told(found.certificate),
        "state": found.state,
        "security": list(found.security),
        "clock_ahead_s": found.ahead_s,
        "own": told(found.own) | {"path": str(found.own_path)},
    }


def _plain(fingerprint: str) -> str:
    return "".join(c for c in fingerprint.upper() if c in "0123456789ABCDEF")
