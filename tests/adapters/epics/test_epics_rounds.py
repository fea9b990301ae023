"""The thread that empties the queues of PV Access subscriptions."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from adapters.epics.rounds import Rounds


class Filled:
    """A queue of so many updates, of which ``at_once`` are taken in a round."""

    def __init__(self, name: str, updates: int, at_once: int, taken: Callable[[str, int], None]) -> None:
        self.name, self.left, self.at_once, self.taken = name, updates, at_once, taken

    def drain(self) -> bool:
        for _ in range(min(self.left, self.at_once)):
            self.left -= 1
            self.taken(self.name, self.left)
        return self.left > 0


def test_a_queue_is_emptied_in_order_and_others_have_their_turn() -> None:
    taken: list[tuple[str, int]] = []
    over = threading.Event()

    def take(name: str, left: int) -> None:
        taken.append((name, left))
        if len(taken) == 8:
            over.set()

    rounds = Rounds("test pva")
    queues = [Filled(name, 4, 2, take) for name in "ab"]
    for queue in queues:
        rounds.visit(queue)
    assert over.wait(10)
    rounds.stop()
    for name in "ab":
        assert [left for found, left in taken if found == name] == [3, 2, 1, 0]
    last_of_the_first_round = max(taken.index(("a", 2)), taken.index(("b", 2)))
    assert last_of_the_first_round < min(taken.index(("a", 1)), taken.index(("b", 1)))


def test_a_queue_that_fills_while_the_thread_rests_is_emptied() -> None:
    rounds = Rounds("test pva")
    for _ in range(20):
        first, second = threading.Event(), threading.Event()
        rounds.visit(Filled("first", 1, 1, lambda *_, event=first: event.set()))
        assert first.wait(10)
        rounds.visit(Filled("second", 1, 1, lambda *_, event=second: event.set()))  # the thread is between its round and its rest
        assert second.wait(10)
    rounds.stop()


def test_all_is_done_by_one_thread_and_what_filled_before_the_end_is_emptied() -> None:
    threads: set[int] = set()
    rounds = Rounds("test pva")
    queues = [Filled("one", 1, 1, lambda *_: threads.add(threading.get_ident())) for _ in range(1000)]
    for queue in queues:
        rounds.visit(queue)
    rounds.stop()
    assert not any(queue.left for queue in queues)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_callback_that_fails_is_logged_and_what_waits_behind_it_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    def take(_: str, left: int) -> None:
        if left == 1:
            raise ValueError("what the server sent")
        if left == 0:
            over.set()

    rounds = Rounds("test pva")
    rounds.visit(Filled("one", 3, 3, take))
    assert over.wait(10)
    rounds.stop()
    assert "what the server sent" in caplog.text
    caplog.clear()


def test_what_filled_while_the_thread_rests_is_emptied_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    resting, goes_on = threading.Event(), threading.Event()

    def rest(_: float) -> None:
        resting.set()
        assert goes_on.wait(10)

    monkeypatch.setattr("adapters.epics.rounds.time.sleep", rest)
    rounds = Rounds("test pva")
    taken: list[int] = []
    rounds.visit(Filled("first", 1, 1, lambda *_: None))
    assert resting.wait(10)
    rounds.visit(Filled("second", 1, 1, lambda _, left: taken.append(left)))
    stopping = threading.Thread(target=rounds.stop)
    stopping.start()
    while not rounds._ends:
        pass
    goes_on.set()
    stopping.join(10)
    assert taken == [0]
