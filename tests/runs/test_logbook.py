"""The agent log and the keys: sessions change between segments, old ones are retired, and a log is begun anew when its owner says so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import TargetUnreachable
from edge_agent.model import Frame, Stream
from edge_agent.record.session import Session, new_session
from edge_agent.runs.logbook import HEADS_EVERY
from edge_agent.seal import cose, leaf
from edge_agent.seal.head import head_hash, parse_head
from edge_agent.seal.keys import load_certificate
from edge_agent.seal.log_leaf import Heads, KeyAdd, KeyCompromised, KeyRetire, LogRestart, Quarantine, SegmentOpen
from edge_agent.seal.receipt import Witness, parse_receipts
from edge_agent.segment.run import verify_run
from edge_agent.segment.verify import verify_segment
from edge_agent.wire.refusal import Code, LogRestartApproved, Refusal

New = Callable[..., Any]
TOOL = Path(__file__).parents[2] / "tools" / "verify_hsc1.py"
MakeFrame = Callable[..., Frame]


def another(house: Any) -> Session:
    identity = house.identity
    return new_session(identity.agent_id, identity.key, (identity.certificate,), house.clock(), house.keeper.session.boot_id)


def verified(house: Any, run: Any) -> Any:
    return verify_run(house.keeper.folder(run), load_certificate(house.identity.certificate), judge=verify_segment)


def roll(house: Any, live: Any) -> None:
    """Close the open segments as their limits would."""
    house.recorder.call(lambda: [series.roll("rolled") for series in live.recording.series()]).result()
    gone = threading.Event()
    house.recorder.after_removals(gone.set)
    assert gone.wait(20), "a key is retired when no journal of its segments is left"


def signers(house: Any, run: Any) -> list[bytes]:
    return [cose.parse_all(closed.head_cose).signatures[0].kid for closed in house.closed_segments(run)]


async def test_a_session_changes_between_segments_and_the_run_verifies(new_house: New, camera: Stream, frame: MakeFrame) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    first = house.keeper.session
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    house.keeper.logbook.open_segments()
    second = another(house)
    house.keeper.logbook.change_session(second)
    house.groups["bl"].offer(camera, frame(1))
    await house.durable(camera, 2)
    house.keeper.logbook.retire_sessions()
    assert house.log(KeyRetire) == []
    live = house.groups["bl"].foreground
    roll(house, live)
    house.groups["bl"].offer(camera, frame(2))
    await house.durable(camera, 3)
    house.keeper.logbook.open_segments()
    house.keeper.logbook.retire_sessions()
    (retired,) = house.log(KeyRetire)
    assert retired.kids == first.kids
    await house.desk.stop("bl")
    await house.complete()
    assert signers(house, run) == [first.kids[0], second.kids[0]]
    assert [added.kids for added in house.log(KeyAdd)] == [first.kids, second.kids]
    report = verified(house, run)
    assert (report.level, report.reason) == (2, "")
    root = house.folder / "root.der"
    root.write_bytes(house.identity.certificate)
    done = subprocess.run([sys.executable, str(TOOL), str(house.keeper.folder(run)), "--root", str(root)], capture_output=True, check=False)
    assert done.stdout.startswith(b"level 2"), done.stdout
    kinds = [type(entry) for entry in house.log(leaf.SegmentClose | KeyAdd | KeyRetire | SegmentOpen)]
    assert kinds == [KeyAdd, SegmentOpen, KeyAdd, leaf.SegmentClose, SegmentOpen, KeyRetire, leaf.SegmentClose]


async def test_keys_of_an_earlier_start_are_retired_once_its_segments_are_recovered(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    old = house.keeper.session
    await house.crash()
    again = new_house()
    await again.open("bl")
    again.keeper.logbook.retire_sessions()
    (retired,) = again.log(KeyRetire)
    assert retired.kids == old.kids
    assert again.agent_log.open_keys() == [again.keeper.session.kids]
    assert again.agent_log.key_leaves(old.kids[1]) == [again.agent_log.key_leaves(old.kids[0])[0], again.agent_log.size - 1]
    await again.stop()


async def test_compromised_keys_close_their_segments_first_and_sign_nothing_behind_the_leaf(
    new_house: New, camera: Stream, frame: MakeFrame
) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.durable(camera, 1)
    old = house.keeper.session
    house.keeper.logbook.change_session(another(house), "the PC was opened")
    house.groups["bl"].offer(camera, frame(1))
    await house.desk.stop("bl")
    await house.complete()
    (said,) = house.log(KeyCompromised)
    assert (said.kids, said.reason) == (old.kids, "the PC was opened")
    assert signers(house, run)[0] == old.kids[0]
    assert old.kids[0] not in signers(house, run)[1:]
    order = [type(entry) for entry in house.log(leaf.SegmentClose | KeyCompromised)]
    assert order[:2] == [leaf.SegmentClose, KeyCompromised]
    assert verified(house, run).level == 2


async def test_open_segments_are_shown_to_the_witness_by_one_leaf(
    new_house: New, camera: Stream, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = new_house()
    await house.open("bl")
    house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.until(lambda: len(house.log(Heads)) == 1)
    (shown,) = house.log(Heads)
    ((segment_id, size, digest),) = shown.heads
    (segment,) = [s.segment for live in house.keeper.lives() for s in live.recording.series() if s.segment is not None]
    anchor = segment.tree.anchors[0]
    assert (segment_id, size, digest) == (segment.opening.segment_id, anchor.head.size, anchor.hash)
    assert [opened.segment_id for opened in house.log(SegmentOpen)] == [segment_id]
    monkeypatch.setattr("edge_agent.runs.logbook.HEADS_EVERY", -HEADS_EVERY)
    assert house.keeper.logbook.open_segments() is False
    assert len(house.log(Heads)) == 1
    await house.stop()


@pytest.mark.expects_errors
async def test_a_segment_that_is_set_aside_is_in_the_log(new_house: New, camera: Stream, frame: MakeFrame, tmp_path: Path) -> None:
    house = new_house()
    await house.open("bl")
    run = house.desk.start("bl", project="p")
    folder = house.keeper.folder(run)
    (folder / "x.h5.journal").write_bytes(b"no journal")
    house.keeper.set_aside(folder, "x.h5", "cannot be read")
    (said,) = house.log(Quarantine)
    assert (said.what, said.run_id, said.reason) == ("x.h5", run.run_id, "cannot be read")
    (house.folder / "runs" / "strange").mkdir()
    (house.folder / "runs" / "strange" / "y.h5.journal").write_bytes(b"no journal")
    house.keeper.set_aside(house.folder / "runs" / "strange", "y.h5", "unknown")
    assert house.log(Quarantine)[1].run_id is None
    await house.desk.stop("bl")
    await house.complete()
    await house.stop()


@dataclass
class Landing:
    """Knows a longer history of the agent, and refuses the log until its owner approved a new one; then countersigns that."""

    key: Any
    log_id: bytes | None = None
    approved: bool = False
    size: int = 0

    async def witness(self, head: bytes, chain: bytes, proof: Sequence[bytes], first: int) -> bytes:
        payload = cose.payload_of(head)
        shown = parse_head(payload)
        if self.log_id is None:
            self.log_id = b"" if not self.approved else shown.tree_id
        if shown.tree_id != self.log_id:
            if not self.approved:
                raise Refusal(Code.FORK, "This log shows two histories").error("here")
            if self.log_id == b"":
                self.log_id = b"old"
                raise Refusal(Code.LOG_RESTART, "This log cannot go on, and a new one is approved").error("here")
            self.log_id = shown.tree_id
        self.size = shown.size
        said = Witness(shown.agent_id, shown.tree_id, shown.size, shown.root, head_hash(payload), 7)
        return cose.sign(self.key, cose.WITNESS, said.payload())


async def test_a_log_is_begun_anew_when_its_owner_approved_and_runs_that_wait_are_completed_in_it(
    new_house: New, camera: Stream, frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.runs.witness.RETRY", 0.05)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    landing = Landing(Ed25519PrivateKey.generate())
    house = new_house(targets=("here",))
    await house.open("bl", witnesses={"here": landing})
    run = house.desk.start("bl", project="p")
    house.groups["bl"].offer(camera, frame(0))
    await house.desk.stop("bl")
    await house.until(lambda: bool(house.witnessing.errors))
    old, size = house.agent_log.log_id, house.agent_log.size
    landing.approved = True
    await house.complete()
    assert house.agent_log.log_id != old
    (restarted,) = house.log(LogRestart)
    assert (restarted.log_id, restarted.size >= size) == (old, True)
    kept = house.folder / f"agent-{old.hex()}.log"
    assert len(kept.read_bytes()) > 0
    kinds = [type(entry) for entry in house.log(LogRestart | KeyAdd | SegmentOpen | leaf.SegmentClose)]
    assert kinds == [LogRestart, KeyAdd, SegmentOpen, leaf.SegmentClose]
    found = parse_receipts((house.keeper.folder(run) / f"{run.name}.receipts").read_bytes())
    assert {proof.log_id for proof in found.inclusions} == {house.agent_log.log_id}
    assert {type(leaf.parse(proof.payload)) for proof in found.inclusions} == {KeyAdd, leaf.SegmentClose}
    await house.stop()


async def test_a_landing_that_approves_again_and_again_does_not_make_the_agent_go_round(new_house: New) -> None:
    class Endless:
        async def witness(self, *_: Any) -> bytes:
            raise LogRestartApproved("here: again")

    house = new_house(targets=("here",))
    await house.open("bl")
    house.witnessing.targets = {"here": Endless()}
    assert await house.witnessing.round() is False
    assert house.witnessing.errors == {"here": "here: again"}
    assert isinstance(LogRestartApproved("x"), TargetUnreachable)
    await house.stop()
