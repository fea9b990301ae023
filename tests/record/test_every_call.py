"""One history of the recorder, made to fail at each of its calls in turn: errors, short writes, kills and power failures.

The history is the same every time: a run with a camera, a balance and vendor files, which rolls, closes and was recovered before.
"""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.storage.faults import Crashed, Fault
from edge_agent.storage.memory import Memory
from tests.record.bench import ROOT, Bench

HDF5_FAST = 1000
"""HDF5 writes hundreds of times, mostly a few bytes of its own tables: in `make test` every so many of these are met."""


def history(bench: Bench) -> None:
    bench.frame()
    bench.rows(40)
    bench.file(700)
    bench.commit(sign=True)
    bench.frame(skip=2)
    bench.refuse(2)
    bench.rows(1100)
    bench.commit()
    bench.roll(0)
    bench.restart(1)
    bench.frame()
    bench.commit(sign=True)
    bench.rows(3)
    bench.tick()
    bench.close()


def calls(folder: Path) -> list[str]:
    """The calls of a history in which nothing fails."""
    bench = Bench(Memory(ROOT), folder)
    history(bench)
    bench.judge(whole=True)
    return [kind for kind, _ in bench.disk.calls]


def play(folder: Path, fault: Fault, *, power: bool, chance: random.Random) -> None:
    bench = Bench(Memory(ROOT), folder, fault)
    crashed = False
    try:
        history(bench)
    except Crashed:
        crashed = True
        bench.die(chance, power=power)
        bench.frame()
        bench.rows(2)
    bench.disk.fault = None
    bench.judge(whole=not crashed)
    bench._bury()


def sites(kinds: list[str], hdf5: int) -> list[int]:
    """Numbers of the calls to meet: all but HDF5's, and every ``hdf5``-th of its own."""
    return [n for n, kind in enumerate(kinds, 1) if kind != "write_at" or n % hdf5 == 0]


def sweep(folder: Path, *, hdf5: int, fault: Fault, power: bool = False, third: int | None = None) -> None:
    """Play the history once for each site; ``fault`` is of call 0, ``power`` says whether a crash is one of the power.

    ``third`` 0, 1 or 2: at every third site only. In `make test` each fault has another third, so each call is met by one of them;
    `make test-slow` has every fault at every call.
    """
    failures = []
    for n in sites(calls(folder), hdf5)[third or 0 :: 1 if third is None else 3]:
        try:
            play(folder, replace(fault, at=n), power=power, chance=random.Random(n))
        except Exception as error:
            failures.append(f"{fault} {n}, {'power' if power else 'kill'}: {type(error).__name__}: {error}"[:300])
    assert failures == []


def test_an_io_error_at_any_call_of_a_reference_run_loses_nothing(tmp_path: Path) -> None:
    sweep(tmp_path, hdf5=HDF5_FAST, fault=Fault(0, errno.EIO), third=0)


def test_a_disk_that_is_full_at_any_call_of_a_reference_run_loses_nothing(tmp_path: Path) -> None:
    sweep(tmp_path, hdf5=HDF5_FAST, fault=Fault(0, errno.ENOSPC, times=3), third=1)


def test_a_power_failure_at_any_call_of_a_reference_run_loses_nothing_durable(tmp_path: Path) -> None:
    sweep(tmp_path, hdf5=HDF5_FAST, fault=Fault(0), power=True, third=2)


@pytest.mark.slow(40)
@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_the_end_at_any_call_and_at_writes_of_hdf5_loses_nothing_durable(tmp_path: Path, power: bool, after: bool) -> None:
    sweep(tmp_path, hdf5=10, fault=Fault(0, after=after), power=power)


@pytest.mark.slow(40)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("times", [1, 7])
def test_an_error_at_any_call_and_at_writes_of_hdf5_loses_nothing(tmp_path: Path, number: int, times: int) -> None:
    sweep(tmp_path, hdf5=10, fault=Fault(0, number, times=times))
