"""A call's way through a worker, whichever transport brought it: let in, answered, counted.

Refusing must be cheap, or an overloaded server spends its time on it. So whoever is too many is refused before his
message is read, with a status made once; and whatever can no longer be in time is not computed. Kept honest by
tests/test_calls.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.call_metrics import CallMetrics
from engine.errors import AccessError, Forbidden, Unauthenticated
from engine.methods import Answerer, Outcome
from engine.statuses import OVERLOADED, STOPPING, TOO_LATE, Refusal, overloaded, refusal_of

Metadata = Iterable[tuple[str, str | bytes]]
Guard = Callable[[Metadata], None]
"""Raises AccessError for a call that may not come in."""
_REASONS: dict[type[AccessError], str] = {Unauthenticated: "unauthenticated", Forbidden: "forbidden"}
_RETRY_SECONDS = 0.1
_STOPPING = overloaded(STOPPING, "the server is stopping: ask another one", 0.0)
_SMOOTHING = 0.05
"""Share of the newest answer in the mean time of one."""
_DEVIATIONS = 4.0
"""Mean deviations above the mean time that an answer is given: with none, in an overload every other answer that was
computed came just too late, and goodput was half of the peak (benchmarks.faults --only overload)."""


class Calls:
    """The methods of a service and the calls of them that are under way, `most` at a time, waiting ones included.

    Thread-safe. `concurrency` are answered at once. `guard` looks at the metadata of each call, before all else.
    """

    def __init__(
        self,
        methods: Mapping[str, Answerer],
        *,
        most: int = 1024,
        concurrency: int = 1,
        guard: Guard | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.methods = dict(methods)
        self.metrics = CallMetrics()
        self.in_flight = 0
        self.clock = clock
        self._most, self._concurrency, self._guard = most, concurrency, guard
        self._names = {path: path.rpartition("/")[2] for path in self.methods}
        self._seconds = dict.fromkeys(self.methods, 0.0)
        self._deviations = dict.fromkeys(self.methods, 0.0)
        self._closed = False
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._overloaded = overloaded(
            OVERLOADED, f"{most} calls are under way: try again soon, or elsewhere", _RETRY_SECONDS
        )
        self._too_late = overloaded(TOO_LATE, "no answer is possible within the call's deadline", _RETRY_SECONDS)

    def enter(self, path: str, metadata: Metadata = (), seconds_left: float | None = None) -> Refusal | None:
        """Let a call in, which is then to `leave`, or say why not. `seconds_left` are those until its deadline."""
        if self._guard is not None:
            try:
                self._guard(metadata)
            except AccessError as error:
                return self._refused(path, refusal_of(error, path), _REASONS[type(error)])
        with self._lock:
            if self._closed:
                return _STOPPING
            if self.in_flight >= self._most:
                refusal, reason = self._overloaded, "overloaded"
            elif seconds_left is not None and seconds_left < self.seconds_expected(path):
                refusal, reason = self._too_late, "expired"
            else:
                self.in_flight += 1
                return None
        return self._refused(path, refusal, reason)

    def leave(self, n: int = 1) -> None:
        """So many calls are over."""
        with self._lock:
            self.in_flight -= n
            if self._closed and self.in_flight == 0:
                self._idle.notify_all()

    def close(self) -> None:
        """Let nobody in any more."""
        with self._lock:
            self._closed = True

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait, after `close`, until the calls under way are over, but not for ever; says whether they are."""
        with self._lock:
            return self._idle.wait_for(lambda: self.in_flight == 0, seconds)

    def answer(self, path: str, payloads: Sequence[bytes], arrived: Sequence[float]) -> Sequence[Outcome]:
        """Answer calls of one method that arrived at these times of the clock."""
        started = self.clock()
        outcomes = self.methods[path](payloads)
        ended = self.clock()
        difference = (ended - started) / len(payloads) - self._seconds[path]
        self._seconds[path] += _SMOOTHING * difference
        self._deviations[path] += _SMOOTHING * (abs(difference) - self._deviations[path])
        self.metrics.answered(self._names[path], outcomes, arrived, started, ended)
        return outcomes

    def figures(self) -> dict[str, Any]:
        """What was counted, in JSON's values."""
        return {**self.metrics.figures(), "in_flight": self.in_flight}

    def late(self, path: str) -> Refusal:
        """For a call whose deadline passed, or will have, before it could be answered."""
        return self._refused(path, self._too_late, "expired")

    def seconds_of(self, path: str) -> float:
        """What an answer of this method takes, about."""
        return self._seconds[path]

    def seconds_needed(self, path: str) -> float:
        """What is to be left of a deadline, so that an answer of this method probably keeps it."""
        return self._seconds[path] + _DEVIATIONS * self._deviations[path]

    def seconds_expected(self, path: str) -> float:
        """What is to be left for a call that comes now, behind those that are under way."""
        return self.seconds_needed(path) + self._seconds[path] * self.in_flight / self._concurrency

    def _refused(self, path: str, refusal: Refusal, reason: str) -> Refusal:
        self.metrics.refuse(self._names[path], refusal.code.name, reason)
        return refusal
