"""Records ten frames and ten rows whenever it is told, then closes. Run as a program, under a clock that somebody sets."""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))
import conftest as kit


def main(folder: Path, agent: str, key: str) -> None:
    facility = kit.Facility(bytes.fromhex(agent), Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)))
    run = kit.Rig(folder / "000001", facility)
    frames, mass = run.recording.frames(kit.CAMERA), run.recording.rows(kit.BALANCE)
    first = 1
    for line in sys.stdin:
        if line != "more\n":
            break
        for number in range(first, first + 10):
            assert frames.offer(kit.frame(number))
            mass.put_now(kit.rows(number))
        first += 10
        run.durable()
        print("durable", flush=True)
    for closed in run.close():
        print(closed.path, flush=True)
    run.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
