"""Follows one folder: looks, waits until files have settled, and hands them over, the oldest first, several at once.

Invariants: every file that stays in the folder long enough is handed over, whatever notices are lost; what was adopted
before (also before a restart) is not handed over again; a file that cannot be taken is tried again with each look and
reported once; nothing in the folder is ever changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Iterable, Sequence

from adapters.files.config import FilesConfig
from adapters.files.ingest import Ingest, facts_to_tell
from adapters.files.notices import Hints, Notices
from adapters.files.readers import Readers, Unreadable
from adapters.files.scan import Eye, Refusal, Seen
from adapters.files.sets import Sets
from adapters.files.settling import Candidate, Settling
from edge_agent.adapter import Sink
from edge_agent.errors import EdgeAgentError
from edge_agent.model import Cause, FileItem, Gap, Kind, Stream, utc_now_ns

STREAM = "files"
AT_ONCE = 8
"""Files or sets that are handed over at once."""
MOST_SAID = 10
"""Refusals that one look writes to the log."""
MOST_FAILURES = 3
"""Failures in a row after which the rest waits for the next look: it is not the files' fault."""

log = logging.getLogger(__name__)


class WatchedFolder:
    """One folder while it exists; made anew when it was gone. ``eye`` looks at it."""

    def __init__(self, instrument: str, config: FilesConfig, eye: Eye, notices: Notices, sink: Sink, readers: Readers) -> None:
        self.stream = Stream(instrument, STREAM, Kind.FILES, source_uri=eye.root.as_uri(), source_type="folder")
        self._config = config
        self._eye = eye
        self._notices = notices
        self._sink = sink
        self._inlet = sink.open(self.stream)
        self._settling = Settling(config.settle, config.settle_closed)
        self._refused: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._sets = Sets(config.together)
        self._readers = readers
        self._ingest = None if config.ingest is None else Ingest(instrument, config.ingest, sink, readers, self.stream.source_uri)
        # The frames of a series have an order.
        self._at_once = AT_ONCE if config.ingest is None else 1
        self._incomplete = 0
        self._said = config.ready is not None or config.ready_suffix is not None
        """Whether a ready file says of each file that it is finished."""

    async def follow(self) -> None:
        """Look and hand over until the folder cannot be listed any more, which raises OSError."""
        loop = asyncio.get_running_loop()
        next_look = -math.inf
        while True:
            if loop.time() >= next_look:
                await asyncio.to_thread(self._notices.renew)
                await self._look_through()
                next_look = loop.time() + self._config.rescan
            await self._tail()
            await self._hand_over(next_look)
            hints = await self._notices.take(min(next_look, self._settling.next_due()) - loop.time())
            if hints.overflow:
                next_look = -math.inf
            await self._look_at(hints)

    async def _look_through(self) -> None:
        found = await asyncio.to_thread(self._eye.scan)
        now, t = asyncio.get_running_loop().time(), utc_now_ns()
        for seen in found.files.values():
            self._settling.see(seen, now, t, closed=self._said)
        self._settling.keep_only(found.files)
        self._failed = {name: why for name, why in self._failed.items() if name in found.files}
        self._sets.keep_only(self._path(seen) for seen in found.files.values())
        if self._sets.incomplete() != self._incomplete:
            self._incomplete = self._sets.incomplete()
            self._sink.describe({"waiting_for_others": self._incomplete})
        self._refuse(found.refusals, whole=True)

    async def _look_at(self, hints: Hints) -> None:
        if not hints.touched:
            return
        looks = await asyncio.to_thread(lambda: [(path, self._eye.look(path)) for path in self._eye.data_paths(hints.touched)])
        now, t = asyncio.get_running_loop().time(), utc_now_ns()
        for path, seen in looks:
            if isinstance(seen, Seen):
                self._settling.see(seen, now, t, closed=path in hints.closed or self._said)
        self._refuse(seen for _, seen in looks if isinstance(seen, Refusal))

    async def _hand_over(self, next_look: float) -> None:
        """Several at once: each waits for its own sync of the disk, and the recorder makes many durable with one."""
        items = iter(self._items(self._settling.due(asyncio.get_running_loop().time())))
        failures = 0

        async def take() -> None:
            nonlocal failures
            for item in items:
                if failures >= MOST_FAILURES:
                    for candidate in item:
                        self._settling.later(candidate.seen.name, next_look)
                else:
                    failures = 0 if await self._try(item, next_look) else failures + 1

        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(take())

    async def _tail(self) -> None:
        """Read on in the tables that grow."""
        if self._ingest is None:
            return
        for candidate in self._settling.waiting():
            path = self._path(candidate.seen)
            if self._ingest.tails(path):
                # A table may have no row yet; what is wrong with it is told when it has settled.
                with contextlib.suppress(Unreadable, OSError, EdgeAgentError):
                    await self._ingest.take(path, candidate.seen, candidate.t, growing=True)

    def _items(self, due: Iterable[Candidate]) -> list[list[Candidate]]:
        """What can be taken: files that stand for themselves, and whole sets."""
        items = []
        for candidate in due:
            place = self._sets.place(self._path(candidate.seen))
            if place is None:
                items.append([candidate])
                continue
            # It has settled and needs no look of its own any more: the last of its set brings it back.
            self._settling.later(candidate.seen.name, math.inf)
            if whole := self._sets.settled(place, candidate):
                items.append(whole)
        return items

    async def _try(self, item: Sequence[Candidate], next_look: float) -> bool:
        """Hand over; False when that failed and is tried again."""
        try:
            await self._hand_over_one(item)
        except (OSError, EdgeAgentError) as e:
            for candidate in item:
                self._settling.later(candidate.seen.name, next_look)
            if isinstance(e, FileNotFoundError):
                gone = [c for c in item if not await asyncio.to_thread(os.path.lexists, c.seen.path)]
                for candidate in gone:
                    log.info("%s: %s vanished before it was taken", self.stream.key, ascii(candidate.seen.name))
                    self._settling.vanished(candidate.seen.name)
                if gone:
                    return True
            self._complain(item[0].seen.name, e)
            return False
        return True

    async def _hand_over_one(self, item: Sequence[Candidate]) -> None:
        """Hand files over that look as they did when they settled; raises OSError or EdgeAgentError when that fails."""
        if not await asyncio.to_thread(self._are_unchanged, item):
            for candidate in item:
                self._settling.later(candidate.seen.name, asyncio.get_running_loop().time())
            await self._look_again(item)
            return
        wanted = []
        for candidate in item:
            seen = candidate.seen
            if self._config.max_size is not None and seen.size > self._config.max_size:
                self._leave(candidate)
            elif not await self._sink.already_adopted(seen.name, seen.size, seen.mtime_ns) and not await self._is_ingested(candidate):
                project = self._config.project_of(self._path(seen))
                wanted.append(FileItem(seen.path, seen.name, seen.size, seen.mtime_ns, candidate.t, project))
        if wanted:
            await self._sink.adopt(self.stream, *wanted)
        for candidate in item:
            self._took(candidate.seen)

    async def _is_ingested(self, candidate: Candidate) -> bool:
        """Read what is to be read of a file that has settled; whether its values are all that is taken of it."""
        seen, path = candidate.seen, self._path(candidate.seen)
        ingest = self._ingest if self._ingest is not None and self._ingest.wants(path) else None
        try:
            if self._config.headers:
                answer = await self._readers.ask(seen.path, "facts")
                self._sink.describe(facts_to_tell(answer.facts, seen.name))
                for picture in answer.columns:
                    self._sink.show(picture.data, seen.name)
        except Unreadable as e:
            log.info("%s: the header of %s cannot be read: %s", self.stream.key, ascii(seen.name), e)
        if ingest is None:
            return False
        try:
            await ingest.take(path, seen, candidate.t)
        except Unreadable as e:
            log.warning("%s: %s is taken as a file, its values cannot be read: %s", self.stream.key, ascii(seen.name), e)
            return False
        return not ingest.keep

    def _are_unchanged(self, item: Sequence[Candidate]) -> bool:
        return all(self._eye.look(candidate.seen.path) == candidate.seen for candidate in item)

    async def _look_again(self, item: Sequence[Candidate]) -> None:
        """Something about them is new; raises FileNotFoundError when one is gone."""
        looks = await asyncio.to_thread(lambda: [self._eye.look(candidate.seen.path) for candidate in item])
        now, t = asyncio.get_running_loop().time(), utc_now_ns()
        for candidate, seen in zip(item, looks, strict=True):
            if isinstance(seen, Refusal):
                self._refuse([seen])
                self._settling.vanished(candidate.seen.name)
            elif seen is None:
                raise FileNotFoundError(candidate.seen.path)
            elif seen != candidate.seen:
                self._settling.see(seen, now, t)

    def _took(self, seen: Seen) -> None:
        self._settling.took(seen)
        place = self._sets.place(self._path(seen))
        if place is not None:
            self._sets.took(place)
        if self._failed.pop(seen.name, None) is not None:
            log.info("%s: %s is taken now", self.stream.key, ascii(seen.name))

    def _path(self, seen: Seen) -> str:
        """The path below the folder, as it stands on the disk."""
        return seen.path.relative_to(self._eye.root).as_posix()

    def _leave(self, candidate: Candidate) -> None:
        seen, limit = candidate.seen, self._config.max_size
        detail = f"{seen.name}: {seen.size} bytes are more than max_size ({limit} bytes); the file stays where it is"
        log.warning("%s: %s; raise max_size to take it", self.stream.key, detail)
        self._inlet.gap(Gap(Cause.OVERLOAD, count=1, t_from=candidate.t, t_to=candidate.t, detail=detail))

    def _complain(self, name: str, error: Exception) -> None:
        """Say it once for each file, and once for all that fail for the same reason, as on a full disk."""
        why = str(error)
        if name not in self._failed and why not in self._failed.values():
            log.warning("%s: %s cannot be taken: %s. It is tried again, as is all that fails like it.", self.stream.key, ascii(name), why)
        self._failed[name] = why

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
