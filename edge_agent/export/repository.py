"""What all repositories and catalogues over HTTPS have in common: may the run go there, and how do they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from edge_agent.errors import PolicyRefused, TargetUnreachable
from edge_agent.export.run_folder import RunFolder
from edge_agent.provenance.policy import Destination, DestinationKind, ObjectKind, may_send


def check(run: RunFolder, where: str, *kinds: ObjectKind) -> None:
    """A repository is nobody's project space: it gets ``kinds`` of open runs, or of those whose label names it.

    Raises:
        PolicyRefused: of others.
    """
    destination = Destination(where, DestinationKind.STORE)
    for kind in kinds:
        decision = may_send(run.label, destination, kind)
        if not decision.allowed:
            raise PolicyRefused(
                f"Run {run.name} may not go to {where}", why=decision.reason,
                try_="have the project's owner open the data, then try again", code="POLICY",
            )  # fmt: skip


@asynccontextmanager
async def talking(service: str, token: str, timeout: aiohttp.ClientTimeout, code: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the bearer token; what is no answer, or none that can be understood, is `TargetUnreachable` with ``code``."""
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False) as session:
            yield session
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise TargetUnreachable(
            f"{service} does not answer as it should", why=str(error) or type(error).__name__, try_="check the address, then try again",
            code=code,
        ) from error  # fmt: skip
