"""TLS towards a landing service: our own context with the pinned root only, and plain words for what aiohttp raises.

No environment variable and no system store is asked whom to trust.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp

from edge_agent.errors import EdgeAgentError, PermissionRefused, TargetUnreachable

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0


def client_context(root: str, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A context that trusts one root.

    Args:
        root: PEM text of the root certificate.
        certificate: PEM file of our client certificate, None to show none.
        key: PEM file of its key; None when ``certificate`` holds both.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=root)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def client_session(context: ssl.SSLContext, base: str, timeout: float = READ_TIMEOUT) -> aiohttp.ClientSession:
    """An HTTP session that ignores proxies and credentials of the environment; ``timeout`` is s that an answer may take."""
    timeouts = aiohttp.ClientTimeout(total=None, sock_connect=min(timeout, CONNECT_TIMEOUT), sock_read=timeout)
    connector = aiohttp.TCPConnector(ssl=context, limit=4)
    return aiohttp.ClientSession(base, connector=connector, timeout=timeouts, trust_env=False, auto_decompress=False)


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body.

    Raises:
        aiohttp.ClientPayloadError: it is longer than ``limit`` bytes, or the connection broke.
    """
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > limit:
            raise aiohttp.ClientPayloadError(f"an answer of more than {limit} bytes")
    return bytes(body)


def explain(error: Exception, who: str) -> EdgeAgentError:
    """The error of ours that a fault of a connection to ``who`` is."""
    why = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return PermissionRefused(
            f"{who}: this is not the landing service that we trust", why=why,
            try_="was its certificate authority made anew? then enrol again; else somebody may be in between", code="LANDING_CERTIFICATE",
        )  # fmt: skip
    if isinstance(error, TimeoutError):
        return TargetUnreachable(
            f"{who}: no answer in time", why=why, try_="check the network and the landing service", code="LANDING_TIMEOUT"
        )
    return TargetUnreachable(
        f"{who}: no connection", why=why, try_="check the address, the network and that it runs", code="LANDING_UNREACHABLE"
    )
