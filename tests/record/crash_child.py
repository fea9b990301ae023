"""Recovers what the last kill left, then records as fast as it can and says what became durable. Run as a program."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))
import conftest as kit

from edge_agent.record import journal
from edge_agent.record.items import FrameItem, RowsItem
from edge_agent.record.recovery import NothingDurable, recover
from edge_agent.record.segment_writer import JOURNAL, Closed
from edge_agent.record.series import Limits
from edge_agent.seal.keys import parse_key_chain
from edge_agent.storage import DISK

LIMITS = Limits(size=40 * 768, min_age=0.0)


def say(*words: object) -> None:
    """One line in one write, which a kill cannot cut in two."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def put(book: Path, closed: Closed) -> None:
    new = book / f"{closed.ordinal:06d}.new"
    new.write_bytes(pickle.dumps(closed))
    new.rename(new.with_suffix(".closed"))


def read(book: Path) -> list[Closed]:
    return [pickle.loads(path.read_bytes()) for path in sorted(book.glob("*.closed"))]


def recover_everything(folder: Path, facility: Any, book: Path) -> None:
    session = facility.boot()
    for path in sorted(folder.glob(f"*{JOURNAL}")):
        name = path.name.removesuffix(JOURNAL)
        first = next(journal.scan(path.read_bytes()), None)
        try:
            if first is None:
                raise NothingDurable
            chain = parse_key_chain(first.context)
            closed = recover(folder, name, session, DISK, time.time_ns, kit.POLICY, chain=chain)
        except NothingDurable:
            path.unlink()
            (folder / f"{name}.part").unlink(missing_ok=True)
            continue
        put(book, closed)
        path.unlink()


async def record(run: Any, first: int, vendor: Path) -> None:
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    number = first
    while True:
        if not frames.offer(kit.frame(number)):
            await asyncio.sleep(0.001)
        await mass.put(kit.rows(number, 3))
        if number % 40 == 0:
            item = kit.vendor_file(vendor, f"{number}.dat", number.to_bytes(4, "big") * 500)
            run.recording.file(kit.VENDOR, item, lambda path, _: say("file", path))
        number += 3 if number % 50 == 0 else 1


def main(home: Path, agent: str, key: str, first: int) -> None:
    facility = kit.Facility(bytes.fromhex(agent), Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)))
    folder, book = home / "000001", home / "book"
    book.mkdir(parents=True, exist_ok=True)
    say("ready")
    recover_everything(folder, facility, book)
    say("recovered")
    frame_done, rows_done = FrameItem.done, RowsItem.done

    def frame_is_durable(item: FrameItem) -> None:
        say("frame", item.number)
        frame_done(item)

    def rows_are_durable(item: RowsItem) -> None:
        say("rows", int(item.columns[0][0] * 2), item.n)
        rows_done(item)

    FrameItem.done, RowsItem.done = frame_is_durable, rows_are_durable  # type: ignore[method-assign]
    run = kit.Rig(folder, facility, before=read(book), frame_limits=LIMITS, row_limits=LIMITS, room=1 << 20)
    run.state.context = run.session.chain.encode
    closed = run.state.closed

    def remember(segment: Closed) -> None:
        put(book, segment)
        closed(segment)

    run.state.closed = remember
    asyncio.run(record(run, first, home / "vendor"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
