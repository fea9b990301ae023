"""Where an MQTT broker is and how to log in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from edge_agent.errors import ConfigError, TargetUnreachable


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and how to log in; ``tls`` None means plain TCP."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None = None) -> Broker:
        """From ``mqtt://[user[:password]@]host[:port]`` or ``mqtts://...``; the latter uses ``tls`` or the system's roots.

        Raises:
            ConfigError: another scheme, no host, a port that is none.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or port == -1 or parts.path not in ("", "/"):
            raise ConfigError(
                f"{parts.scheme}://{parts.hostname} is no broker", why="wants mqtt://host:port or mqtts://host:port", code="CFG_BROKER"
            )
        secure = parts.scheme == "mqtts"
        context = (tls or ssl.create_default_context()) if secure else None
        user = None if parts.username is None else unquote(parts.username)
        password = None if parts.password is None else unquote(parts.password)
        return cls(parts.hostname, port or (8883 if secure else 1883), user, password, context)

    def __str__(self) -> str:
        """``host:port``, never the password."""
        return f"{self.host}:{self.port}"


def unreachable(broker: Broker, why: str, cause: BaseException | None = None) -> TargetUnreachable:
    """The error for a broker that does not answer, or is not the one that is trusted."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TargetUnreachable(
            f"The broker at {broker} is not the one we trust",
            why=why,
            try_="check the broker's certificate and the configured root",
            code="BROKER_CERTIFICATE",
        )
    return TargetUnreachable(
        f"No MQTT broker at {broker}", why=why, try_="check that the broker runs and that the address is right", code="BROKER_UNREACHABLE"
    )
