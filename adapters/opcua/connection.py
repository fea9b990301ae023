"""One connection to a server: a client of its own, used once and then thrown away.

Invariants: asyncua does not reconnect by itself (it lost data doing so); connecting, closing and every request have a
deadline; on leaving, no task and no socket of the client remains; `Connection.lost` tells when the library noticed that
the server is gone or no longer answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from asyncua import Client, ua

from adapters.opcua.config import OpcUaConfig
from adapters.opcua.quiet import quieten
from adapters.opcua.security import secure, transport
from edge_agent.errors import EdgeAgentError

SESSION_SECONDS = 60
"""How long the server keeps a session of which nothing is heard; PLCs have few."""

PASSING = (OSError, TimeoutError, ua.UaError)
"""What ends a connection and is tried again; the rest is a mistake in the configuration or of ours."""

log = logging.getLogger(__name__)


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
                await secure(client, config)
                await client.connect()
        yield connection
    finally:
        await _close(client, min(config.timeout, 2.0))
        if connection.lost.done() and not connection.lost.cancelled():
            connection.lost.exception()  # looked at, so that asyncio does not complain


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
