"""Traces by OpenTelemetry (extra `traces`): a span for each call, below the caller's where its metadata names one.

Spans are made after the answer, from times that are taken anyway, and leave in the background by OTLP. Which calls are
traced is the caller's to say, by the W3C header `traceparent` (https://www.w3.org/TR/trace-context/), and for others
the standard variables of the environment (OTEL_TRACES_SAMPLER). Kept honest by tests/test_traces.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.methods import Outcome

if TYPE_CHECKING:
    from engine.calls import Metadata

_PARENT = "traceparent"


class Traces:
    """Sends spans to an OTLP collector at `url`, https:// or http://HOST:PORT. Raises UsageError without the extra.

    Tests pass an `exporter`.
    """

    def __init__(self, url: str, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise UsageError(
                f"--traces needs OpenTelemetry, and {error.name} is not installed: pip install 'nearcart[traces]', or "
                "leave --traces away"
            ) from error
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--traces is {url!r}; expected the address of a collector, as http://127.0.0.1:4317")
        self._trace = trace
        self._provider = TracerProvider(resource=Resource.create({"service.name": "nearcart"}))
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter or OTLPSpanExporter(url, insecure=url.startswith("http://")))
        )
        self._tracer = self._provider.get_tracer("nearcart")
        self._propagator = TraceContextTextMapPropagator()

    def parent_in(self, metadata: Metadata) -> str:
        """The caller's span, "" where there is none."""
        return next((value for key, value in metadata if key == _PARENT and isinstance(value, str)), "")

    def answered(
        self,
        path: str,
        outcomes: Sequence[Outcome],
        arrived: Sequence[float],
        parents: Sequence[str],
        started: float,
        ended: float,
    ) -> None:
        """Calls of a method that were answered together; times are of time.monotonic."""
        offset = time.time() - time.monotonic()
        kinds, codes = self._trace.SpanKind, self._trace.StatusCode
        service, _, method = path[1:].partition("/")
        for outcome, at, parent in zip(outcomes, arrived, parents, strict=True):
            context = self._propagator.extract({_PARENT: parent}) if parent else None
            code = "OK" if isinstance(outcome, bytes) else outcome.code.name
            span = self._tracer.start_span(
                path[1:],
                context,
                kinds.SERVER,
                {
                    "rpc.system": "grpc",
                    "rpc.service": service,
                    "rpc.method": method,
                    "rpc.grpc.status_code": 0 if isinstance(outcome, bytes) else outcome.code.value[0],
                    "nearcart.wait_seconds": started - at,
                    "nearcart.batch_queries": len(outcomes),
                },
                start_time=_nanoseconds(at + offset),
            )
            if code in ("INTERNAL", "UNKNOWN"):
                span.set_status(codes.ERROR, code)
            span.end(_nanoseconds(ended + offset))

    def stop(self) -> None:
        """Send what is still here."""
        self._provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
