"""Every metric that a server exports, its name and its help, in one place; and the port that they are read from.

What is counted lives with what counts it; here it becomes Prometheus's text. docs/operations.md explains each, and
tests/test_server_metrics.py compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.addresses import require_free
from engine.errors import ServerError
from engine.recall import lower_bound
from engine.recall_sampling import RecallSampler
from engine.service import ServedSnapshot

_BY_RELEASE = ("release_id",)


class ServerMetrics(Collector):
    """What a server tells of itself: read at the moment somebody asks, so that nothing is kept twice."""

    def __init__(self, snapshot: Callable[[], ServedSnapshot], sampler: RecallSampler) -> None:
        self._snapshot = snapshot
        self._sampler = sampler

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        yield CounterMetricFamily(
            "nearcart_recall_sampled_searches", "Searches drawn to be repeated exactly.", self._sampler.n_sampled
        )
        yield CounterMetricFamily(
            "nearcart_recall_dropped_searches",
            "Searches drawn and not repeated, because too many were waiting.",
            self._sampler.n_dropped,
        )
        yield from self._recall()

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead of time: the registry would collect to find the names."""
        return iter(())

    def _recall(self) -> Iterator[Metric]:
        """Of the live release; a value that is not known is left out."""
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
        try:
            snapshot = self._snapshot()
        except ServerError:  # none is loaded yet
            pass
        else:
            labels, index = [snapshot.release_id], snapshot.manifest["index"]
            recalls = self._sampler.recalls(snapshot.release_id)
            window.add_metric(labels, len(recalls))
            if "promised_recall" in index:
                promised.add_metric(labels, float(index["promised_recall"]))
            if len(recalls):
                mean.add_metric(labels, float(recalls.mean()))
                lower.add_metric(labels, lower_bound(recalls))
        yield from (promised, window, mean, lower)


class MetricsServer:
    """Answers GET /metrics at an address until `stop`."""

    def __init__(self, collector: Collector, address: str, flag: str) -> None:
        """Listen. Raises UsageError, ServerError."""
        host, port = require_free(address, flag)
        registry = CollectorRegistry()
        registry.register(collector)
        try:
            started: tuple[WSGIServer, object] = start_http_server(port, host.strip("[]"), registry)
        except OSError as error:
            raise ServerError(f"cannot listen on {address}: {error}. Choose another with {flag} HOST:PORT") from error
        self._server = started[0]
        self.address = f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
