"""More calls than a server can answer: how many are still answered in time, and what does a refusal cost?

A release whose search cannot prune (items of equal norms), so that one takes milliseconds: that time is measured and in
every row. The load is open, each call has a deadline, and good are only answers within it. Peak is the closed loop's
rate. The server's own counters say how many answers it computed, so that those which came to nobody are known, and how
long the calls waited whose answers it began. What a refusal costs is measured by servers that do nothing else.
Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks import refusing_servers
from benchmarks.bare_servers import PATH
from benchmarks.fault_setting import CONNECTIONS, IN_FLIGHT, Rows, Setting, percentiles, saturation
from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, arrivals, closed_loop, open_loop, timed_loop
from benchmarks.made_catalogue import level_shop
from benchmarks.made_release import AskedUsers, K, publish_shop
from benchmarks.pinned_servers import on_core, serving
from benchmarks.timed_calls import Calls, status_name
from benchmarks.watched_server import Metrics, WatchedServer, watched
from engine.plan import IndexPlan

OFFERED = (0.5, 1.0, 2.0, 5.0)
"""Times the peak."""
DEADLINE_SECONDS = 0.2
SMALL_BOUND = 16
"""A bound on calls in flight that keeps the queue far below the deadline."""
WINDOW_SECONDS = 0.2
_LATE_WAIT_SECONDS = 0.262143
"""The first bound of the histogram of waits beyond the deadline."""
_SIZES = {False: (1_000_000, 64), True: (40_000, 64)}
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
_BURST = 5.0
_STEADY = 0.5


def overload_rows(setting: Setting, folder: Path) -> Rows:
    """Offered loads and a burst, with the bound that a server has and with a small one; then refusals alone."""
    n_items, factors = _SIZES[setting.quick]
    asked = AskedUsers.of(publish_shop(folder, level_shop(n_items, factors), IndexPlan()), 500)
    with on_core(setting.cores.server):
        search_ms = _search_ms(asked, setting.seconds / 2)
    requests = asked.requests()
    for bound in (None, SMALL_BOUND):
        flags = () if bound is None else ("--max-in-flight", str(bound))
        common = {"mode": "overload", "transport": setting.transport, "max_in_flight": bound, "search_ms": search_ms}
        with watched(setting.cores.server, folder, setting.transport, *flags) as server, on_core(setting.cores.load):
            peak = saturation(server.address, requests, 2 * setting.seconds)
            for times in OFFERED:
                row = _offered(server, requests, times * peak, setting)
                yield {**common, "measured": "offered", "peak": peak, "times_peak": times, **row}
            yield {**common, "measured": "burst", "peak": peak, **_burst(server, requests, peak, setting)}
    yield from _refusals(setting)


def _search_ms(asked: AskedUsers, seconds: float) -> float:
    """Median of the search alone, in this process."""
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 2:
        place = len(took) % len(asked.ids)
        began = time.perf_counter()
        asked.index.search(asked.vectors[place : place + 1], K, asked.excluded[place : place + 1])
        took.append(time.perf_counter() - began)
    return float(np.median(took)) * 1e3


def _offered(server: WatchedServer, requests: Sequence[Request], rate: float, setting: Setting) -> dict[str, Any]:
    options = CallOptions(warmup_seconds=setting.seconds / 4, deadline_seconds=DEADLINE_SECONDS)
    before = server.metrics()
    calls = open_loop(server.address, requests, rate, 2 * setting.seconds, 0, CONNECTIONS, options)
    return {**told(calls), **counted(before, server.metrics(), calls)}


def told(calls: Calls) -> dict[str, Any]:
    """What became of the calls that were due while counting."""
    refused = calls.latencies(_EXHAUSTED)
    statuses = Counter(status_name(each) for each in calls.status[calls.counted].tolist())
    seconds = calls.ended - calls.began
    lag = (calls.sent - calls.intended)[calls.counted]
    return {
        "offered": calls.offered,
        "goodput": statuses["OK"] / seconds,
        "statuses": dict(statuses),
        **percentiles(calls.latencies(), p50_ms=50, p99_ms=99),
        **percentiles(refused, refusal_p50_ms=50, refusal_p99_ms=99),
        **percentiles(lag, send_lag_p99_ms=99),
    }


def counted(before: Metrics, after: Metrics, calls: Calls) -> dict[str, Any]:
    """What the server counted meanwhile, beside what the clients saw of all their calls, warm-up included."""
    calls_, refused, waits = "nearcart_calls_total", "nearcart_refused_calls_total", "nearcart_stage_seconds_bucket"
    computed = after.sum(calls_, code="OK") - before.sum(calls_, code="OK")
    late = {
        bound: after.sum(waits, stage="wait", le=bound) - before.sum(waits, stage="wait", le=bound)
        for bound in ("+Inf", str(_LATE_WAIT_SECONDS))
    }
    reasons = set(after.by(refused, "reason"))
    return {
        "computed": computed,
        "computed_in_vain": computed - int(np.sum(calls.status == 0)),
        "begun_after_deadline": late["+Inf"] - late[str(_LATE_WAIT_SECONDS)],
        "refused": {each: after.sum(refused, reason=each) - before.sum(refused, reason=each) for each in reasons},
    }


def _burst(server: WatchedServer, requests: Sequence[Request], peak: float, setting: Setting) -> dict[str, Any]:
    """Half of the peak, then five times the peak, then half again."""
    generator, length = np.random.default_rng(0), max(1.0, setting.seconds)
    due, ends = [], np.cumsum([length, length, 2 * length])
    for begin, end, times in zip((0.0, *ends), ends, (_STEADY, _BURST, _STEADY), strict=False):
        due.append(begin + arrivals(generator, times * peak, end - begin))
    options = CallOptions(deadline_seconds=DEADLINE_SECONDS)
    at = np.concatenate(due)
    calls = timed_loop(server.address, requests, at, len(at) / ends[-1], ends[-1], generator, CONNECTIONS, options)
    good = calls.status == 0
    due_at, took = calls.intended - calls.began, np.where(good, calls.received - calls.intended, np.inf)
    before = took[good & (due_at > length / 4) & (due_at < length)]
    steady = float(np.percentile(before, 99)) if len(before) else math.nan
    return {
        "steady_p99_ms": steady * 1e3,
        "recovered_after_seconds": recovered(due_at, took, 2 * length, 4 * length, 2 * steady),
        "burst_goodput": float(np.sum(good & (due_at >= length) & (due_at < 2 * length))) / length,
    }


def recovered(
    due: NDArray[np.float64], took: NDArray[np.float64], begin: float, end: float, most: float
) -> float | None:
    """Seconds from `begin` until the windows' 99th percentile stays below `most`, None where it never does."""
    starts = np.arange(begin, end - WINDOW_SECONDS / 2, WINDOW_SECONDS)
    slow = [
        start
        for start in starts.tolist()
        if np.any(chosen := (due >= start) & (due < start + WINDOW_SECONDS)) and _p99(took[chosen]) > most
    ]
    if not slow:
        return 0.0
    return None if slow[-1] == starts[-1] else slow[-1] + WINDOW_SECONDS - begin


def _p99(seconds: NDArray[np.float64]) -> float:
    """One of them, because some may be infinite."""
    return float(np.sort(seconds)[math.ceil(0.99 * len(seconds)) - 1])


def _refusals(setting: Setting) -> Rows:
    """What the server's core has to do for one: it does nothing else, as fast as it can."""
    kinds = refusing_servers.KINDS if setting.transport == "grpcio" else refusing_servers.KINDS[:1]
    for kind in kinds:
        command = refusing_servers.command(kind, setting.transport)
        with serving(setting.cores.server, command) as address, on_core(setting.cores.load):
            options = CallOptions(warmup_seconds=setting.seconds / 2)
            request = [Request(PATH, b"0123456789ab")]
            full = closed_loop(address, request, setting.seconds, CONNECTIONS, IN_FLIGHT, options)
            alone = closed_loop(address, request, setting.seconds, 1, 1, options)
        n = int(np.sum(full.counted & (full.status == _EXHAUSTED)))
        yield {
            "mode": "overload",
            "measured": "refusals",
            "kind": kind,
            "transport": setting.transport,
            "us_a_refusal": setting.seconds / n * 1e6,
            **percentiles(alone.latencies(_EXHAUSTED), refusal_p50_ms=50, refusal_p99_ms=99),
            "n_refused": n,
        }
