"""Spans of calls over real sockets, collected in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.calls import Calls
from engine.errors import UsageError
from engine.statuses import INTERNAL, Refusal
from engine.traces import Traces
from engine.transport import TransportOptions
from engine.worker import TRANSPORTS

PATH = "/test.Service/Echo"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextlib.contextmanager
def traced(transport: str) -> Iterator[tuple[grpc.UnaryUnaryMultiCallable, InMemorySpanExporter, Traces]]:
    exporter = InMemorySpanExporter()
    traces = Traces("http://127.0.0.1:1", exporter)
    calls = Calls({PATH: lambda payloads: [each or Refusal.of(INTERNAL, "no") for each in payloads]}, traces=traces)
    server = TRANSPORTS[transport](calls, TransportOptions(threads=1), [], lambda: None)
    port = server.bind("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield channel.unary_unary(PATH), exporter, traces
    finally:
        server.stop(5)()
        traces.stop()


def test_every_call_is_a_span_below_its_callers(transport: str) -> None:
    with traced(transport) as (call, exporter, traces):
        call(b"x", timeout=10, metadata=[("traceparent", f"00-{TRACE}-{SPAN}-01")])
        call(b"y", timeout=10)
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=10, metadata=[("traceparent", "nonsense")])
        traces._provider.force_flush()
        child, root, failed = exporter.get_finished_spans()
    assert [f"{child.context.trace_id:032x}", f"{child.parent.span_id:016x}"] == [TRACE, SPAN]
    assert root.parent is None
    assert failed.parent is None
    assert child.name == "test.Service/Echo"
    assert child.attributes["rpc.grpc.status_code"] == 0
    assert failed.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INTERNAL.value[0]
    assert not failed.status.is_ok
    assert 0 <= child.attributes["nearcart.wait_seconds"] < 10
    assert 0 < child.end_time - child.start_time < 10e9
    assert abs(root.start_time - child.end_time) < 10e9


def test_what_the_caller_does_not_sample_is_not_traced(transport: str) -> None:
    with traced(transport) as (call, exporter, traces):
        call(b"x", timeout=10, metadata=[("traceparent", f"00-{TRACE}-{SPAN}-00")])
        traces._provider.force_flush()
        assert exporter.get_finished_spans() == ()


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--traces is 'collector:4317'"):
        Traces("collector:4317", InMemorySpanExporter())
