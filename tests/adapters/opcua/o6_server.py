"""A server of o6 (open62541), started in the environment of its own: ``python o6_server.py PORT``. It prints ``ready`` and ends when its input does.

o6 without a key ends its process after ten minutes, so a test of it is short.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
import o6


def main() -> None:
    """Serve a counter that rises every 20 ms, an array and a text."""
    server = o6.Server(port=int(sys.argv[1]))
    server.addVariable("Counter", server.objectsNode, o6.Int32(0), nodeId="ns=1;s=Counter")
    server.addVariable("Spectrum", server.objectsNode, np.arange(1000, dtype=np.float64), nodeId="ns=1;s=Spectrum")
    server.addVariable("Note", server.objectsNode, "open62541", nodeId="ns=1;s=Note")
    server.start()
    print("ready", flush=True)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    count = 0
    while not over.wait(0.02):
        count += 1
        server.write("ns=1;s=Counter", o6.Int32(count))
    server.stop()


if __name__ == "__main__":
    main()
