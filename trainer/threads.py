"""Threads that share numbered pieces of work, each taken by whichever is free.

A future per piece costs as much as a small piece itself (a half epoch of 800,000 entries took 34 ms with futures and 18
without, 2 threads). Checked by tests/test_threads.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from engine.processor import resolved_threads

_LOOK_SECONDS = 0.1
"""Between looks at how far the work is, while somebody wants to be told."""


class Threads(ThreadPoolExecutor):
    """`count` threads, as resolved_threads says; kernels must release the GIL to run beside each other."""

    def __init__(self, threads: int) -> None:
        self.count = resolved_threads(threads)
        super().__init__(self.count, thread_name_prefix="nearcart")

    def each(self, work: Callable[[int], None], n: int, on_progress: Callable[[float], None] | None = None) -> None:
        """work(0), ..., work(n - 1), in no order that can be relied on; `on_progress` is told the share that is done.

        What a piece or `on_progress` raises is raised here, when the pieces that were begun are done.
        """
        # The next number of an itertools.count is taken under the GIL, so no two threads get the same one.
        numbers, finished, stopped = itertools.count(), [0] * self.count, False

        def take(thread: int) -> None:
            for number in numbers:
                if number >= n or stopped:
                    return
                work(number)
                finished[thread] += 1

        futures = [self.submit(take, thread) for thread in range(min(self.count, n))]
        pending = set(futures)
        try:
            while pending:
                timeout = None if on_progress is None else _LOOK_SECONDS
                done, pending = wait(pending, timeout, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                if on_progress is not None:
                    on_progress(sum(finished) / n)
        finally:
            stopped = True
            wait(futures)
