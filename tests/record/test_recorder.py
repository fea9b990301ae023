"""Recording from the inlets to closed segments: what is offered is what is read, and "durable" means the commit returned."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.codec import Buffers
from edge_agent.model import NO_SEQ, Block, Cause, Frame, Gap, Kind, Reset, Stream, Valid
from edge_agent.record.items import Encoded, FrameItem
from edge_agent.record.recorder import Room
from edge_agent.record.room import PER_ITEM, Charge, fitting
from edge_agent.seal import leaf
from edge_agent.seal.tree import Frontier

Make = Callable[..., Any]


def read_normally(paths: list[Path], folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """In a process of its own, because the recorder's must not register filters."""
    program = Path(__file__).with_name("read_normally.py")
    subprocess.run([sys.executable, str(program), str(folder / "read.npz"), *map(str, paths)], check=True, timeout=200)
    return dict(np.load(folder / "read.npz"))


async def test_what_was_offered_is_what_everybody_reads(rig: Make, kit: Any, tmp_path: Path) -> None:
    camera = replace(kit.CAMERA, codec="bitshuffle-lz4", shape=(64, 48))
    label = Stream("balance", "label", Kind.ROWS, "|S12")
    motor = Stream("motor", "position", Kind.ROWS, "<i4", (3,), unit="mm", counted=True)
    run = rig()
    frames, mass = run.recording.frames(camera), run.recording.rows(kit.BALANCE)
    texts, steps = run.recording.rows(label), run.recording.rows(motor)
    for number in range(1, 31):
        assert frames.offer(kit.frame(number if number <= 20 else number + 4, (64, 48)))
        await mass.put(kit.rows(number * 100, 90))
        await texts.put(Block(np.array([f"n{number}"], "|S12"), *(np.array([kit.T0 + number], "<i8"),) * 2))
        await steps.put(
            Block(np.full((1, 3), number, "<i4"), *(np.array([kit.T0], "<i8"),) * 2, seq=np.array([number], "<u8"),
                  status=np.array([7], "<u4"), valid=np.array([Valid.BAD], "|u1"))
        )  # fmt: skip
    durable: list[tuple[str, bytes]] = []
    content = bytes(range(256)) * 40_000
    item = kit.vendor_file(tmp_path / "vendor", "a/b.dat", content)
    run.recording.file(kit.VENDOR, item, lambda *file: durable.append(file)).result(20)
    run.durable()
    segments = {closed.series: closed for closed in run.close()}
    assert durable == [("files/scope/a/b.dat", hashlib.sha256(content).digest())]

    kit.check_chain(run.segments())
    kit.check_signed(run.segments(), run.facility)
    paths = [segments["camera/image"].path, segments["rows"].path]
    said = kit.independent_verifier(paths, run.facility.pem(tmp_path))
    assert said.count("level 2") == 2

    read = read_normally(paths, tmp_path)
    numbers = [*range(1, 21), *range(25, 35)]
    group = "0/entry/instrument/camera/image"
    assert read[f"{group}/frame_number"].tolist() == numbers
    assert np.array_equal(read[f"{group}/data"], np.stack([kit.image(n, (64, 48)) for n in numbers]))
    assert np.array_equal(read["0/plotted"], read[f"{group}/data"])
    assert read[f"{group}/time"].tolist() == [kit.T0 + n for n in numbers]
    assert read[f"{group}/time_arrival"].tolist() == [kit.T0 + n + 5 for n in numbers]
    assert (read[f"{group}/gaps/first"].tolist(), read[f"{group}/gaps/last"].tolist()) == ([21], [24])
    wanted = np.concatenate([np.arange(n * 100, n * 100 + 90) * 0.5 for n in range(1, 31)])
    assert np.array_equal(read["1/entry/instrument/balance/mass/value"], wanted)
    assert np.array_equal(read["1/plotted"], wanted)
    assert read["1/entry/instrument/balance/label/value"].tolist() == [f"n{n}".encode() for n in range(1, 31)]
    assert read["1/entry/instrument/motor/position/sequence"].tolist() == list(range(1, 31))
    assert read["1/entry/instrument/motor/position/status"].tolist() == [7] * 30
    assert read["1/entry/instrument/motor/position/valid"].tolist() == [0] * 30

    complete = {name: read[f"0/entry/completeness/{name}"].tolist() for name in ("received", "missing", "gaps", "expected")}
    assert complete == {"received": [30], "missing": [4], "gaps": [1], "expected": [34]}
    assert read["1/entry/completeness/received"].tolist() == [segments["rows"].counts[key] for key in sorted(segments["rows"].counts)]

    assert segments["camera/image"].counts == {"camera/image": 30}
    assert segments["camera/image"].last_seq == {"camera/image": 34}
    assert segments["rows"].counts == {"balance/mass": 2700, "balance/label": 30, "motor/position": 30}
    assert segments["rows"].last_time["balance/mass"] == kit.T0 + 3000 + 89 + 5
    (entry,) = [each for each in kit.leaves_of(segments["files"]) if isinstance(each, leaf.FileLeaf)]
    data = item.path.read_bytes()
    pieces = Frontier()
    for start in range(0, len(data), leaf.PIECE):
        pieces.append(data[start : start + leaf.PIECE])
    assert (entry.path, entry.size, entry.digest) == (durable[0][0], len(data), hashlib.sha256(data).digest())
    assert (entry.root, entry.mtime_ns) == (pieces.root(), item.mtime_ns)
    assert (run.folder / durable[0][0]).read_bytes() == data
    assert sorted(p.name for p in run.folder.iterdir()) == sorted(["files", *(p.name for p in paths)])


async def test_nothing_counts_as_arrived_before_the_commit_returned(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk)
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    frames.offer(kit.frame(1))
    await mass.put(kit.rows(1))
    run.durable()
    disk.waiting.clear()
    disk.open.clear()
    frames.offer(kit.frame(2))
    await mass.put(kit.rows(2, 3))
    await asyncio.to_thread(disk.waiting.wait, 20)
    run.recorder.call(lambda: None).result(20)

    def arrived() -> dict[str, int]:
        return {key: n for series in run.recording.series() for key, n in series.segment.live.arrived.items()}

    for _ in range(20):  # a commit that does not wait for its syncs needs a moment, too
        await asyncio.sleep(0.01)
        assert arrived() == {"camera/image": 1, "balance/mass": 1}
    assert run.room.used > 0
    disk.open.set()
    run.durable()
    assert arrived() == {"camera/image": 2, "balance/mass": 4}
    assert run.room.used == 0


async def test_it_is_known_of_every_item_how_long_it_took_to_be_durable(rig: Make, kit: Any) -> None:
    run = rig()
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    for number in range(1, 41):
        frames.offer(kit.frame(number))
        await mass.put(kit.rows(number))
        await asyncio.sleep(0)
    run.durable()
    async with asyncio.timeout(20):
        while len(run.recorder.latencies) < 80:
            await asyncio.sleep(0.01)
    assert len(run.recorder.latencies) == 80
    assert min(run.recorder.latencies) > 0
    assert run.recorder.commits >= 2


def test_a_blocked_disk_refuses_frames_at_once_and_every_number_is_accounted_for(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=6 * (768 + PER_ITEM))
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(1))
    run.durable()
    disk.open.clear()
    taken = [number for number in range(2, 102) if frames.offer(kit.frame(number))]
    assert taken == list(range(2, 8))
    disk.open.set()
    run.durable()
    assert frames.offer(kit.frame(103))
    run.durable()
    disk.open.clear()
    taken = [number for number in range(104, 120) if frames.offer(kit.frame(number))]
    disk.open.set()
    segments = run.close()
    present = kit.recorded_frames(segments)
    missing: dict[int, str] = {}
    for each in segments[0].gaps["camera/image"]:
        missing |= dict.fromkeys(range(each.first, each.last + 1), each.cause)
    assert sorted([*present, *missing]) == list(range(1, 120))
    assert set(present) == {1, *range(2, 8), 103, *taken}
    assert {n for n, cause in missing.items() if cause == "overload"} == set(range(8, 102)) | set(range(104 + len(taken), 120))
    assert missing[102] == "source"
    kit.check_signed(segments, run.facility)


def test_a_counter_that_begins_again_while_frames_are_refused_is_accounted_for(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=1)
    frames = run.recording.frames(kit.CAMERA)
    frames.offer(kit.frame(50))
    run.durable()
    disk.open.clear()
    assert [frames.offer(kit.frame(number)) for number in (51, 52, 53, 1, 2, 3)] == [True, *[False] * 5]
    disk.open.set()
    run.durable()
    assert frames.offer(kit.frame(4))
    segments = run.close()
    said = [(each.first, each.last, each.cause) for each in segments[0].gaps["camera/image"]]
    assert said == [(52, 53, "overload"), (1, 3, "overload")]
    assert set(kit.recorded_frames(segments)) == {50, 51, 4}
    kit.check_signed(segments, run.facility)


async def test_rows_wait_for_room_and_frames_do_not(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=2 * (PER_ITEM + 72))
    mass = run.recording.rows(kit.BALANCE)
    await mass.put(kit.rows(0))
    run.durable()
    disk.open.clear()
    await mass.put(kit.rows(1))
    await mass.put(kit.rows(2))
    waiting = asyncio.create_task(mass.put(kit.rows(3)))
    await asyncio.sleep(0)
    assert not waiting.done()
    mass.put_now(kit.rows(4))
    disk.open.set()
    await asyncio.wait_for(waiting, 20)
    run.durable()
    assert kit.recorded_rows(run.close()) == [0.0, 0.5, 1.0, 2.0, 1.5]


async def test_rows_that_wait_for_room_when_the_run_ends_still_get_in(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    run = rig(disk, room=1)
    mass = run.recording.rows(kit.BALANCE)
    await mass.put(kit.rows(0))
    run.durable()
    disk.open.clear()
    await mass.put(kit.rows(1))
    waiting = asyncio.create_task(mass.put(kit.rows(2)))
    await asyncio.sleep(0)
    done = run.recording.close("complete")
    assert not waiting.done()
    disk.open.set()
    await asyncio.wait_for(waiting, 20)
    await asyncio.wait_for(asyncio.wrap_future(done), 20)
    assert kit.recorded_rows(run.segments()) == [0.0, 0.5, 1.0]


@pytest.mark.expects_errors
async def test_data_after_the_end_of_the_run_is_refused_loudly(rig: Make, kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = rig()
    mass = run.recording.rows(kit.BALANCE)
    await mass.put(kit.rows(0))
    run.close()
    frames = run.recording.frames(kit.CAMERA)
    await mass.put(kit.rows(1, 5))
    mass.put_now(kit.rows(6))
    assert not frames.offer(kit.frame(7))
    for said in ("balance/mass: 5 rows", "balance/mass: 1 rows", "camera/image: frame 7"):
        assert f"{said} came after the end of their run" in caplog.text
    assert run.room.used == 0
    run.recorder.call(lambda: None).result(20)
    assert len(run.segments()) == 1


def test_one_item_larger_than_the_room_passes_alone() -> None:
    room = Room(100)
    assert room.try_enter(1000)
    assert not room.try_enter(1)
    room.leave(1000)
    assert room.try_enter(1)
    assert not room.try_enter(100)


async def test_a_vendor_file_that_could_not_be_taken_is_declared(rig: Make, kit: Any) -> None:
    run = rig()
    run.recording.file_gap(kit.VENDOR, Gap(Cause.OVERLOAD, count=1, detail="too large"))
    (closed,) = run.close()
    assert [(gap.count, gap.detail) for gap in closed.gaps["scope/files"]] == [(1, "too large")]
    assert closed.counts == {}


async def test_declared_gaps_and_resets_stand_in_their_order(rig: Make, kit: Any) -> None:
    run = rig()
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    frames.offer(kit.frame(5))
    frames.gap(Gap(Cause.OVERFLOW, 6, 9, 4, t_from=kit.T0, t_to=kit.T0 + 1, detail="the server said so"))
    frames.offer(kit.frame(10))
    frames.reset(Reset(Cause.RESTART, 10, 0))
    frames.offer(kit.frame(0))
    frames.gap(Gap(Cause.DISCONNECT, t_from=kit.T0, t_to=kit.T0 + 9))
    mass.gap(Gap(Cause.GARBAGE, count=3, detail="no number"))
    await mass.put(kit.rows(1))
    frames.gap(Gap(Cause.OVERFLOW, 1, 4))
    segments = {closed.series: closed for closed in run.close()}
    order = [
        each.seq_first if isinstance(each, leaf.Chunk) else each
        for each in kit.leaves_of(segments["camera/image"])
        if isinstance(each, leaf.GapLeaf | leaf.SeqReset) or (isinstance(each, leaf.Chunk) and each.seq_first != leaf.NO_COUNTER)
    ]
    assert order == [
        5,
        leaf.GapLeaf("camera/image", 6, 9, "overflow", 4, kit.T0, kit.T0 + 1, "the server said so"),
        10,
        leaf.SeqReset("camera/image", 10, 0, "restart"),
        0,
        leaf.GapLeaf("camera/image", None, None, "disconnect", None, kit.T0, kit.T0 + 9, ""),
        leaf.GapLeaf("camera/image", 1, 4, "overflow", None, -(2**63), -(2**63), ""),
    ]
    assert segments["camera/image"].last_seq == {"camera/image": 4}
    assert [gap.count for gap in segments["rows"].gaps["balance/mass"]] == [3]
    kit.check_signed(run.segments(), run.facility)


def test_a_run_without_data_has_one_empty_segment_that_opens(rig: Make, kit: Any) -> None:
    run = rig()
    (closed,) = run.close("aborted")
    assert closed.counts == {}
    kit.check_signed([closed], run.facility)


async def test_last_known_values_are_written_and_not_counted(rig: Make, kit: Any) -> None:
    run = rig()
    mass = run.recording.rows(kit.BALANCE)
    mass.put_now(kit.rows(1, valid=np.array([Valid.INITIAL], "|u1")))
    await mass.put(kit.rows(2))
    await mass.put(kit.rows(3, 0))
    (closed,) = run.close()
    assert closed.counts == {"balance/mass": 1}
    assert kit.recorded_rows([closed]) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": np.zeros((16, 23), "<u2")}, r"a frame \(16, 23\) <u2, the stream says \(16, 24\) <u2"),
        ({"data": np.zeros((16, 24), "<f4")}, r"a frame \(16, 24\) <f4"),
        ({"number": -1}, "frame number -1"),
        ({"number": 2**64 - 1}, "frame number 18446744073709551615"),
        ({"t_source": 2**63}, "frame 1: .*(out of range|too large)"),
        ({"status": -1}, "frame 1: "),
    ],
)
def test_a_frame_that_no_segment_can_hold_is_refused_with_the_reason(rig: Make, kit: Any, change: dict[str, Any], said: str) -> None:
    run = rig()
    frames = run.recording.frames(kit.CAMERA)
    with pytest.raises(ValueError, match=said):
        frames.offer(replace(kit.frame(1), **change))
    assert run.room.used == 0
    assert frames.offer(kit.frame(1))
    assert set(kit.recorded_frames(run.close())) == {1}


async def test_rows_and_gaps_that_no_segment_can_hold_are_refused_with_the_reason(rig: Make, kit: Any) -> None:
    run = rig()
    mass = run.recording.rows(kit.BALANCE)
    counted = run.recording.rows(Stream("motor", "position", Kind.ROWS, counted=True))
    with pytest.raises(ValueError, match=r"balance/mass: values of shape \(2, 2\), the stream says \(2,\)"):
        await mass.put(Block(np.zeros((2, 2)), *(np.zeros(2, "<i8"),) * 2))
    with pytest.raises(ValueError, match="could not convert"):
        await mass.put(Block(np.array(["heavy"]), *(np.zeros(1, "<i8"),) * 2))
    with pytest.raises(ValueError, match="motor/position: the stream is counted, the block has no seq"):
        counted.put_now(kit.rows(1))
    with pytest.raises(ValueError, match=r"gap: count is -1, and must be 0 to"):
        mass.gap(Gap(Cause.OVERFLOW, count=-1))
    with pytest.raises(ValueError, match=r"gap: t_to is 9223372036854775808"):
        mass.gap(Gap(Cause.OVERFLOW, t_to=2**63))
    with pytest.raises(ValueError, match=r"camera/image: a reset to -1"):
        run.recording.frames(kit.CAMERA).reset(Reset(Cause.RESTART, None, -1))
    assert run.room.used == 0
    run.close()


def test_frames_from_many_threads_are_all_there(rig: Make, kit: Any) -> None:
    run = rig()
    streams = [replace(kit.CAMERA, name=f"image{n}") for n in range(3)]

    def feed(stream: Stream) -> None:
        channel = run.recording.frames(stream)
        for number in range(1, 41):
            assert channel.offer(Frame(kit.image(number), number, kit.T0, kit.T0))

    threads = [threading.Thread(target=feed, args=(stream,)) for stream in streams]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    segments = run.close()
    for stream in streams:
        assert list(kit.recorded_frames(segments, stream.key)) == list(range(1, 41))
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)


@pytest.mark.parametrize(("gib", "mib"), [(0, 128), (2, 128), (6, 192), (8, 256), (256, 256)])
def test_an_agents_room_fits_its_machine(gib: int, mib: int) -> None:
    assert fitting(gib << 30) == mib << 20
    assert 128 << 20 <= fitting() <= 256 << 20


def test_while_writes_are_held_up_frames_wait_for_their_turn_encoded_and_not_raw(kit: Any) -> None:
    stream, room, pool, size = kit.CAMERA, Room(2 * (64 << 10)), Buffers(1 << 20), 64 << 10

    def item() -> tuple[FrameItem, Encoded]:
        assert room.try_enter(size)
        lease = pool.take(size)
        encoded = Encoded(lease.view[:5000], 0, b"", lease)
        return FrameItem(stream, 1, 0, b"", Charge(room, size), again=lambda: encoded), encoded

    roomy, encoded = item()
    roomy.encode(encoded)
    assert (roomy.encoded, roomy.again is None, room.used) == (encoded, False, size)
    crowded, encoded = item()
    crowded.encode(encoded)
    assert crowded.again is None
    assert crowded.encoded is not None
    assert len(crowded.encoded.stored) == 5000
    assert room.used == size + 5000 + PER_ITEM
    for each in (roomy, crowded):
        each.done()
    assert room.used == 0


def test_what_waits_for_a_slow_disk_is_raw_up_to_half_of_the_room_and_packed_beyond(rig: Make, kit: Any) -> None:
    disk = kit.Gated()
    stream = replace(kit.CAMERA, shape=(128, 192), codec="bitshuffle-lz4")
    size = 128 * 192 * 2 + PER_ITEM
    run = rig(disk, room=20 * size)
    frames = run.recording.frames(stream)
    assert frames.offer(replace(kit.frame(1), data=np.zeros(stream.shape, "<u2")))
    run.durable()
    disk.open.clear()
    for number in range(2, 21):
        assert frames.offer(replace(kit.frame(number), data=np.full(stream.shape, number, "<u2")))
    run.recorder.call(lambda: None).result(20)
    assert run.room.kept == 10 * size
    pool = run.recorder._encoders._buffers

    def lent() -> int:
        return pool._held - sum(len(idle) * size for size, idle in pool._idle.items())

    assert lent() == 9 * mmap.PAGESIZE, "what is packed waits in buffers that fit"
    disk.open.set()
    run.durable()
    assert (run.room.used, run.room.kept) == (0, 0)
    assert lent() == 0, "every buffer came back"
    assert list(kit.recorded_frames(run.close())) == list(range(1, 21))


@pytest.mark.parametrize("codec", [None, "shuffle-zstd", "none"])
def test_frames_that_do_not_shrink_are_stored_as_they_are_until_they_shrink_again(rig: Make, kit: Any, codec: str | None) -> None:
    run = rig()
    stream = replace(kit.CAMERA, codec=codec)
    frames = run.recording.frames(stream)
    random = np.random.default_rng(5)
    sent = {}
    for number in range(1, 101):
        plain = number > 50
        sent[number] = np.full((16, 24), number, "<u2") if plain else random.integers(0, 1 << 16, (16, 24), np.uint16)
        assert frames.offer(replace(kit.frame(number), data=sent[number]))
    segments = run.close()
    kit.check_signed(segments, run.facility)
    found = kit.recorded_frames(segments)
    assert list(found) == list(sent)
    assert all(np.array_equal(found[number], sent[number]) for number in sent)
    sizes = [each.size for each in kit.leaves_of(segments[0]) if isinstance(each, leaf.Chunk) and each.seq_first != NO_SEQ]
    assert sizes[:50] == [768] * 50
    assert (min(sizes[50:]) < 768) == (codec != "none")
    assert run.room.used == 0
