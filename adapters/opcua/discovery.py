"""What a server tells everybody before a session: its endpoints, its certificate, and what time it has.

Source: OPC 10000-4, 5.5.4 (GetEndpoints; it needs no security). The clock is measured here, first of all: a skew of minutes makes a
secure channel fail, and the server's error then speaks of security and not of time.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from asyncua import Client, ua
from cryptography import x509

from adapters.opcua.binary import Reader
from adapters.opcua.values import tick_ns
from edge_agent.model import NO_TIME, utc_now_ns

POLICIES = {
    "None": "http://opcfoundation.org/UA/SecurityPolicy#None",
    "Basic256Sha256": "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256",
    "Aes128_Sha256_RsaOaep": "http://opcfoundation.org/UA/SecurityPolicy#Aes128_Sha256_RsaOaep",
    "Aes256_Sha256_RsaPss": "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss",
}
"""URI of each policy that we speak (OPC 10000-7)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers. ``ahead_s``: how much its clock is ahead of ours, seconds; None when it gives no time."""

    endpoints: list[Any]
    ahead_s: float | None

    def certificate(self, policy: str, mode: str) -> x509.Certificate | None:
        """The server's certificate for a policy and mode; None when it does not offer them."""
        for one in self.endpoints:
            if one.SecurityPolicyUri == POLICIES[policy] and one.SecurityMode == getattr(ua.MessageSecurityMode, mode):
                return _first(one.ServerCertificate)
        return None

    def certificates(self) -> list[x509.Certificate]:
        """The server's certificates: usually one for all endpoints."""
        found = {one.ServerCertificate: _first(one.ServerCertificate) for one in self.endpoints if one.ServerCertificate}
        return [certificate for certificate in found.values() if certificate is not None]

    def names(self) -> list[str]:
        """Policies and modes as a configuration writes them, strongest last."""
        known = {uri: name for name, uri in POLICIES.items()}
        pairs = sorted({(int(one.SecurityMode), known.get(one.SecurityPolicyUri, one.SecurityPolicyUri)) for one in self.endpoints})
        return [policy if policy == "None" else f"{policy} {ua.MessageSecurityMode(mode).name.rstrip('_')}" for mode, policy in pairs]


async def discover(endpoint: str, timeout: float) -> Offer:
    """Ask a server; raises OSError, TimeoutError or ua.UaError."""
    client = Client(endpoint, timeout=timeout, auto_reconnect=False)
    try:
        async with asyncio.timeout(4 * timeout):
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
            request = ua.GetEndpointsRequest()
            request.Parameters.EndpointUrl = endpoint
            before = utc_now_ns()
            answer = await client.uaclient.protocol.send_request(request)
            after = utc_now_ns()
            data, at = answer._data, answer.cur_pos  # noqa: SLF001 - its bytes(), the only other way, makes a copy
            response = ua.ua_binary.struct_from_binary(ua.GetEndpointsResponse, answer)
            response.ResponseHeader.ServiceResult.check()
            with contextlib.suppress(ua.UaError, OSError, TimeoutError):
                await client.close_secure_channel()
    finally:
        protocol = client.uaclient.protocol
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
            await asyncio.sleep(0)
    theirs = _header_time(data, at)
    return Offer(list(response.Endpoints or []), None if theirs == NO_TIME else (theirs - (before + after) // 2) / 1e9)


def _header_time(data: bytes, at: int) -> int:
    """UTC ns of a ResponseHeader's Timestamp, which follows the answer's type."""
    reader = Reader(data, at)
    reader.node_id()
    return tick_ns(int.from_bytes(reader.take(8), "little", signed=True))


def _first(chain: bytes | None) -> x509.Certificate | None:
    """The first certificate of a chain of DER."""
    if not chain or len(chain) < 4:
        return None
    # ASN.1: SEQUENCE, length in two bytes for anything of 256 bytes and more
    size = 4 + int.from_bytes(chain[2:4], "big") if chain[1] == 0x82 else len(chain)
    try:
        return x509.load_der_x509_certificate(chain[:size])
    except ValueError:
        return None
