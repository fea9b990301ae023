"""Puts the run record together from configuration, session and what the instruments say.

Makes the record, the crate and the preview of a run.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent import __version__
from edge_agent.agent.detector import detector_facts
from edge_agent.agent.labels import Labels
from edge_agent.agent.sink import InstrumentState
from edge_agent.config.models import Config, Instrument, Project
from edge_agent.errors import EdgeAgentError
from edge_agent.model import ItemKind, Kind, Outcome, RunContext, Stream
from edge_agent.provenance import record as records
from edge_agent.provenance.clock import clock_facts
from edge_agent.provenance.crate import CrateFile, build_crate
from edge_agent.provenance.jsonld import canonical
from edge_agent.provenance.preview import frame_preview
from edge_agent.provenance.software import software
from edge_agent.provenance.sparkline import MOST_SERIES, Series, rows_preview
from edge_agent.record.counts import losses
from edge_agent.record.segment_writer import Closed
from edge_agent.runs.book import RunEntry
from edge_agent.runs.papers import Listed
from edge_agent.runs.routing import VALUE
from edge_agent.seal.clock import Clock
from edge_agent.segment import peek, tags
from edge_agent.segment.layout import codec_of, iso, stream_group

log = logging.getLogger(__name__)

MOST_ROWS = 20_000
MOST_SHARED = 200_000
"""Rows of all tags of a table among which those of one are looked for."""
NO_RULE = records.Absent("written before decisions were recorded")
NO_SOURCE = records.Absent("the rule needs none")
DRAWN = ("time_arrival", "value")
ENCODINGS = {ItemKind.PREVIEW: "image/png", ItemKind.FILE: "application/octet-stream"}


class Describer:
    """Answers what a run is, from one configuration and the live state of its instruments."""

    def __init__(self, config: Config, instruments: Mapping[str, InstrumentState], clock: Callable[[], Clock]) -> None:
        """Hash the configuration once; secrets are not in it, only references to them."""
        self._config = config
        self._instruments = instruments
        self._clock = clock
        self._labels = Labels(config)
        text = config.model_dump_json(exclude={"spool", "keys"})
        self._software = software(hashlib.sha256(text.encode()).hexdigest())

    def record(self, entry: RunEntry, segments: Sequence[Closed] = ()) -> str:
        """The run record as canonical JSON (RFC 8785); with the closed segments of the run, how complete each stream is."""
        return canonical(self._record(entry, segments)).decode()

    def crate(self, entry: RunEntry, segments: Sequence[Closed], files: Sequence[Listed]) -> bytes:
        """``ro-crate-metadata.json``."""
        listed = [CrateFile(f.name, f.size, f.sha256, ENCODINGS.get(f.kind, "application/x-hdf5")) for f in files]
        return build_crate(self._record(entry, segments), listed)

    def preview(self, entry: RunEntry, segments: Sequence[Closed]) -> bytes | None:
        """The last image of the run, or its rows as curves; None when there is nothing to draw."""
        try:
            return self._preview(entry, segments)
        except (EdgeAgentError, OSError, ValueError, KeyError) as error:
            # A picture is a courtesy: a run without one is still complete.
            log.warning("run %s has no preview: %s", entry.run.name, error, extra={"code": "PREVIEW"})
            return None

    def _preview(self, entry: RunEntry, segments: Sequence[Closed]) -> bytes | None:
        title = _title(entry)
        for stream in self._streams(entry, Kind.FRAMES):
            group = stream_group(stream)
            closed = next((c for c in reversed(segments) if c.shapes.get(f"{group}/data", (0,))[0]), None)
            if closed is not None:
                columns = (f"{group}/{name}" for name in ("data", "frame_number", "time_arrival"))
                frame, number, arrived = (peek.rows(closed.path, column, -1)[0] for column in columns)
                shape = " x ".join(str(n) for n in frame.shape)
                what = f"{stream.key}, frame {number}, {iso(int(arrived))[:-8].replace('T', ' ')} UTC: {shape}, {frame.dtype}, log scale"
                return frame_preview(frame, title, what)
        # Not one more than is drawn: there may be thousands.
        drawable = (one for stream in self._streams(entry, Kind.ROWS) if (one := _series(stream, segments)) is not None)
        series = list(islice(drawable, MOST_SERIES))
        return rows_preview(series, title) if series else self._vendor_picture(entry, title)

    def _vendor_picture(self, entry: RunEntry, title: str) -> bytes | None:
        """What the last file of the run looks like, as far as its adapter could tell."""
        pictures = (self._instruments[name].picture for name in self._members(entry.run.group))
        shown = [each for each in pictures if each is not None and entry.run.started_ns <= each.t_ns]
        if not shown:
            return None
        last = max(shown, key=lambda each: each.t_ns)
        return frame_preview(last.pixels, title, last.name if last.name.isascii() else "")

    def _streams(self, entry: RunEntry, kind: Kind) -> list[Stream]:
        return [s for name in self._members(entry.run.group) for s in self._instruments[name].streams.values() if s.kind is kind]

    def _members(self, group: str) -> list[str]:
        return [name for name in self._instruments if self._config.group_of(name) == group]

    def _record(self, entry: RunEntry, segments: Sequence[Closed]) -> records.RunRecord:
        config = self._config
        organisation = config.organisation or config.facility
        closed = entry.outcome != ""
        made = records.build_record(
            entry.run,
            self._software,
            tuple(self._instrument(name, entry) for name in self._members(entry.run.group)),
            self._all_facts(entry, segments) if segments else records.NOT_COUNTED,
            project=self._project(entry.run),
            organisation=None
            if organisation is None
            else records.Organisation(organisation.name, organisation.ror or records.NOT_CONFIGURED),
            clock=clock_facts(self._clock()),
            steps=tuple(records.Step(name, "edge-agent", __version__) for name in ("capture", "chunk", "encode", "hash", "sign")),
            ended_ns=entry.ended_ns if closed else None,
            outcome=Outcome(entry.outcome) if closed else None,
            authority=f"configuration of {config.site}",
            licence=self._about(entry.run.project).licence or records.NO_LICENCE,
        )
        made = replace(made, policy=self._why(made.policy, entry.run))
        return replace(made, integrity=records.Integrity(sidecar=f"{entry.run.name}.hsc")) if closed else made

    def _why(self, made: records.Policy, run: RunContext) -> records.Policy:
        why = self._labels.why(run.group, run.project, run.started_ns)
        if why.reasons:
            made = replace(made, reasons=why.reasons)
        if why.embargo is None:
            return made
        return replace(made, embargo_until=why.embargo.isoformat(), access_after_embargo=why.afterwards.value)

    def _about(self, project: str) -> Project:
        return self._config.projects.get(project, Project())

    def _project(self, run: RunContext) -> records.Project:
        """A project that a value of the facility's control system named is the number of the proposal."""
        about, said = self._about(run.project), run.project if run.rule == VALUE else ""
        proposal, grant, funder = (value or records.NOT_CONFIGURED for value in (about.proposal or said, about.grant, about.funder))
        return records.Project(run.project, proposal, grant, funder, run.rule or NO_RULE, run.rule_source or NO_SOURCE)

    def _instrument(self, name: str, entry: RunEntry) -> records.Instrument:
        configured, state = self._config.instruments[name], self._instruments[name]
        first = next(iter(state.streams.values()), None)
        known = {
            "pid": configured.pid, "manufacturer": configured.maker, "model": configured.model,
            "serial_number": configured.serial_number, "type": configured.title, "owner": configured.owner,
            "landing_page": configured.landing_page,
        }  # fmt: skip
        facts = state.facts or entry.facts.get(name, {})
        return records.instrument(
            name, configured.adapter, first.source_uri if first else "", first.transport if first else "unauthenticated",
            described=facts, configured=known, calibration=_calibration(configured), detector=detector_facts(configured.nxmx, facts),
            delivers=tuple(sorted({stream.kind.value for stream in state.streams.values()})),
        )  # fmt: skip

    def _all_facts(self, entry: RunEntry, segments: Sequence[Closed]) -> tuple[records.StreamFacts, ...]:
        states = (self._instruments[name] for name in self._members(entry.run.group))
        return tuple(self._facts(stream, segments) for state in states for stream in state.streams.values())

    def _facts(self, stream: Stream, segments: Sequence[Closed]) -> records.StreamFacts:
        loss = losses({stream.key: [gap for c in segments for gap in c.gaps.get(stream.key, ())]})[stream.key]
        received = sum(c.counts.get(stream.key, 0) for c in segments)
        return records.StreamFacts(
            stream.key, stream.kind.value, stream.dtype,
            stream.shape, stream.unit or records.NOT_SAID, records.without_password(stream.source_uri),
            stream.source_type, codec_of(stream), received, loss.known,
            loss.gaps, loss.unknown, stream.counted,
        )  # fmt: skip


def _title(entry: RunEntry) -> str:
    """Above the picture; a title that its font cannot draw stays out of it."""
    run = f"Run {entry.run.name}, {entry.run.project}"
    title = entry.run.title
    return f"{run}: {title}" if title and title.isprintable() and all(ord(c) < 256 for c in title) else run


def _calibration(configured: Instrument) -> records.Calibration | None:
    """What is configured; None leaves it to the instrument."""
    held = configured.calibration
    if held is None:
        return None
    return records.Calibration(held.id, records.NOT_CONFIGURED if held.valid_until is None else held.valid_until.isoformat())


def _series(stream: Stream, segments: Sequence[Closed]) -> Series | None:
    """The last rows of a numeric stream, for the picture."""
    if stream.shape or np.dtype(stream.dtype).kind not in "fiu":
        return None
    group, table = stream_group(stream), tags.tag_of(stream).table
    parts: list[list[npt.NDArray[Any]]] = []
    for closed in segments:
        if closed.shapes.get(f"{group}/value", (0,))[0]:
            parts.append([peek.rows(closed.path, f"{group}/{name}", -MOST_ROWS) for name in DRAWN])
        elif closed.shapes.get(f"{tags.GROUP}/{table}/value", (0,))[0]:
            parts.append(peek.tag_rows(closed.path, stream.key, table, DRAWN, MOST_SHARED))
    if not parts:
        return None
    times, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Series(stream.key, stream.unit, times, values.astype("<f8")) if len(times) else None
