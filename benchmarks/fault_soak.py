"""An hour of mixed load with errors and cancellations: does memory stay flat?

Users, carts, batches, similar items and requests that are wrong, at a quarter of the saturation; a tenth of the calls
is cancelled (RST_STREAM) a millisecond after it was sent. Every slice of the load is a row: what became of its calls,
latencies, and the memory afterwards. Checked by tests/test_faults_benchmark.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import Message
from nearcart.v1 import recommendation_pb2 as wire

from benchmarks.fault_setting import CONNECTIONS, Rows, Setting, asked_of_small, percentiles, saturation
from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, open_loop
from benchmarks.pinned_servers import on_core
from benchmarks.timed_calls import status_name
from benchmarks.watched_server import watched

SHARE = 0.25
CANCEL_SHARE = 0.1
EXPECTED = ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED_HERE")
"""What calls of this mix may come to."""
_SERVICE = "/nearcart.v1.RecommendationService"
_MEASUREMENTS = 3
"""A slice takes the time of so many."""
_N_REQUESTS = 2_000
_KINDS = {"user": 0.4, "cart": 0.2, "similar": 0.15, "batch": 0.1, "limit": 0.05, "unknown": 0.05, "noise": 0.05}


def soak_rows(setting: Setting, folder: Path, minutes: float) -> Rows:
    """A row for each slice."""
    asked = asked_of_small(setting, folder)
    requests = mixed(asked.ids, len(asked.item_vectors))
    with watched(setting.cores.server, folder, setting.transport) as server, on_core(setting.cores.load):
        rate = SHARE * saturation(server.address, requests, setting.seconds)
        options = CallOptions(cancel_share=CANCEL_SHARE, cancel_after_seconds=0.001, deadline_seconds=5.0)
        began, number = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < 60 * minutes:
            calls = open_loop(
                server.address, requests, rate, _MEASUREMENTS * setting.seconds, number, CONNECTIONS, options
            )
            number += 1
            metrics = server.metrics()
            statuses = Counter(status_name(each) for each in calls.status.tolist())
            yield {
                "mode": "soak",
                "transport": setting.transport,
                "minutes": elapsed / 60,
                "resident_bytes": metrics.sum("nearcart_worker_resident_bytes"),
                "anonymous_bytes": server.anonymous_bytes(),
                "open_files": server.open_files(),
                "in_flight_afterwards": metrics.sum("nearcart_in_flight_calls"),
                "offered": rate,
                "calls": len(calls.status),
                "statuses": dict(statuses),
                "unexpected": sum(n for status, n in statuses.items() if status not in EXPECTED),
                **percentiles(calls.latencies(), p50_ms=50, p99_ms=99),
            }


def mixed(user_ids: Sequence[str], n_items: int, seed: int = 0) -> list[Request]:
    """Requests of all kinds, in a drawn order."""
    generator = np.random.default_rng(seed)
    kinds = generator.choice(list(_KINDS), _N_REQUESTS, p=list(_KINDS.values()))
    return [_request(str(kind), user_ids, n_items, generator) for kind in kinds]


def _request(kind: str, user_ids: Sequence[str], n_items: int, generator: np.random.Generator) -> Request:
    def users(n: int) -> list[str]:
        return [user_ids[each] for each in generator.integers(len(user_ids), size=n)]

    def items(n: int) -> list[str]:
        return [f"item-{each:07}" for each in generator.choice(n_items, n, replace=False)]

    made: dict[str, tuple[str, Message]] = {
        "user": ("RecommendForUser", wire.RecommendForUserRequest(user_id=users(1)[0])),
        "cart": ("RecommendForCart", wire.RecommendForCartRequest(item_ids=items(3))),
        "similar": ("RecommendSimilarItems", wire.RecommendSimilarItemsRequest(item_id=items(1)[0])),
        "batch": ("BatchRecommendForUsers", wire.BatchRecommendForUsersRequest(user_ids=users(16))),
        "limit": ("RecommendForUser", wire.RecommendForUserRequest(user_id=users(1)[0], limit=0)),
        "unknown": ("RecommendSimilarItems", wire.RecommendSimilarItemsRequest(item_id="nobody knows this")),
        "noise": ("RecommendForUser", wire.RecommendForUserRequest()),
    }
    method, message = made[kind]
    payload = generator.bytes(40) if kind == "noise" else message.SerializeToString()
    return Request(f"{_SERVICE}/{method}", payload)


def plot(rows: Sequence[dict], path: Path) -> None:
    """Memory over time, as a picture in the format that the path's ending says; needs matplotlib."""
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot

    minutes = [row["minutes"] for row in rows]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for name, label in (("resident_bytes", "with what is mapped from files"), ("anonymous_bytes", "of its own")):
        above.plot(minutes, [row[name] / 2**20 for row in rows], linewidth=1, label=label)
    above.legend()
    above.set(ylabel="memory of the worker, MiB", title=f"mixed load, {rows[0]['offered']:,.0f} calls a second")
    above.set_ylim(bottom=0)
    for name in ("p50_ms", "p99_ms"):
        below.plot(minutes, [row[name] for row in rows], linewidth=1, label=name.removesuffix("_ms"))
    below.set(xlabel="minutes", ylabel="milliseconds", yscale="log")
    below.legend()
    for axis in (above, below):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
