"""The files adapter: waits for its folder and follows it.

Invariants: a folder that is not there, or not any more, is told once and waited for; notices end with the folder.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import ClassVar

from adapters.files.config import FilesConfig
from adapters.files.folder import STREAM, WatchedFolder
from adapters.files.notices import Notices
from adapters.files.readers import Readers
from adapters.files.scan import Eye
from edge_agent.adapter import AdapterConfig, Sink
from edge_agent.errors import InstrumentUnreachable
from edge_agent.model import Kind, Stream


class FilesAdapter:
    """One watched folder."""

    Config: ClassVar[type[AdapterConfig]] = FilesConfig

    def __init__(self, instrument: str, config: FilesConfig) -> None:
        self.instrument = instrument
        self._config = config

    async def run(self, sink: Sink) -> None:
        """Hand over every finished file until cancelled."""
        source = str(self._config.folder)
        notices, readers = Notices(), Readers()
        told = ""
        while True:
            try:
                eye = await asyncio.to_thread(self._open)
                if not self._config.polling:
                    await asyncio.to_thread(notices.start, eye.root, recursive=self._config.recursive)
                sink.connected(source)
                told = ""
                await WatchedFolder(self.instrument, self._config, eye, notices, sink, readers).follow()
            except OSError as e:
                what, try_ = _explain(self._config.folder, e)
                if told != what:
                    told = what
                    sink.disconnected(source, why=f"{what}; {try_}")
            finally:
                await asyncio.to_thread(notices.stop)
                await readers.stop()
            await asyncio.sleep(self._config.rescan)

    async def preview(self) -> list[Stream]:
        """The stream of files, with how many there are now. Raises InstrumentUnreachable."""
        try:
            eye = await asyncio.to_thread(self._open)
            found = await asyncio.to_thread(eye.scan)
        except OSError as e:
            what, try_ = _explain(self._config.folder, e)
            raise InstrumentUnreachable("The folder cannot be watched.", why=what, try_=try_) from e
        facts: dict[str, str | int | float] = {"files": len(found.files), "refused_entries": len(found.refusals)}
        return [Stream(self.instrument, STREAM, Kind.FILES, source_uri=eye.root.as_uri(), source_type="folder", attributes=facts)]

    def _open(self) -> Eye:
        config = self._config
        root = config.folder.resolve(strict=True)
        eye = Eye(root, config.selection(), recursive=config.recursive, ready=config.ready_files(root.name))
        eye.check()
        return eye


def _explain(folder: Path, error: OSError) -> tuple[str, str]:
    """What is wrong with a folder, and what to do."""
    if error.errno == errno.ENOENT:
        return f"there is no folder {folder}", "create it or mount the share; it is looked for again"
    if error.errno == errno.ENOTDIR:
        return f"{folder} is no folder", "correct folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not look into {folder}", "give the agent's user the right to read it"
    return f"{folder} cannot be looked through: {error.strerror or error}", "look at the disk or the share; it is tried again"
