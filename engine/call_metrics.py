"""What a worker counts of its calls: plain numbers behind one lock. engine.server_metrics exports them.

A histogram of prometheus-client takes microseconds to observe; an answer takes fifty. Here a duration is entered by the
length of its binary number, so bounds are powers of two. Kept honest by tests/test_calls.py.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.methods import Outcome

MICROSECOND_BITS = 25
"""Durations from 2^24 microseconds, 17 seconds, share the last bucket."""
COUNT_BITS = 11
"""Batches from 1,024 queries share the last bucket."""
STAGES = ("wait", "read", "search", "write")
"""Of a call: in the queue; reading and checking the message; encoding the query, filters and search; serializing."""


class Histogram:
    """How many values had binary numbers of each length, and their sum. Not thread-safe."""

    def __init__(self, bits: int) -> None:
        self.buckets = [0] * bits
        self.sum = 0
        self._last = bits - 1

    def add(self, value: int, times: int = 1) -> None:
        """Enter a whole number of at least 0."""
        self.buckets[min(value.bit_length(), self._last)] += times
        self.sum += value * times

    def figures(self) -> dict[str, Any]:
        """In JSON's values."""
        return {"buckets": list(self.buckets), "sum": self.sum}


class CallMetrics:
    """Of all calls since the start. Thread-safe."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """By method, without the service's name, and name of the status."""
        self.refused: Counter[str] = Counter()
        """By the reason, before anything of the call was read."""
        self.seconds: dict[str, Histogram] = {}
        """By method: microseconds from arrival to answer."""
        self.stages = {stage: Histogram(MICROSECOND_BITS) for stage in STAGES}
        self.batches = Histogram(COUNT_BITS)
        self._lock = threading.Lock()

    def answered(
        self, method: str, outcomes: Sequence[Outcome], arrived: Sequence[float], started: float, ended: float
    ) -> None:
        """Calls of one method that came at these times and were answered together."""
        with self._lock:
            histogram = self.seconds.get(method)
            if histogram is None:
                histogram = self.seconds[method] = Histogram(MICROSECOND_BITS)
            waits = self.stages["wait"]
            for outcome, at in zip(outcomes, arrived, strict=True):
                self.calls[method, "OK" if isinstance(outcome, bytes) else outcome.code.name] += 1
                histogram.add(int((ended - at) * 1e6))
                waits.add(max(0, int((started - at) * 1e6)))
            self.batches.add(len(outcomes))

    def figures(self) -> dict[str, Any]:
        """All of it in JSON's values."""
        with self._lock:
            return {
                "calls": [[method, code, n] for (method, code), n in self.calls.items()],
                "refused": dict(self.refused),
                "seconds": {method: each.figures() for method, each in self.seconds.items()},
                "stages": {stage: each.figures() for stage, each in self.stages.items()},
                "batches": self.batches.figures(),
            }

    def refuse(self, method: str, code: str, reason: str) -> None:
        """A call that was refused on its arrival."""
        with self._lock:
            self.calls[method, code] += 1
            self.refused[reason] += 1

    def staged(self, begun: float, read: float, searched: float, written: float, calls: int = 1) -> None:
        """When each stage of calls that were answered together ended, by one clock in seconds."""
        with self._lock:
            for stage, start, end in (
                ("read", begun, read),
                ("search", read, searched),
                ("write", searched, written),
            ):
                self.stages[stage].add(int((end - start) * 1e6), calls)
