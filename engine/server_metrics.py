"""Every metric that a server exports, its name and its help, in one place; and the port that they are read from.

What is counted lives with what counts it; here it becomes Prometheus's text, for all workers together.
docs/operations.md explains each, and tests/test_server_metrics.py compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from wsgiref.simple_server import WSGIServer

import numpy as np
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.addresses import require_free
from engine.errors import ServerError
from engine.holder import SnapshotHolder
from engine.recall import lower_bound
from engine.serving import Figures, Serving

_BY_RELEASE = ("release_id",)
_FLAG = "--metrics-address"


class ServerMetrics(Collector):
    """What a server tells of itself: read at the moment somebody asks, so that nothing is kept twice."""

    def __init__(self, serving: Serving, holder: SnapshotHolder) -> None:
        self._serving, self._holder = serving, holder

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        workers = self._serving.figures()
        yield from self._calls(workers)
        yield from self._times(workers)
        yield from self._of_workers(workers)
        yield from self._releases(workers)
        yield from self._recall(workers)

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead of time: the registry would collect to find the names."""
        return iter(())

    def _calls(self, workers: Sequence[Figures]) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "nearcart_calls", "Calls answered or refused, by status.", labels=("worker", "method", "code")
        )
        refused = CounterMetricFamily(
            "nearcart_refused_calls", "Calls refused before their message was read.", labels=("worker", "reason")
        )
        for each in workers:
            for method, code, n in each["calls"]:
                calls.add_metric([_place(each), method, code], n)
            for reason, n in each["refused"].items():
                refused.add_metric([_place(each), reason], n)
        yield from (calls, refused)

    def _times(self, workers: Sequence[Figures]) -> Iterator[Metric]:
        calls = HistogramMetricFamily(
            "nearcart_call_seconds", "From the arrival of a call to its answer.", labels=("worker", "method")
        )
        stages = HistogramMetricFamily(
            "nearcart_stage_seconds", "What the stages of a call take.", labels=("worker", "stage")
        )
        batches = HistogramMetricFamily(
            "nearcart_batch_queries", "Calls that were answered together.", labels=("worker",)
        )
        for each in workers:
            for method, histogram in each["seconds"].items():
                _add(calls, [_place(each), method], histogram, 1e-6)
            for stage, histogram in each["stages"].items():
                _add(stages, [_place(each), stage], histogram, 1e-6)
            _add(batches, [_place(each)], each["batches"], 1)
        yield from (calls, stages, batches)

    def _of_workers(self, workers: Sequence[Figures]) -> Iterator[Metric]:
        for name, text, key in (
            ("nearcart_in_flight_calls", "Calls under way, waiting ones included.", "in_flight"),
            ("nearcart_waiting_calls", "Calls that wait to be answered.", "waiting"),
            (
                "nearcart_worker_resident_bytes",
                "Memory, with the share of what workers map together.",
                "resident_bytes",
            ),
        ):
            gauge = GaugeMetricFamily(name, text, labels=("worker",))
            for each in workers:
                gauge.add_metric([_place(each)], each[key])
            yield gauge
        yield GaugeMetricFamily("nearcart_workers", "Workers that are running.", len(workers))
        yield CounterMetricFamily(
            "nearcart_worker_restarts", "Workers started again because they ended.", self._serving.n_restarts
        )

    def _releases(self, workers: Sequence[Figures]) -> Iterator[Metric]:
        status = self._holder.status
        live = GaugeMetricFamily("nearcart_release_info", "1 for the release that serves.", labels=_BY_RELEASE)
        loaded = GaugeMetricFamily("nearcart_release_loaded_timestamp_seconds", "When it was swapped in.")
        if status.loaded_at is not None:
            live.add_metric([status.release_id], 1)
            loaded.add_metric([], status.loaded_at.timestamp())
        swaps = CounterMetricFamily(
            "nearcart_swaps", "Attempts to serve another release, by how they ended.", labels=("outcome",)
        )
        for outcome, n in self._holder.swaps.items():
            swaps.add_metric([outcome], n)
        yield from (live, loaded, swaps)

    def _recall(self, workers: Sequence[Figures]) -> Iterator[Metric]:
        """Of the live release, over all workers; a value that is not known is left out."""
        of_each = [each["recall"] for each in workers]
        yield CounterMetricFamily(
            "nearcart_recall_sampled_searches",
            "Searches drawn to be repeated exactly.",
            sum(each["sampled"] for each in of_each),
        )
        yield CounterMetricFamily(
            "nearcart_recall_dropped_searches",
            "Searches drawn and not repeated, because too many were waiting.",
            sum(each["dropped"] for each in of_each),
        )
        promised = GaugeMetricFamily(
            "nearcart_recall_promised", "recall@20 that the live release promises.", labels=_BY_RELEASE
        )
        window = GaugeMetricFamily(
            "nearcart_recall_window_searches", "Searches that the estimate is of.", labels=_BY_RELEASE
        )
        mean = GaugeMetricFamily(
            "nearcart_recall_estimate", "Mean recall of the last searches that were repeated.", labels=_BY_RELEASE
        )
        lower = GaugeMetricFamily(
            "nearcart_recall_estimate_lower_95", "Lower bound of the estimate, one-sided 95%.", labels=_BY_RELEASE
        )
        live = [each for each in workers if each["release_id"]]
        if live:
            labels = [live[0]["release_id"]]
            same = [each["recall"] for each in live if each["release_id"] == labels[0]]
            recalls = np.concatenate([each["recalls"] for each in same]).astype(np.float64)
            window.add_metric(labels, len(recalls))
            if same[0]["promised"] is not None:
                promised.add_metric(labels, float(same[0]["promised"]))
            if len(recalls):
                mean.add_metric(labels, float(recalls.mean()))
                lower.add_metric(labels, lower_bound(recalls))
        yield from (promised, window, mean, lower)


class MetricsServer:
    """Answers GET /metrics at an address until `stop`."""

    def __init__(self, collector: Collector, address: str) -> None:
        """Listen. Raises UsageError, ServerError."""
        host, port = require_free(address, _FLAG)
        registry = CollectorRegistry()
        registry.register(collector)
        try:
            started: tuple[WSGIServer, object] = start_http_server(port, host.strip("[]"), registry)
        except OSError as error:
            raise ServerError(f"cannot listen on {address}: {error}. Choose another with {_FLAG} HOST:PORT") from error
        self._server = started[0]
        self.address = f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


def _place(figures: Figures) -> str:
    return str(figures["worker"])


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Mapping[str, Any], unit: float) -> None:
    """A histogram whose bucket b holds the values of b binary digits: all below 2^b."""
    buckets, total = [], 0
    for bits, n in enumerate(histogram["buckets"][:-1]):
        total += n
        buckets.append((str((2**bits - 1) * unit), float(total)))
    buckets.append(("+Inf", float(total + histogram["buckets"][-1])))
    family.add_metric(labels, buckets, histogram["sum"] * unit)
