"""Release swaps under load: does a call fail, is an answer mixed, is anything late, does anything grow?

Two releases of the same users and items with other vectors are promoted in turn through AdminService, while an open
loop asks at half of the saturation. What each release answers to each user is computed beforehand, so every answer is
judged: right is what its own release says, mixed what the other one would have said. "During" is from the call of
PromoteRelease until the check of the files that follows it has ended; the calls due before and after it, as long again,
are the steady ones it is held against. Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from nearcart.v1 import admin_pb2, admin_pb2_grpc
from nearcart.v1 import recommendation_pb2 as wire

from benchmarks.fault_setting import CONNECTIONS, SMALL, Rows, Setting, percentiles, saturation
from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, open_loop
from benchmarks.made_catalogue import made_shop
from benchmarks.made_release import AskedUsers, publish_shop
from benchmarks.pinned_servers import on_core
from benchmarks.timed_calls import Calls, status_name
from benchmarks.watched_server import WatchedServer, watched
from engine.plan import IndexPlan
from engine.queries import UserQuery
from engine.release import Release
from engine.retrieval import Snapshot

SHARE = 0.5
"""Of the saturation."""
_SEEDS = (30, 31)
_ASKED = 500
_MEASUREMENTS = 5
"""A round takes the time of so many."""
_FIRST_SECONDS = 0.3
"""A first guess of what a swap takes; afterwards it is what the swap before took."""
_ADMIN_SECONDS = 120.0
_POLL_SECONDS = 0.02
Expected = Mapping[str, Sequence[tuple[str, ...]]]
"""By release, for each user asked for: item ids."""
Span = tuple[float, float]


def swap_rows(setting: Setting, folder: Path, n_swaps: int, workers: int) -> Rows:
    """A row for each round, a load with a few swaps in it, until there were so many."""
    n_items, factors = SMALL[setting.quick]
    releases = [publish_shop(folder, made_shop(n_items, factors, seed), IndexPlan()) for seed in _SEEDS]
    asked = AskedUsers.of(releases[0], _ASKED)
    expected = {each.release_id: _answers(each, asked.ids) for each in releases}
    flags = ("--workers", str(workers))
    with watched(setting.cores.server, folder, setting.transport, *flags) as server, on_core(setting.cores.load):
        requests = asked.requests()
        rate = SHARE * saturation(server.address, requests, setting.seconds)
        swapper, done, number = _Swapper(server, releases), 0, 0
        while done < n_swaps:
            calls, spans = _round(server, requests, swapper, n_swaps - done, rate, setting, seed=number)
            done, number = done + len(spans), number + 1
            yield {
                "mode": "swaps",
                "transport": setting.transport,
                "workers": workers,
                "offered": rate,
                "round": number,
                "swaps": done,
                "swapped": server.metrics().sum("nearcart_swaps_total", outcome="swapped") - 1,
                "resident_bytes": server.resident_bytes(),
                "swap_seconds": float(np.median([end - begin for begin, end in spans])) if spans else None,
                **times(calls, spans),
                **judge(calls, expected),
            }


def times(calls: Calls, spans: Sequence[Span]) -> dict[str, Any]:
    """Latencies of the calls that were due during a swap, and of the others."""
    during = np.zeros(len(calls.intended), dtype=np.bool_)
    for begin, end in spans:
        during |= (calls.intended >= begin) & (calls.intended < end)
    good, took = calls.counted & (calls.status == 0), calls.received - calls.intended
    lag = (calls.sent - calls.intended)[calls.counted]
    return {
        "calls": int(calls.counted.sum()),
        "calls_during": int((calls.counted & during).sum()),
        **percentiles(took[good & during], p50_during_ms=50, p99_during_ms=99),
        **percentiles(took[good & ~during], p50_steady_ms=50, p99_steady_ms=99),
        **percentiles(lag, send_lag_p99_ms=99),
    }


def judge(calls: Calls, expected: Expected) -> Counter[str]:
    """How many answers are right, mixed and wrong, and how many calls failed, by status."""
    found = Counter(f"failed {status_name(status)}" for status in calls.status.tolist() if status)
    distinct = Counter((int(calls.asked[call]), payload) for call, payload in calls.answers.items())
    for (asked, payload), n in distinct.items():
        answer = wire.RecommendForUserResponse.FromString(payload)
        items, own = tuple(answer.item_ids), expected.get(answer.release_id)
        if own is not None and items == own[asked]:
            found["right"] += n
        elif any(items == each[asked] for each in expected.values()):
            found["mixed"] += n
        else:
            found["wrong"] += n
    return found


def _answers(release: Release, user_ids: Sequence[str]) -> list[tuple[str, ...]]:
    snapshot = Snapshot.open(release.directory)
    return [tuple(snapshot.recommend_for_users([UserQuery(each)])[0].item_ids) for each in user_ids]


class _Swapper:
    """Promotes the releases in turn."""

    def __init__(self, server: WatchedServer, releases: Sequence[Release]) -> None:
        self._admin = admin_pb2_grpc.AdminServiceStub(grpc.insecure_channel(server.admin_address))
        self._ids = [each.release_id for each in releases]
        self._n = 1  # the last one published is live
        self.seconds = _FIRST_SECONDS

    def swap(self) -> Span:
        """The next one, and wait until its files are checked."""
        release_id = self._ids[self._n % len(self._ids)]
        self._n += 1
        began = time.perf_counter()
        request = admin_pb2.PromoteReleaseRequest(release_id=release_id, force=True)
        self._admin.PromoteRelease(request, timeout=_ADMIN_SECONDS)
        while True:
            status = self._admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=_ADMIN_SECONDS)
            if status.verification != admin_pb2.VERIFICATION_RUNNING:
                break
            time.sleep(_POLL_SECONDS)
        ended = time.perf_counter()
        self.seconds = ended - began
        return began, ended


def _round(
    server: WatchedServer,
    requests: Sequence[Request],
    swapper: _Swapper,
    most: int,
    rate: float,
    setting: Setting,
    seed: int,
) -> tuple[Calls, list[Span]]:
    """A load with swaps in it, and as much time between them as one took."""
    spans: list[Span] = []
    problems: list[grpc.RpcError] = []
    seconds = _MEASUREMENTS * setting.seconds
    options = CallOptions(keep_every=1, warmup_seconds=setting.seconds / 4)
    until = time.perf_counter() + options.warmup_seconds + seconds

    def swap() -> None:
        try:
            while len(spans) < most and time.perf_counter() + 1.5 * swapper.seconds < until:
                time.sleep(swapper.seconds)
                spans.append(swapper.swap())
        except grpc.RpcError as error:
            problems.append(error)

    swapping = threading.Thread(target=swap)
    swapping.start()
    calls = open_loop(server.address, requests, rate, seconds, seed, CONNECTIONS, options)
    swapping.join()
    if problems:
        raise problems[0]
    return calls, spans
