"""Makes signed chunks of the values in vendors' files: the columns of CSV files become rows, the pages of TIFF series become frames.

A file is ingested once its values are durable and that is noted; only then is it taken as a file, or left. A crash between the two syncs
ingests that file, or the lines that a tail had just read, a second time. What cannot be read is taken as a file all the same.

Streams: ``image`` for frames, one for each column, ``file`` with the name of every file at the time when it was read. A frame's number is
the last number in the file's name, so that a missing file is a gap; in files of several pages it is the page.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from adapters.files.patterns import Selection
from adapters.files.readers import Answer, Readers
from adapters.files.scan import Seen
from edge_agent.adapter import AdapterConfig, Inlet, Sink
from edge_agent.model import NO_SEQ, NO_TIME, Block, Frame, Kind, Stream

LAST_NUMBER = re.compile(r"(\d+)\D*$")
MOST_NAME = 63
FILE, IMAGE = "file", "image"
NAME_BYTES = 255

log = logging.getLogger(__name__)


class IngestConfig(AdapterConfig):
    """Values that become signed chunks."""

    csv: list[str] = Field(default_factory=list)
    """Text tables whose columns become streams of rows, as ["*.csv", "logs/*.txt"]."""
    tiff: list[str] = Field(default_factory=list)
    """TIFF files whose pages become frames, as ["*.tif"]. Between runs frames are kept with idle = "keep" only."""
    time: str = ""
    """The column that says when: ISO 8601, or seconds of Unix time. Default: no column; the rows have the time when they were found."""
    keep: bool = True
    """Take the files themselves too, byte for byte. Without it they stay where they are."""
    tail: bool = False
    """Read tables while they grow: whole lines with each look at the folder."""

    @field_validator("csv", "tiff")
    @classmethod
    def _are_patterns(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if not pattern or pattern.startswith("/") or "\\" in pattern:
                raise ValueError(f'{pattern!r} is no pattern; write for example "*.csv"')
        return value


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a file was ingested; ``next`` is the offset of the first row that was not, in bytes."""

    size: int
    mtime_ns: int
    inode: int
    next: int


class Ingest:
    """See the module. Paths are below the folder, with ``/``."""

    def __init__(self, instrument: str, config: IngestConfig, sink: Sink, readers: Readers, source: str) -> None:
        self._instrument = instrument
        self._config = config
        self._sink = sink
        self._readers = readers
        self._source = source
        self._wants = {"rows": Selection(config.csv, ()), "frames": Selection(config.tiff, ())}
        self._inlets: dict[str, Inlet] = {}
        self._progress: dict[str, Progress] = {}
        self._failed: set[tuple[str, int, int]] = set()

    @property
    def keep(self) -> bool:
        """Whether the files are taken too."""
        return self._config.keep

    def wants(self, path: str) -> str:
        """``rows``, ``frames``, or empty."""
        return next((want for want, selection in self._wants.items() if selection.wants(path)), "")

    def tails(self, path: str) -> bool:
        """Whether a file is read while it grows."""
        return self._config.tail and self.wants(path) == "rows"

    async def take(self, path: str, seen: Seen, t: int, *, growing: bool = False) -> None:
        """Ingest what is new of a file; nothing where it was ingested in this version. ``t`` is when it was found, UTC ns.

        Raises:
            Unreadable: it is not what its pattern says.
            EdgeAgentError: the recorder cannot make it durable.
        """
        known = await self._known(seen)
        if known is not None and (known.size, known.mtime_ns) == (-1 if growing else seen.size, seen.mtime_ns):
            return
        if self.wants(path) == "rows":
            goes_on = self._config.tail and known is not None and known.inode == seen.inode and known.next <= seen.size
            offset = known.next if goes_on and known is not None else 0
            answer = await self._readers.ask(seen.path, "rows", offset=offset, time=self._config.time, growing=growing)
            await self._rows(answer, seen, t)
            following = int(answer.said["next"])
        else:
            answer = await self._readers.ask(seen.path, "frames")
            await self._frames(answer, seen, t)
            following = 0
        if growing and known is not None and known.next == following:
            return
        await self._sink.durable()
        # While it grows, this version is not whole: it must be looked at once more when it has settled.
        progress = Progress(-1 if growing else seen.size, seen.mtime_ns, seen.inode, following)
        await self._sink.note(f"ingested/{seen.name}", json.dumps(asdict(progress)))
        self._progress[seen.name] = progress

    async def _known(self, seen: Seen) -> Progress | None:
        if seen.name not in self._progress:
            noted = await self._sink.noted(f"ingested/{seen.name}")
            if noted is None:
                return None
            self._progress[seen.name] = Progress(**json.loads(noted))
        return self._progress[seen.name]

    async def _rows(self, answer: Answer, seen: Seen, t: int) -> None:
        n = int(answer.said["rows"])
        if not n:
            return
        times = next((c.data for c in answer.columns if c.about["time"]), np.full(n, NO_TIME, "<i8"))
        arrivals = np.full(n, t, "<i8")
        used = {FILE, IMAGE, "files"}
        for column in answer.columns:
            if column.about["time"]:
                continue
            name = _stream_name(str(column.about["name"]), used)
            stream = Stream(
                self._instrument, name, Kind.ROWS, column.data.dtype.str, unit=str(column.about["unit"])[:MOST_NAME],
                source_uri=self._source, source_type="csv column", attributes={"column": str(column.about["name"])},
            )  # fmt: skip
            await self._inlet(stream).put(Block(column.data, times, arrivals))
        await self._say_file(seen, t)

    async def _frames(self, answer: Answer, seen: Seen, t: int) -> None:
        digits = LAST_NUMBER.search(seen.path.stem)
        single = len(answer.columns) == 1 and digits is not None and int(digits[1]) < NO_SEQ
        for page, column in enumerate(answer.columns):
            data = _plain(column.data)
            stream = Stream(
                self._instrument, IMAGE, Kind.FRAMES, data.dtype.str, data.shape, source_uri=self._source, source_type="tiff", counted=True
            )
            number = int(digits[1]) if single and digits is not None else page
            await self._inlet(stream).put_frame(Frame(data, number, seen.mtime_ns, t))
        await self._say_file(seen, t)

    async def _say_file(self, seen: Seen, t: int) -> None:
        stream = Stream(self._instrument, FILE, Kind.ROWS, f"|S{NAME_BYTES}", source_uri=self._source, source_type="file name")
        name = np.array([seen.name.encode()[:NAME_BYTES]], f"|S{NAME_BYTES}")
        await self._inlet(stream).put(Block(name, np.array([seen.mtime_ns], "<i8"), np.array([t], "<i8")))

    def _inlet(self, stream: Stream) -> Inlet:
        known = self._inlets.get(stream.name)
        if known is None or _described(known.stream) != _described(stream):
            known = self._inlets[stream.name] = self._sink.open(stream)
        return known


def _described(stream: Stream) -> tuple[object, ...]:
    """What tells one description from another; the agent adds its own to what the adapter said."""
    return stream.kind, stream.dtype, stream.shape, stream.unit, dict(stream.attributes)


def _plain(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bits as bytes: HDF5 has no chunks of booleans that others read."""
    return data.astype("|u1") if data.dtype.kind == "b" else data


def _stream_name(column: str, used: set[str]) -> str:
    """A name for a column: letters, digits, _ . -; another one for each."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", column).strip("_.-")[: MOST_NAME - 4] or "column"
    name, n = plain, 1
    while name in used:
        n += 1
        name = f"{plain}_{n}"
    used.add(name)
    return name


def facts_to_tell(facts: Mapping[str, str | int | float], name: str) -> dict[str, str | int | float]:
    """Facts of a file's header as facts of its instrument."""
    return {"last_file": name} | {f"file: {key}": value for key, value in facts.items()}
