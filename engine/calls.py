"""A call's way through a worker, whichever transport brought it: let in, answered, counted.

Refusing must be cheap, or an overloaded server spends its time on it. So whoever is too many is refused before his
message is read, with a status made once; and whatever can no longer be in time is not computed. Kept honest by
tests/test_calls.py.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.call_metrics import CallMetrics
from engine.errors import AccessError, Forbidden, Unauthenticated
from engine.methods import Answerer, Outcome
from engine.statuses import OVERLOADED, STOPPING, TOO_LATE, Refusal, overloaded, refusal_of

if TYPE_CHECKING:
    from engine.traces import Traces

Metadata = Iterable[tuple[str, str | bytes]]
Guard = Callable[[Metadata], None]
"""Raises AccessError for a call that may not come in."""
_REASONS: dict[type[AccessError], str] = {Unauthenticated: "unauthenticated", Forbidden: "forbidden"}
_RETRY_SECONDS = 0.1
_STOPPING = overloaded(STOPPING, "the server is stopping: ask another one", 0.0)
_FORGET_SECONDS = 1.0
"""Nothing is too late by the mean of answers that are older: whoever is refused is not measured, so that one slow
moment would refuse calls for ever."""
_SMOOTHING = 0.05
"""Share of the newest answer in the mean time of one."""
_DEVIATIONS = 4.0
"""Mean deviations above the mean time that an answer is given: with none, in an overload every other answer that was
computed came just too late, and goodput was half of the peak."""


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
        metrics: CallMetrics | None = None,
        traces: Traces | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.methods = dict(methods)
        self.metrics = metrics or CallMetrics()
        self.traces = traces
        self.in_flight = 0
        self.clock = clock
        self._most, self._concurrency, self._guard = most, concurrency, guard
        self._names = {path: path.rpartition("/")[2] for path in self.methods}
        self._seconds = dict.fromkeys(self.methods, 0.0)
        self._deviations = dict.fromkeys(self.methods, 0.0)
        self._answered_at = dict.fromkeys(self.methods, -math.inf)
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
                refusal, reason = _STOPPING, "stopping"
            elif self.is_full:
                refusal, reason = self._overloaded, "overloaded"
            elif seconds_left is not None and self.is_too_late(path, seconds_left, self.in_flight / self._concurrency):
                refusal, reason = self._too_late, "expired"
            else:
                self.in_flight += 1
                return None
        return self._refused(path, refusal, reason)

    def stay(self, path: str, seconds_left: float) -> bool:
        """Whether a call that was let in before its deadline was known can be in time; it has left if not."""
        if not self.is_too_late(path, seconds_left, (self.in_flight - 1) / self._concurrency):
            return True
        self.leave()
        return False

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

    def answer(
        self, path: str, payloads: Sequence[bytes], arrived: Sequence[float], parents: Sequence[str] = ()
    ) -> Sequence[Outcome]:
        """Answer calls of one method that arrived at these times of the clock; `parents` are for traces, if any."""
        started = self.clock()
        try:
            outcomes = self.methods[path](payloads)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers get a status
            outcomes = [refusal_of(error, path)] * len(payloads)
        ended = self.clock()
        self._measure(path, started, ended, (ended - started) / len(payloads))
        self.metrics.answered(self._names[path], outcomes, arrived, started, ended)
        if self.traces is not None:
            self.traces.answered(path, outcomes, arrived, parents, started, ended)
        return outcomes

    @property
    def is_full(self) -> bool:
        """Whether nobody else finds a place."""
        return self.in_flight >= self._most

    def figures(self) -> dict[str, Any]:
        """What was counted, in JSON's values."""
        return {**self.metrics.figures(), "in_flight": self.in_flight}

    def late(self, path: str) -> Refusal:
        """For a call whose deadline passed, or will have, before it could be answered."""
        return self._refused(path, self._too_late, "expired")

    def is_too_late(self, path: str, seconds_left: float, before: float = 0.0) -> bool:
        """Whether a call cannot be answered in time after `before` others."""
        if seconds_left <= 0:
            return True
        if seconds_left >= self._seconds[path] * (1 + before) + _DEVIATIONS * self._deviations[path]:
            return False
        return self.clock() - self._answered_at[path] < _FORGET_SECONDS

    def seconds_of(self, path: str) -> float:
        """What an answer of this method takes, about."""
        return self._seconds[path]

    def _refused(self, path: str, refusal: Refusal, reason: str) -> Refusal:
        self.metrics.refuse(self._names[path], refusal.code.name, reason)
        return refusal

    def _measure(self, path: str, started: float, ended: float, seconds: float) -> None:
        mean = self._seconds[path]
        if started - self._answered_at[path] >= _FORGET_SECONDS:
            mean, self._deviations[path] = min(mean, seconds), 0.0
        self._seconds[path] = mean + _SMOOTHING * (seconds - mean)
        self._deviations[path] += _SMOOTHING * (abs(seconds - mean) - self._deviations[path])
        self._answered_at[path] = ended
