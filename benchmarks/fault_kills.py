"""Workers that are killed under load: do clients with the shipped retry policy see an error, and how long is a gap?

`engine.client.Client` in several threads, each asking at times drawn beforehand. A worker is killed (SIGKILL) every
second, but never before all are back: with nobody left to answer no policy helps. Checked by
tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.fault_setting import Rows, Setting, asked_of_small, percentiles
from benchmarks.load import arrivals
from benchmarks.pinned_servers import on_core
from benchmarks.watched_server import WatchedServer, watched
from engine.client import Client
from engine.errors import ClientError

_THREADS = 8
_RATE = 400.0
"""Calls a second of all threads: little for one worker, so that what shows is the fault."""
_EVERY_SECONDS = 1.0
_POLL_SECONDS = 0.05
_BACK_SECONDS = 120.0


class NotBack(Exception):
    """A worker that was killed was not started again in time."""


@dataclass
class _Asked:
    """What one thread saw: (due, answered) of good answers, and errors."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def kill_rows(setting: Setting, folder: Path, n_kills: int) -> Rows:
    """One row for as long a time without kills, one with them."""
    asked = asked_of_small(setting, folder)
    flags = ("--workers", "2")
    with watched(setting.cores.server, folder, setting.transport, *flags) as server, on_core(setting.cores.load):
        for measured, kills in (("steady", 0), ("kills", n_kills)):
            before = server.metrics()
            load = _Load(server.address, asked.ids)
            pauses = _kill(server, kills) if kills else _wait(setting.seconds)
            took, n_threads = load.end()
            after = server.metrics()
            ends = np.sort(np.array([end for each in took for _, end in each.answered]))
            times = np.array([end - due for each in took for due, end in each.answered])
            errors = Counter(error for each in took for error in each.errors)
            yield {
                "mode": "kills",
                "measured": measured,
                "transport": setting.transport,
                "workers": 2,
                "kills": kills,
                "calls": len(times) + errors.total(),
                "errors": dict(errors),
                "n_errors": errors.total(),
                "longest_gap_ms": float(np.diff(ends).max()) * 1e3,
                **percentiles(times, p50_ms=50, p99_ms=99, p999_ms=99.9, max_ms=100),
                "back_after_seconds": pauses,
                "threads": n_threads,
                "restarts": after.sum("nearcart_worker_restarts_total") - before.sum("nearcart_worker_restarts_total"),
                "workers_after": after.sum("nearcart_workers"),
            }


class _Load:
    """Threads that ask from now on until the end."""

    def __init__(self, address: str, user_ids: Sequence[str]) -> None:
        self._client = Client(address)
        self._stopped = threading.Event()
        self._seen = [_Asked() for _ in range(_THREADS)]
        self._threads = [
            threading.Thread(target=self._ask, args=(seen, user_ids, place)) for place, seen in enumerate(self._seen)
        ]
        for each in self._threads:
            each.start()

    def end(self) -> tuple[list[_Asked], int]:
        self._stopped.set()
        for each in self._threads:
            each.join()
        self._client.close()
        return self._seen, len(self._threads)

    def _ask(self, seen: _Asked, user_ids: Sequence[str], place: int) -> None:
        generator = np.random.default_rng(place)
        began = time.perf_counter()
        while not self._stopped.is_set():
            for at in arrivals(generator, _RATE / _THREADS, 10.0).tolist():
                if self._stopped.wait(max(0.0, began + at - time.perf_counter())):
                    return
                due = max(began + at, began)
                try:
                    self._client.recommend_for_user(user_ids[int(generator.integers(len(user_ids)))])
                except ClientError as error:
                    seen.errors.append(str(error))
                else:
                    seen.answered.append((due, time.perf_counter()))
            began += 10.0


def _wait(seconds: float) -> list[float]:
    time.sleep(seconds)
    return []


def _kill(server: WatchedServer, n: int) -> list[float]:
    """Kill workers in turn; the seconds until each was back."""
    workers = server.worker_pids()
    took: list[float] = []
    for i in range(n):
        began = time.perf_counter()
        victim = workers[i % len(workers)]
        os.kill(victim, signal.SIGKILL)
        n_restarts = server.metrics().sum("nearcart_worker_restarts_total")
        while True:
            metrics = server.metrics()
            now = server.worker_pids()
            if metrics.sum("nearcart_workers") == len(workers) and victim not in now and len(now) == len(workers):
                break
            if time.perf_counter() > began + _BACK_SECONDS:
                raise NotBack(
                    f"{len(now)} of {len(workers)} workers after {_BACK_SECONDS:g} s, {n_restarts:g} restarts"
                )
            time.sleep(_POLL_SECONDS)
        took.append(time.perf_counter() - began)
        new = [pid for pid in now if pid not in workers]
        workers[i % len(workers)] = new[0]
        time.sleep(max(0.0, _EVERY_SECONDS - took[-1]))
    return took
