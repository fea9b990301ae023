"""The connection to a GakuNin RDM: API v2 for questions, WaterButler v1 for files; errors by what the operator can do about them.

Status codes as RDM-waterbutler gives them. One request is one attempt: the engine owns the back-off.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from edge_agent.errors import EdgeAgentError, PermissionRefused, TargetUnreachable
from edge_agent.wire.tls import CONNECT_TIMEOUT, READ_TIMEOUT, read_body

MAX_ANSWER = 64 << 20
"""Bytes; a listing of tens of thousands of files."""
BLOCK = 1 << 20
NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: Any

    def entry(self) -> Mapping[str, Any]:
        """The one entry that it is about.

        Raises:
            TargetUnreachable: it is about something else.
        """
        data = self.body.get("data") if isinstance(self.body, dict) else None
        if not isinstance(data, dict) or "attributes" not in data:
            raise self._nonsense()
        return data

    def entries(self) -> list[Mapping[str, Any]]:
        """All entries of a listing. Raises as `entry`."""
        data = self.body.get("data") if isinstance(self.body, dict) else None
        if not isinstance(data, list):
            raise self._nonsense()
        return data

    def _nonsense(self) -> TargetUnreachable:
        why = str(self.body)[:200]
        return TargetUnreachable("GakuNin RDM answers nonsense", why=why, try_="check the addresses", code="GRDM_TROUBLE")


class Talk:
    """One session with the token of now."""

    def __init__(self, name: str, api: str, files: str, token: Callable[[], str], ca: str | None) -> None:
        """Prepare; nothing is connected yet.

        Args:
            name: of the target, for messages.
            api: API v2, as "https://api.rdm.nii.ac.jp/v2".
            files: WaterButler, as "https://files.rdm.nii.ac.jp".
            token: reads the personal access token; asked anew after each `renew`.
            ca: PEM file; None: the system's authorities.
        """
        self.name = name
        self.files = files.rstrip("/")
        self._api = api.rstrip("/")
        self._token = token
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None
        self._headers: dict[str, str] = {}

    def renew(self) -> None:
        """Read the token again before the next request."""
        self._headers = {}

    async def close(self) -> None:
        """Let go of the connections; callable twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def api(self, path: str) -> Answer:
        """GET of API v2."""
        return await self._ask("GET", f"{self._api}{path}")

    async def listing(self, folder: str) -> list[Mapping[str, Any]]:
        """What is in a folder (``/v1/resources/.../``), all pages of it."""
        found: list[Mapping[str, Any]] = []
        token = ""
        while True:
            answer = await self._ask("GET", f"{self.files}{folder}?meta={token}")
            found += answer.entries()
            following = answer.body.get("next_token")
            if not following:
                return found
            token = f"&next_token={quote(str(following), safe='')}"

    async def put(
        self, place: str, name: str, body: bytes | AsyncIterator[bytes], *, size: int = 0, ask_first: bool = False,
        also: frozenset[int] = NOTHING,
    ) -> Answer:  # fmt: skip
        """PUT to WaterButler; always with a Content-Length, which it demands.

        Args:
            place: path and query, to which ``name`` is added, quoted.
            name: of the folder or file; empty for a new version.
            body: its bytes.
            size: of the body.
            ask_first: whether the service says yes before the body is sent.
            also: statuses that are no failure.
        """
        url = f"{self.files}{place}{quote(name, safe='')}"
        return await self._ask("PUT", url, body=body, headers={"Content-Length": str(size)}, expect=ask_first, also=also)

    async def read(self, place: str) -> AsyncIterator[bytes]:
        """The bytes of a file, as they are stored; a redirect to the storage is followed without our token."""
        async with await self._request("GET", f"{self.files}{place}", follow=True) as response:
            if response.status != 200:
                raise self._refused(response.status, await read_body(response, MAX_ANSWER))
            try:
                async for block in response.content.iter_chunked(BLOCK):
                    yield block
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self._unreachable(error) from error

    async def _ask(
        self, method: str, url: str, *, body: bytes | AsyncIterator[bytes] | None = None, headers: Mapping[str, str] | None = None,
        expect: bool = False, also: frozenset[int] = NOTHING,
    ) -> Answer:  # fmt: skip
        async with await self._request(method, url, body=body, headers=headers, expect=expect) as response:
            try:
                raw = await read_body(response, MAX_ANSWER)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self._unreachable(error) from error
            if response.status in (200, 201) or response.status in also:
                try:
                    return Answer(response.status, json.loads(raw or b"null"))
                except ValueError:
                    return Answer(response.status, raw[:200].decode(errors="replace"))
            raise self._refused(response.status, raw)

    async def _request(
        self, method: str, url: str, *, body: bytes | AsyncIterator[bytes] | None = None, headers: Mapping[str, str] | None = None,
        expect: bool = False, follow: bool = False,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        session = self._connected()
        if not self._headers:
            self._headers = {"Authorization": f"Bearer {self._token()}"}
        try:
            return await session.request(
                method, URL(url, encoded=True), data=body, headers={**self._headers, **(headers or {})}, allow_redirects=follow,
                expect100=expect,
            )  # fmt: skip
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._ca)
            # No proxy, no netrc of the environment; a file may take long, a silence may not.
            timeouts = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=5 * READ_TIMEOUT)
            connector = aiohttp.TCPConnector(ssl=context, limit=4)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeouts, trust_env=False)
        return self._session

    def _refused(self, status: int, body: bytes) -> EdgeAgentError:
        why = f"HTTP status {status}: {body[:200].decode(errors='replace')}"
        if status in (401, 403):
            return PermissionRefused(
                f"{self.name}: GakuNin RDM refuses us", why=why, code="GRDM_REFUSED",
                try_="make a new personal access token (osf.full_write) of somebody who may write to the project; then edge-agent kick",
            )  # fmt: skip
        if status == 406:
            return PermissionRefused(
                f"{self.name}: the quota of the GakuNin RDM project is used up", why=why, code="GRDM_QUOTA",
                try_="ask the project's creator for room, or remove what is not needed; then edge-agent kick",
            )  # fmt: skip
        if status == 413:
            return PermissionRefused(
                f"{self.name}: GakuNin RDM does not take a file of this size", why=why, code="GRDM_TOO_LARGE",
                try_="set a smaller segment size for the next runs, or ask the operator for a larger limit; then edge-agent kick",
            )  # fmt: skip
        if status in (400, 404, 405, 411):
            return PermissionRefused(
                f"{self.name}: GakuNin RDM refuses this request", why=why, code="GRDM_REFUSED",
                try_="check the addresses and the project id of the target; then edge-agent kick",
            )  # fmt: skip
        return TargetUnreachable(
            f"{self.name}: GakuNin RDM is in trouble", why=why, try_="it is tried again by itself", code="GRDM_TROUBLE"
        )

    def _unreachable(self, error: Exception) -> EdgeAgentError:
        why = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
            return PermissionRefused(
                f"{self.name}: the certificate of GakuNin RDM is not trusted", why=why, code="GRDM_CERTIFICATE",
                try_="check the address; where the site has an authority of its own, name its PEM file: ca = \"...\"",
            )  # fmt: skip
        return TargetUnreachable(
            f"{self.name}: no connection to GakuNin RDM", why=why, try_="check the addresses and the network; it is tried again by itself",
            code="GRDM_UNREACHABLE",
        )  # fmt: skip
