"""The pool reuses memory, stays below its limit, and makes callers wait instead of growing."""

from __future__ import annotations

import mmap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_agent.codec import Buffers, BuffersExhausted

PAGE = mmap.PAGESIZE


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_a_lease_is_writable_page_aligned_and_of_the_size_asked_for() -> None:
    with Buffers(2**20).take(5000) as lease:
        assert len(lease.view) == 5000
        assert not lease.view.readonly
        assert address(lease.view) % PAGE == 0


def test_a_buffer_that_was_given_back_is_lent_again() -> None:
    pool = Buffers(2**20)
    first = pool.take(5000)
    where = address(first.view)
    first.release()
    with pool.take(6000) as second:
        assert address(second.view) == where
    assert pool.held == 2 * PAGE


def test_what_fills_a_quarter_of_a_buffer_moves_to_one_that_fits() -> None:
    pool = Buffers(16 * PAGE)
    large = pool.take(8 * PAGE)
    large.view[:] = bytes(range(256)) * (8 * PAGE // 256)
    small = large.shrunk(2 * PAGE)
    assert small is not None
    assert bytes(small.view) == bytes(range(256)) * (2 * PAGE // 256)
    assert len(large.view) == 0, "it was given back"
    small.release()
    large = pool.take(8 * PAGE)
    assert large.shrunk(2 * PAGE + 1) is None, "too little is spared"
    others = [pool.take(PAGE) for _ in range(8)]
    assert large.shrunk(PAGE) is None, "no buffer is free"
    assert len(large.view) == 8 * PAGE
    for lease in (*others, large):
        lease.release()
    assert pool.held <= pool.limit


def test_idle_buffers_of_another_size_make_room_for_what_is_needed() -> None:
    pool = Buffers(4 * PAGE)
    for lease in [pool.take(PAGE) for _ in range(4)]:
        lease.release()
    with pool.take(4 * PAGE) as lease:
        assert len(lease.view) == 4 * PAGE
    assert pool.held == 4 * PAGE


def test_idle_buffers_beyond_what_is_kept_are_given_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.codec.buffers.IDLE", 2 * PAGE)
    pool = Buffers(8 * PAGE)
    for lease in [pool.take(PAGE) for _ in range(5)]:
        lease.release()
    assert pool.held == 2 * PAGE
    pool.take(4 * PAGE).release()
    assert pool.held == 2 * PAGE, "it would be more than is kept"
    leases = [pool.take(PAGE) for _ in range(2)]
    pool.take(4 * PAGE).release()
    assert pool.held == 6 * PAGE, "one is kept, however large"
    for lease in leases:
        lease.release()
    assert pool.held == 4 * PAGE


def test_a_full_pool_says_so_instead_of_growing() -> None:
    pool = Buffers(2 * PAGE)
    with pool.take(2 * PAGE):
        with pytest.raises(BuffersExhausted, match=r"No buffer of \d+ bytes[\s\S]*in use[\s\S]*raise the limit"):
            pool.take(1, timeout=0.01)
    with pool.take(1, timeout=0):
        assert pool.held == PAGE


def test_a_waiting_caller_gets_the_buffer_that_another_thread_gives_back() -> None:
    pool = Buffers(PAGE)
    held = pool.take(PAGE)
    where = address(held.view)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.take, PAGE, 30)
        held.release()
        assert address(waiting.result(30).view) == where


def test_many_threads_never_hold_more_than_the_limit_nor_share_a_buffer() -> None:
    pool = Buffers(4 * PAGE)
    start = threading.Barrier(8)

    def work(mark: int) -> bool:
        start.wait(30)
        for _ in range(200):
            with pool.take(PAGE, 30) as lease:
                lease.view[:] = bytes([mark]) * PAGE
                if pool.held > pool.limit or lease.view.tobytes() != bytes([mark]) * PAGE:
                    return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_releasing_twice_is_an_error_and_does_not_lend_the_buffer_twice() -> None:
    pool = Buffers(2 * PAGE)
    lease = pool.take(PAGE)
    lease.release()
    with pytest.raises(RuntimeError, match="already given back"):
        lease.release()
    with pool.take(PAGE) as one, pool.take(PAGE) as two:
        assert address(one.view) != address(two.view)


@pytest.mark.parametrize(("nbytes", "words"), [(0, "at least 1"), (-5, "at least 1"), (2**20 + 1, "raise the limit")])
def test_sizes_that_can_never_fit_are_refused_at_once(nbytes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Buffers(2**20).take(nbytes)
