"""One connection to a server: a client of its own, used once and then thrown away.

Invariants: asyncua does not reconnect by itself (it lost data doing so); connecting, closing and every request have a
deadline; on leaving, no task and no socket of the client remains; `Connection.lost` tells when the library noticed that
the server is gone or no longer answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncua import Client, ua
from cryptography import x509

from adapters.opcua.certificates import Identity
from adapters.opcua.config import OpcUaConfig
from adapters.opcua.discovery import discover
from adapters.opcua.quiet import quieten
from adapters.opcua.security import checked, identities, secure, transport, trusted
from edge_agent.errors import EdgeAgentError

SESSION_SECONDS = 60
"""How long the server keeps a session of which nothing is heard; PLCs have few."""

MOST_SKEW_SECONDS = 60.0
"""A refusal is blamed on the clocks when they are farther apart; servers allow 1 to 5 minutes."""

PASSING = (OSError, TimeoutError, ua.UaError)
"""What ends a connection and is tried again; the rest is a mistake in the configuration or of ours."""

log = logging.getLogger(__name__)


class ClockSkewed(ConnectionError):
    """The server refuses us, and its clock is far from ours. ``ahead_s``: how far it is ahead, seconds."""

    def __init__(self, ahead_s: float, why: str) -> None:
        super().__init__(why)
        self.ahead_s = ahead_s


@dataclass(slots=True)
class Connection:
    """A connected client. ``lost`` ends with an exception when the connection does."""

    client: Any
    transport: str = "unauthenticated"
    lost: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def until_lost(self) -> None:
        """Wait for the end of the connection, which is an exception."""
        await self.lost


@contextlib.contextmanager
def library_faults() -> Iterator[None]:
    """Turn what asyncua raises besides its own errors, on answers it did not expect, into a ConnectionError."""
    try:
        yield
    except (*PASSING, EdgeAgentError):
        raise
    except Exception as e:
        raise ConnectionError(f"the server's answer was not understood: {type(e).__name__} {e}".rstrip()) from e


def root_cause(error: Exception) -> Exception:
    """The first exception inside a group that a task group raised."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.asynccontextmanager
async def connected(config: OpcUaConfig) -> AsyncIterator[Connection]:
    """Connect, and close on leaving.

    Raises:
        OSError, TimeoutError, ua.UaError: the server is not there, does not answer or refuses.
        ConfigError, PermissionRefused: a certificate, key or password file is wrong.
    """
    quieten()
    theirs: x509.Certificate | None = None
    ahead: float | None = None
    who = identities(config)
    if config.security != "None":
        with library_faults():
            trusted(config)  # a wrong file is to be said before a server that does not answer
            offer = await discover(config.endpoint, config.timeout)
        theirs, ahead = checked(config, offer), offer.ahead_s
    try:
        connection = await _first_welcome(config, who, theirs)
    except PASSING as e:
        if ahead is not None and abs(ahead) > MOST_SKEW_SECONDS:
            raise ClockSkewed(ahead, str(e) or type(e).__name__) from e
        raise
    try:
        yield connection
    finally:
        await _close(connection.client, min(config.timeout, 2.0))
        if connection.lost.done() and not connection.lost.cancelled():
            connection.lost.exception()  # looked at, so that asyncio does not complain


async def _first_welcome(config: OpcUaConfig, who: Sequence[Identity | None], theirs: x509.Certificate | None) -> Connection:
    """Connect as the first of ourselves whom the server lets in."""
    for i, own in enumerate(who, 1):
        try:
            connection = await _opened(config, own, theirs)
        except PASSING as e:
            if i == len(who) or isinstance(e, (ConnectionRefusedError, TimeoutError)):
                raise
            log.debug("%s does not let %s in: %r", config.endpoint, own and own.path, e)
            continue
        if i > 1 and own is not None:
            log.warning("%s does not trust our renewed certificate yet, only %s", config.endpoint, own.path)
        return connection
    raise ConnectionError("there is nobody to connect as")


async def _opened(config: OpcUaConfig, own: Identity | None, theirs: x509.Certificate | None) -> Connection:
    client = Client(config.endpoint, timeout=config.timeout, watchdog_intervall=config.timeout, auto_reconnect=False)
    client.name = "edge-agent"
    client.session_timeout = SESSION_SECONDS * 1000
    connection = Connection(client, transport(config))

    async def lost(error: Exception) -> None:
        if not connection.lost.done():
            connection.lost.set_exception(error)

    client.connection_lost_callback = lost
    try:
        with library_faults():
            async with asyncio.timeout(4 * config.timeout):
                await secure(client, config, own, theirs)
                await client.connect()
    except BaseException:
        await _close(client, min(config.timeout, 2.0))
        raise
    return connection


async def _close(client: Any, within: float) -> None:
    protocol = client.uaclient.protocol
    try:
        async with asyncio.timeout(within):
            await client.disconnect()
    except PASSING as e:
        log.debug("while closing: %r", e)
    finally:
        client.disconnect_socket()
        # The library forgets a socket whose server it gave up; the server may still hold the other end.
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
            await asyncio.sleep(0)
