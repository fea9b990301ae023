"""Fills a real small disk while recording, empties it again, and checks what was recorded; run in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import conftest as kit

from edge_agent.record.series import Limits

SHAPE = (128, 128)


def main(mount: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(mount)], check=True)
    ballast = mount / "somebody-elses"
    ballast.write_bytes(bytes(6 << 20))
    camera = replace(kit.CAMERA, shape=SHAPE)
    run = kit.Rig(mount / "spool" / "000001", kit.Facility(), patient=True, room=2 << 20, frame_limits=Limits(size=1 << 20, min_age=0.0))
    frames = run.recording.frames(camera)
    number, noise = 0, np.random.default_rng(1)
    sent: dict[int, np.ndarray] = {}
    refused: list[int] = []
    while run.recorder._warned < 0:
        number += 1
        assert number < 10_000, "the disk never filled"
        picture = noise.integers(0, 65536, SHAPE).astype("<u2")
        if frames.offer(kit.Frame(picture, number, kit.T0 + number, kit.T0 + number)):
            sent[number] = picture
        else:
            refused.append(number)
        if number % 8 == 0:
            run.recorder.call(lambda: None)
    ballast.unlink()
    run.durable()
    segments = run.close()
    run.stop()
    kit.check_chain(segments)
    kit.check_signed(segments, run.facility)
    found = kit.recorded_frames(segments)
    assert list(found) == sorted(sent), (len(found), len(sent))
    assert all(np.array_equal(found[n], picture) for n, picture in sent.items())
    assert [p.name for p in run.folder.iterdir() if p.suffix != ".h5"] == []
    sys.stdout.write("sound\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
