"""The independent verifier, ``tools/verify_hsc1.py``, asked as often as a test likes.

`ask` is what its command line answers, from a fork of one process that has loaded nothing but the tool: loading takes half a second, and there
are hundreds of questions. A hostile file that ends the process ends only the fork.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

TOOL = Path(__file__).parents[1] / "tools" / "verify_hsc1.py"
_FORKING = """
import importlib.util, json, os, sys, traceback

spec = importlib.util.spec_from_file_location("verify_hsc1", sys.argv[1])
tool = sys.modules["verify_hsc1"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
for line in sys.stdin:
    arguments, out, err = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in (1, out), (2, err):
            os.dup2(os.open(path, os.O_WRONLY | os.O_TRUNC), number)
        try:
            code = tool.main(arguments)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


_TURN = threading.Lock()


@cache
def module() -> ModuleType:
    """The tool as a module, for its functions."""
    spec = importlib.util.spec_from_file_location("verify_hsc1", TOOL)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@cache
def _forking() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _FORKING, str(TOOL)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``python verify_hsc1.py ARGUMENTS`` says, by its exit code and its two outputs."""
    told = [str(argument) for argument in arguments]
    with _TURN, tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        process = _forking()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([told, out.name, err.name]) + "\n")
        process.stdin.flush()
        return subprocess.CompletedProcess(told, int(process.stdout.readline()), out.read(), err.read())


def judged(*arguments: str | Path) -> dict[str, Any]:
    """What it says of some paths, as its JSON; it may refuse them, and must not fail."""
    done = ask("--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def item(*arguments: str | Path) -> dict[str, Any]:
    """What it says of one path."""
    (found,) = judged(*arguments)["items"]
    return dict(found)
