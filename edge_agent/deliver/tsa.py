"""A time-stamping service over HTTP (RFC 3161 section 3.4): one request, one answer, no redirects, no credentials."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
from yarl import URL

from edge_agent.errors import TargetUnreachable
from edge_agent.seal.timestamp import MAX_TOKEN, REPLY_TYPE, REQUEST_TYPE
from edge_agent.wire.tls import client_session, read_body

PATIENCE = 30.0


class Tsa:
    """Callable with a TimeStampReq; gives the TimeStampResp."""

    def __init__(self, url: str, context: ssl.SSLContext | None = None, *, patience: float = PATIENCE) -> None:
        """Prepare; nothing is connected yet.

        Args:
            url: where the service takes requests.
            context: whom TLS trusts; None: the system's authorities.
            patience: s, for one answer.
        """
        self._url = URL(url)
        self._context = context
        self._patience = patience

    async def __call__(self, query: bytes) -> bytes:
        """Ask.

        Raises:
            TargetUnreachable: no connection, no answer in time, or none of a time-stamping service.
        """
        context = self._context or ssl.create_default_context()
        try:
            async with asyncio.timeout(self._patience), client_session(context, str(self._url.origin()), self._patience) as session:
                headers = {"Content-Type": REQUEST_TYPE, "Accept": REPLY_TYPE}
                async with session.post(self._url.path, data=query, headers=headers, allow_redirects=False) as answer:
                    body = await read_body(answer, MAX_TOKEN)
                    if answer.status != 200 or answer.content_type != REPLY_TYPE:
                        raise TargetUnreachable(
                            "The time-stamping service gave no time-stamp.", why=f"status {answer.status}, {answer.content_type}",
                            try_="check [timestamp] tsa; runs land without it, and are stamped later", code="TSA_ANSWER",
                        )  # fmt: skip
                    return body
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise TargetUnreachable(
                "The time-stamping service does not answer.", why=f"{self._url}: {str(error) or type(error).__name__}",
                try_="check the network and [timestamp] tsa; runs land without it, and are stamped later", code="TSA_UNREACHABLE",
            ) from error  # fmt: skip
