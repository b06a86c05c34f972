"""Work that threads share."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

from engine.processor import resolved_threads
from trainer import threads
from trainer.threads import Threads


@pytest.mark.parametrize(("count", "n"), [(1, 5), (2, 0), (3, 2), (4, 1000)])
def test_every_piece_is_done_once(count, n):
    done = []
    with Threads(count) as pool:
        pool.each(done.append, n)
    assert sorted(done) == list(range(n))


def test_what_a_piece_raises_is_raised_and_ends_the_rest():
    done = []

    def work(number):
        if number == 3:
            raise ValueError("three")
        done.append(number)

    with Threads(1) as pool:
        with pytest.raises(ValueError, match="three"):
            pool.each(work, 1000)
        assert done == [0, 1, 2]
        pool.each(done.append, 1)
    assert done == [0, 1, 2, 0]


def test_what_the_one_who_is_told_raises_ends_the_work(monkeypatch):
    begun, may_end = [], threading.Event()

    def piece(number):
        begun.append(number)
        assert may_end.wait(60)

    def interrupt(share):
        raise KeyboardInterrupt

    def wait(futures, *arguments, **options):
        if not arguments:  # the last wait, for the pieces that were begun
            may_end.set()
        return concurrent.futures.wait(futures, *arguments, **options)

    monkeypatch.setattr(threads, "wait", wait)
    with Threads(2) as pool, pytest.raises(KeyboardInterrupt):
        pool.each(piece, 50, interrupt)
    assert len(begun) <= 2


def test_progress_ends_at_the_whole():
    told = []
    with Threads(2) as pool:
        pool.each(lambda number: None, 50, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_no_number_of_threads_means_all_that_may_be_used():
    assert resolved_threads(3) == 3
    assert resolved_threads(0) >= 1
    with Threads(0) as pool:
        assert pool.count == resolved_threads(0)
