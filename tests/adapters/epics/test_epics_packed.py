"""Compressed images: they reach the file as the camera packed them, and a researcher reads the pixels."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from p4p import Value
from p4p.nt import NTNDArray
from p4p.server.thread import SharedPV

from adapters.epics.packing import packed_or_plain, unpack_lz4
from edge_agent.agent.agent import Agent
from edge_agent.codec import decoder
from edge_agent.config.loading import load
from edge_agent.model import Packed
from edge_agent.segment.verify import verify_segment
from tests.adapters.epics.packers import PACKERS, jpeg, lz4

ROOT = Path(__file__).parents[3]
TYPE = NTNDArray.buildType()
SCALAR = {"uint8": 5, "uint16": 6, "float32": 9}
STORED_AS = {"lz4": 32004, "lz4hdf5": 32004, "bslz4": 32008, "blosc": 32001, "zlib": 1}
CONFIG = """
site = "bench"
spool = {{ dir = "{folder}", keep_free = "1 MB" }}

[instrument.camera]
adapter = "epics"
group = "bench"
image = "pva://T:image"
codec = "shuffle-zstd"
addresses = ["pva://127.0.0.1:{port}"]
"""


def message(number: int, data: np.ndarray[Any, Any], wire: str, payload: bytes) -> Value:
    return Value(
        TYPE,
        {
            "value": ("ubyteValue", np.frombuffer(payload, np.uint8)),
            "compressedSize": len(payload),
            "uncompressedSize": data.nbytes,
            "uniqueId": number,
            "codec": {"name": wire, "parameters": SCALAR[data.dtype.name]},
            "timeStamp": {"secondsPastEpoch": 1_800_000_000 + number, "nanoseconds": 0},
            "dimension": [{"size": size} for size in reversed(data.shape)],
        },
    )


def pictures() -> list[np.ndarray[Any, Any]]:
    """Sizes that end within a group of eight and within a block."""
    rng = np.random.default_rng(1)
    return [rng.poisson(2, (61, 67)).astype("<u2"), rng.poisson(2, (128, 96)).astype("<u2")]


async def test_what_a_camera_packs_is_stored_as_it_came_and_read_by_anybody(pv_server: Any, tmp_path: Path) -> None:
    pv = SharedPV(initial=Value(TYPE, {}))
    pv_server.start(image=pv)
    (tmp_path / "agent.toml").write_text(CONFIG.format(folder=tmp_path / "spool", port=pv_server.port))
    agent = Agent(load(tmp_path / "agent.toml"))
    await agent.start()
    sent: dict[int, tuple[str, bytes, np.ndarray[Any, Any]]] = {}
    try:
        agent.desk.graces = {"bench": 0.0}
        agent.desk.start("bench", project="bench")
        async with asyncio.timeout(60):
            while not agent.instruments["camera"].connections:
                await asyncio.sleep(0.05)
        grey = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
        todo = [(wire, pack(data), data) for data in pictures() for wire, pack in PACKERS.values()] + [("jpeg", jpeg(grey), grey)]
        for number, (wire, payload, data) in enumerate(todo, 1):
            pv.post(message(number, data, wire, payload))
            sent[number] = (wire, payload, data)
        async with asyncio.timeout(60):
            while sum(totals.arrived for totals in agent.keeper.totals().values()) < len(sent):
                await asyncio.sleep(0.05)
        run = await agent.desk.stop("bench")
        folder = agent.keeper.folder(run)
        (totals,) = agent.keeper.totals().values()
    finally:
        await agent.stop()
    assert (totals.lost, totals.gaps, totals.discrepancy) == (0, 0, 0)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".h5", ".nxs") and "_" in path.name]
    seen = 0
    for path in files:
        assert verify_segment(path, None).level >= 1
        done = subprocess.run([sys.executable, ROOT / "tests/compat/read_everything.py", path], capture_output=True, text=True, check=True)
        read = json.loads(done.stdout)
        with h5py.File(path) as file:
            node = file["/entry/instrument/camera/image/data"]
            numbers = file["/entry/instrument/camera/image/time_arrival"].shape[0]
            assert node.shape[0] == numbers
            first = seen + 1
            for row in range(numbers):
                seen += 1
                wire, payload, data = sent[seen]
                mask, stored = node.id.read_direct_chunk((row, 0, 0))
                if wire == "jpeg":
                    assert node.id.get_create_plist().get_filter(1)[0] == 32015, "unpacked, and packed anew as the configuration says"
                    assert data.shape == node.shape[1:]
                    continue
                assert node.id.get_create_plist().get_filter(0)[0] == STORED_AS[wire]
                assert mask == 0
                assert stored.endswith(payload), "not a byte of what the camera packed was changed"
            expected = np.stack([sent[n][2] for n in range(first, seen + 1)])
            shape, dtype, digest = read["/entry/instrument/camera/image/data"]
            assert (tuple(shape), dtype) == (expected.shape, expected.dtype.str)
            if sent[seen][0] != "jpeg":
                assert digest == hashlib.sha256(expected.tobytes()).hexdigest()
    assert seen == len(sent)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("how", PACKERS)
def test_every_packing_is_unpacked_by_our_own_reader(how: str, dtype: str) -> None:
    wire, pack = PACKERS[how]
    data = np.random.default_rng(2).poisson(2, (45, 71)).astype(dtype)
    image, codec = packed_or_plain(wire, np.frombuffer(pack(data), np.uint8), data.shape, data.dtype)
    assert isinstance(image, Packed)
    assert codec is not None
    assert decoder(codec).decode(image.stored, 0, data.nbytes, data.itemsize) == data.tobytes()


@pytest.mark.parametrize("how", PACKERS)
def test_a_payload_that_is_cut_or_of_another_size_is_refused_or_does_not_decode(how: str) -> None:
    wire, pack = PACKERS[how]
    data = np.random.default_rng(3).poisson(2, (45, 71)).astype("<u2")
    payload = pack(data)
    for broken, shape in ((payload[:-1], data.shape), (payload[:9], data.shape), (b"", data.shape), (payload, (45, 70))):
        try:
            image, codec = packed_or_plain(wire, np.frombuffer(broken, np.uint8), shape, data.dtype)
        except ValueError:
            continue
        assert wire in ("lz4", "zlib", "blosc"), "the others say how long they are"
        assert isinstance(image, Packed)
        assert codec is not None
        with pytest.raises(Exception, match="does not decode"):
            decoder(codec).decode(image.stored, 0, int(np.prod(shape)) * 2, 2)


def test_an_lz4_block_as_long_as_its_image_is_unpacked_since_the_filter_would_take_it_for_pixels() -> None:
    rng = np.random.default_rng(4)
    found = None
    for zeros in range(4, 200):
        raw = np.concatenate([np.zeros(zeros, np.uint8), rng.integers(0, 256, 4000, np.uint8)])
        packed = lz4(raw)
        if len(packed) == len(raw):
            found = raw, packed
            break
    assert found is not None
    raw, packed = found
    image, codec = packed_or_plain("lz4", np.frombuffer(packed, np.uint8), (1, len(raw)), np.dtype("u1"))
    assert codec is None
    assert isinstance(image, np.ndarray)
    assert image.tobytes() == raw.tobytes()


@pytest.mark.parametrize("zeros", [0, 1, 7, 300, 5000])
def test_our_lz4_reader_agrees_with_the_library(zeros: int) -> None:
    raw = np.random.default_rng(zeros).integers(0, 3, 3000, np.uint8)
    raw[:zeros] = 0
    assert unpack_lz4(lz4(raw), len(raw)) == raw.tobytes()
    for broken in (lz4(raw)[:-3], lz4(raw) + b"\xf0", b"\x00\x00\x00"):
        with pytest.raises(ValueError, match="lz4 data"):
            unpack_lz4(broken, len(raw))


def test_a_jpeg_of_another_size_is_refused() -> None:
    grey = np.zeros((8, 16), np.uint8)
    payload = np.frombuffer(jpeg(grey), np.uint8)
    assert isinstance(packed_or_plain("jpeg", payload, (8, 16), grey.dtype)[0], np.ndarray)
    for shape, dtype in (((16, 8), "u1"), ((8, 16), "<u2"), ((8, 16, 3), "u1")):
        with pytest.raises(ValueError, match="does not fit the dimensions"):
            packed_or_plain("jpeg", payload, shape, np.dtype(dtype))
    with pytest.raises(ValueError, match="jpeg data cannot be unpacked"):
        packed_or_plain("jpeg", payload[:40], (8, 16), grey.dtype)
