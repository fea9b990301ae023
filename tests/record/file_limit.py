"""Short lives of a recorder on the real disk, which takes no more than so many bytes of a file. A program.

    python -m tests.record.file_limit FOLDER STEP

HDF5 writes with its own driver, and the system refuses (``RLIMIT_FSIZE``) until the recorder has felt it; then the disk takes all again. One life, in
a process of its own, for each ``STEP`` bytes of the largest file. Prints one JSON object: what was wrong with each, by size.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from pathlib import Path

from edge_agent.errors import DiskError
from tests.record import conftest as kit

FRAMES = [1, 2, 3]


def life(folder: Path, facility: kit.Facility, limit: int) -> kit.Rig:
    """Frames and rows that nothing is missing of, however often the disk refuses ``limit`` bytes."""
    run = kit.Rig(folder / "000001", facility)

    def taken_again(error: DiskError) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run.errors.append(error)

    run.state.wait_for_disk = taken_again
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    for number in FRAMES:
        frames.offer(kit.frame(number))
        mass.put_now(kit.rows(number * 10, 10))
    run.durable()
    segments = run.close()
    kit.check_signed(segments, facility)
    assert list(kit.recorded_frames(segments)) == FRAMES
    assert kit.recorded_rows(segments) == [n * 0.5 for n in range(10, 40)]
    run.stop()
    return run


def ended(folder: Path, facility: kit.Facility, limit: int) -> str:
    """What was wrong with a life of a child; empty: nothing."""
    log = folder.with_suffix(".log")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT, 0o640), 2)
            code = 0 if life(folder, facility, limit).errors else 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"ended with {code}: {log.read_text()[-2000:]}" if code else ""


def main() -> int:
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    facility = kit.Facility()
    whole = kit.Rig(folder / "whole", facility)
    frames = whole.recording.frames(kit.CAMERA)
    for number in FRAMES:
        frames.offer(kit.frame(number))
    whole.durable()
    size = max(closed.size for closed in whole.close())
    whole.stop()
    wrong = {limit: ended(folder / str(limit), facility, limit) for limit in range(step // 2, size, step)}
    print(json.dumps({"lives": len(wrong), "wrong": {limit: text for limit, text in wrong.items() if text}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
