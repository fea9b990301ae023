"""The thread of p4p's callbacks."""

from __future__ import annotations

import threading

import pytest

from adapters.epics.callbacks import Callbacks


def test_jobs_of_one_thread_are_done_in_their_order_and_all_before_the_end() -> None:
    done: list[int] = []
    callbacks = Callbacks("test pva")
    for n in range(10_000):
        callbacks.push(lambda n=n: done.append(n))
    callbacks.stop()
    assert done == list(range(10_000))


def test_a_job_that_comes_while_the_thread_rests_is_done() -> None:
    callbacks = Callbacks("test pva")
    for _ in range(20):
        first, second = threading.Event(), threading.Event()
        callbacks.push(first.set)
        assert first.wait(10)
        callbacks.push_wait(second.set)  # the thread is between its round and its rest
        assert second.wait(10)
    callbacks.stop()


def test_jobs_may_push_jobs_and_all_are_done_by_one_thread() -> None:
    threads: set[int] = set()
    over = threading.Event()
    callbacks = Callbacks("test pva")

    def again(left: int) -> None:
        threads.add(threading.get_ident())
        if left:
            callbacks.push(lambda: again(left - 1))
        else:
            over.set()

    callbacks.push(lambda: again(100))
    assert over.wait(10)
    callbacks.stop()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_job_that_fails_is_logged_and_the_next_ones_are_done(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fails() -> None:
        raise ValueError("what the server sent")

    callbacks = Callbacks("test pva")
    callbacks.push(fails)
    callbacks.push(done.set)
    callbacks.stop()
    assert done.is_set()
    assert "what the server sent" in caplog.text
    caplog.clear()
