"""What benchmarks.latency measures in one turn: of a server over the wire, or of the same search in this process.

Each yields rows. Recall in a row is that of the very answers that the row's times belong to, or of as many of them as
are judged. Checked by tests/test_latency_benchmark.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, closed_loop, open_loop
from benchmarks.made_release import AskedUsers, K, rows_of
from benchmarks.pinned_servers import Cores, on_core
from benchmarks.timed_calls import Calls
from engine.queries import UserQuery
from engine.retrieval import Snapshot

BATCH = 64
SHARES = (0.25, 0.5, 0.75, 0.9)
"""Of the rate at saturation, for the open loops."""
FLOOR_SHARES = SHARES[:2]
"""Those whose tails are judged: what the stack and the machine make of them without the server."""
ONE_IN_FLIGHT, SATURATION, BATCHES = "one in flight", "saturation", f"batches of {BATCH}"
_CONNECTIONS, _IN_FLIGHT = 4, 8
_KEPT = 7
"""Every so manieth answer is judged: no divisor of the users, so that all have their turn."""
_MOST_JUDGED = 2_000
Rows = Iterator[dict[str, Any]]
Judge = Callable[[list[int], list[bytes]], float]
"""The recall of answers, to these requests by place."""


@dataclass(frozen=True)
class Times:
    """How long each measurement takes."""

    seconds: float
    warmup_seconds: float

    @property
    def options(self) -> CallOptions:
        return CallOptions(warmup_seconds=self.warmup_seconds, keep_every=_KEPT)


@dataclass(frozen=True)
class WireRounds:
    """A server, by its address; `judge` is None where its answers are made up."""

    address: str
    requests: Sequence[Request]
    judge: Judge | None
    times: Times
    cores: Cores

    def rounds(self, shares: Sequence[float], seed: int) -> Rows:
        """At saturation, one call at a time, and open loops at shares of the saturation that was found just before."""
        saturation = 0.0
        with on_core(self.cores.load):
            for what, connections, in_flight in ((SATURATION, _CONNECTIONS, _IN_FLIGHT), (ONE_IN_FLIGHT, 1, 1)):
                calls = closed_loop(
                    self.address, self.requests, self.times.seconds, connections, in_flight, self.times.options
                )
                saturation = max(saturation, calls.achieved)
                yield {"measured": what, **self.told(calls)}
            for share in shares:
                rate = share * saturation
                calls = open_loop(
                    self.address, self.requests, rate, self.times.seconds, seed, _CONNECTIONS, self.times.options
                )
                yield {"measured": f"open loop at {share:g}", "share": share, **self.told(calls)}

    def batches(self, requests: Sequence[Request], judge: Judge) -> Rows:
        """One connection with two batches in flight, so that the server never waits for the next."""
        with on_core(self.cores.load):
            options = replace(self.times.options, keep_every=1)
            calls = closed_loop(self.address, requests, self.times.seconds, 1, 2, options)
        row = replace(self, judge=judge).told(calls)
        yield {"measured": BATCHES, **row, "queries_a_second": row["achieved"] * BATCH}

    def told(self, calls: Calls) -> dict[str, Any]:
        """The row of a load, with the recall of its answers."""
        places = np.array(sorted(calls.answers), dtype=np.int64)
        judged = places[np.linspace(0, len(places) - 1, min(len(places), _MOST_JUDGED)).astype(int)].tolist()
        answers = [calls.answers[call] for call in judged]
        row = calls.row()
        if row["loop"] == "closed" and row["achieved"]:
            row["us_a_call"] = 1e6 / row["achieved"]
        row["answer_bytes"] = float(np.mean(calls.size[calls.status == 0])) if np.any(calls.status == 0) else 0.0
        if self.judge is not None and answers:
            row |= {"recall": self.judge(calls.asked[judged].tolist(), answers), "answers_judged": len(answers)}
        return row


@dataclass(frozen=True)
class InProcess:
    """The same users' answers without a server: the search alone, and what a server asks of its snapshot."""

    asked: AskedUsers
    snapshot: Snapshot
    times: Times
    cores: Cores

    def rounds(self) -> Rows:
        asked, index = self.asked, self.asked.index
        everybody = [UserQuery(each) for each in asked.ids]
        vectors, excluded = asked.vectors, asked.excluded

        def search(start: int, stop: int) -> Any:
            return index.search(vectors[start:stop], K, excluded[start:stop])

        def recommend(start: int, stop: int) -> Any:
            return self.snapshot.recommend_for_users(everybody[start:stop])

        with on_core(self.cores.server):
            for what, answer, rows_in in (
                ("search", search, lambda found: found[0]),
                ("recommend_for_users", recommend, lambda found: rows_of(found.item_ids)),
            ):
                for size in (1, BATCH):
                    name = what if size == 1 else f"{what} of {size}"
                    yield {"measured": name, **self._timed(answer, rows_in, size)}

    def _timed(
        self, answer: Callable[[int, int], Any], rows_in: Callable[[Any], NDArray[np.integer]], size: int
    ) -> dict[str, Any]:
        """Ask for users in turn, `size` at a time, as long as a measurement takes."""
        n = len(self.asked.ids)
        starts = list(range(0, n - size + 1, size))
        for start in starts[: max(1, 64 // size)]:
            answer(start, start + size)
        seconds: list[float] = []
        found: dict[int, Any] = {}
        until = time.perf_counter() + self.times.seconds
        while time.perf_counter() < until:
            for start in starts:
                began = time.perf_counter()
                answers = answer(start, start + size)
                seconds.append(time.perf_counter() - began)
                found[start] = answers
                if began > until:
                    break
        users = [user for start in found for user in range(start, start + size)]
        median, p99 = np.percentile(np.array(seconds) * 1e3, (50, 99))
        return {
            "loop": "in process",
            "offered": None,
            "achieved": len(seconds) / sum(seconds),
            "queries_a_second": len(seconds) * size / sum(seconds),
            "in_flight_mean": 1.0,
            "calls": len(seconds),
            "p50_ms": float(median),
            "p99_ms": float(p99),
            "us_a_call": sum(seconds) / len(seconds) * 1e6,
            "recall": self.asked.recall(users, [rows_in(each) for answers in found.values() for each in answers]),
            "answers_judged": len(users),
        }
