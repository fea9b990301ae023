"""Follows one folder: looks, waits until files have settled, and hands them over one after the other.

Invariants: every file that stays in the folder long enough is handed over, whatever notices are lost; what was adopted
before (also before a restart) is not handed over again; a file that cannot be taken is tried again with each look and
reported once; nothing in the folder is ever changed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Iterable

from adapters.files.config import FilesConfig
from adapters.files.notices import Hints, Notices
from adapters.files.scan import Eye, Refusal, Seen
from adapters.files.settling import Candidate, Settling
from edge_agent.adapter import Sink
from edge_agent.errors import EdgeAgentError
from edge_agent.model import Cause, FileItem, Gap, Kind, Stream, utc_now_ns

STREAM = "files"
MOST_SAID = 10
"""Refusals that one look writes to the log."""
MOST_FAILURES = 3
"""Failures in a row after which the rest waits for the next look: it is not the files' fault."""

log = logging.getLogger(__name__)


class WatchedFolder:
    """One folder while it exists; made anew when it was gone. ``eye`` looks at it."""

    def __init__(self, instrument: str, config: FilesConfig, eye: Eye, notices: Notices, sink: Sink) -> None:
        self.stream = Stream(instrument, STREAM, Kind.FILES, source_uri=eye.root.as_uri(), source_type="folder")
        self._config = config
        self._eye = eye
        self._notices = notices
        self._sink = sink
        self._inlet = sink.open(self.stream)
        self._settling = Settling(config.settle, config.settle_closed)
        self._refused: dict[str, str] = {}
        self._failed: set[str] = set()

    async def follow(self) -> None:
        """Look and hand over until the folder cannot be listed any more, which raises OSError."""
        loop = asyncio.get_running_loop()
        next_look = -math.inf
        while True:
            if loop.time() >= next_look:
                await asyncio.to_thread(self._notices.renew)
                await self._look_through()
                next_look = loop.time() + self._config.rescan
            await self._hand_over(next_look)
            hints = await self._notices.take(min(next_look, self._settling.next_due()) - loop.time())
            if hints.overflow:
                next_look = -math.inf
            await self._look_at(hints)

    async def _look_through(self) -> None:
        found = await asyncio.to_thread(self._eye.scan)
        now, t = asyncio.get_running_loop().time(), utc_now_ns()
        for seen in found.files.values():
            self._settling.see(seen, now, t, closed=self._config.ready_suffix is not None)
        self._settling.keep_only(found.files)
        self._failed.intersection_update(found.files)
        self._refuse(found.refusals, whole=True)

    async def _look_at(self, hints: Hints) -> None:
        if not hints.touched:
            return
        closed = {self._eye.data_path(path) for path in hints.closed}
        touched = {self._eye.data_path(path) for path in hints.touched}
        looks = await asyncio.to_thread(lambda: [(path, self._eye.look(path)) for path in touched])
        now, t = asyncio.get_running_loop().time(), utc_now_ns()
        for path, seen in looks:
            if isinstance(seen, Seen):
                self._settling.see(seen, now, t, closed=path in closed or self._config.ready_suffix is not None)
        self._refuse(seen for _, seen in looks if isinstance(seen, Refusal))

    async def _hand_over(self, next_look: float) -> None:
        failures = 0
        for candidate in self._settling.due(asyncio.get_running_loop().time()):
            if failures == MOST_FAILURES:
                self._settling.later(candidate.seen.name, next_look)
                continue
            try:
                await self._hand_over_one(candidate)
            except (OSError, EdgeAgentError) as e:
                if isinstance(e, FileNotFoundError) and not await asyncio.to_thread(os.path.lexists, candidate.seen.path):
                    log.info("%s: %s vanished before it was taken", self.stream.key, ascii(candidate.seen.name))
                    self._settling.vanished(candidate.seen.name)
                    continue
                failures += 1
                self._settling.later(candidate.seen.name, next_look)
                self._complain(candidate.seen.name, e)
            else:
                failures = 0

    async def _hand_over_one(self, candidate: Candidate) -> None:
        """Hand a file over that looks as it did when it settled; raises OSError or EdgeAgentError when that fails."""
        seen = candidate.seen
        now = await asyncio.to_thread(self._eye.look, seen.path)
        if isinstance(now, Refusal):
            self._refuse([now])
            self._settling.vanished(seen.name)
        elif now is None:
            raise FileNotFoundError(seen.path)
        elif now != seen:
            self._settling.see(now, asyncio.get_running_loop().time(), utc_now_ns())
        elif self._config.max_size is not None and seen.size > self._config.max_size:
            self._leave(candidate)
        else:
            if not await self._sink.already_adopted(seen.name, seen.size, seen.mtime_ns):
                await self._sink.adopt(self.stream, FileItem(seen.path, seen.name, seen.size, seen.mtime_ns, candidate.t))
            self._settling.took(seen)
            if seen.name in self._failed:
                self._failed.discard(seen.name)
                log.info("%s: %s is taken now", self.stream.key, ascii(seen.name))

    def _leave(self, candidate: Candidate) -> None:
        seen, limit = candidate.seen, self._config.max_size
        detail = f"{seen.name}: {seen.size} bytes are more than max_size ({limit} bytes); the file stays where it is"
        log.warning("%s: %s; raise max_size to take it", self.stream.key, detail)
        self._inlet.gap(Gap(Cause.OVERLOAD, count=1, t_from=candidate.t, t_to=candidate.t, detail=detail))
        self._settling.took(seen)

    def _complain(self, name: str, error: Exception) -> None:
        if name not in self._failed:
            self._failed.add(name)
            log.warning("%s: %s cannot be taken: %s. It is tried again.", self.stream.key, ascii(name), error)

    def _refuse(self, refusals: Iterable[Refusal], *, whole: bool = False) -> None:
        """Say each refusal once; ``whole`` means that these are all there are."""
        before = dict(self._refused)
        given = {refusal.path: refusal.why for refusal in refusals}
        self._refused = given if whole else before | given
        new = [f"{path!a}: {why}" for path, why in given.items() if path not in before]
        for refusal in new[:MOST_SAID]:
            log.warning("%s: not taken: %s", self.stream.key, refusal)
        if len(new) > MOST_SAID:
            log.warning("%s: not taken: %d more like these", self.stream.key, len(new) - MOST_SAID)
        if self._refused != before:
            facts: dict[str, str | int | float] = {"refused_entries": len(self._refused)}
            self._sink.describe(facts | ({"refused_last": new[-1]} if new else {}))
