"""Who is let in, who is refused and how, and what is counted; on a clock of its own."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2

from engine.call_metrics import MICROSECOND_BITS, CallMetrics, Histogram
from engine.calls import Calls
from engine.statuses import OVERLOADED, Refusal

PATH = "/package.Service/Method"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def slow(clock: Clock, seconds: float, **options) -> Calls:
    """Calls of a method that takes so long for each of what it is asked."""

    def answer(payloads):
        clock.now += seconds * len(payloads)
        return [payload or Refusal.of(OVERLOADED, "no") for payload in payloads]

    return Calls({PATH: answer}, clock=clock, **options)


def test_no_more_than_so_many_calls_are_under_way():
    calls = slow(Clock(), 0.0, most=2)
    assert [calls.enter(PATH) for _ in range(2)] == [None, None]
    refusal = calls.enter(PATH)
    assert refusal.code.name == "RESOURCE_EXHAUSTED"
    details = status_pb2.Status.FromString(refusal.status).details
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert details[0].Unpack(info)
    assert details[1].Unpack(retry)
    assert info.reason == "OVERLOADED"
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    assert calls.in_flight == 2
    calls.leave()
    assert calls.enter(PATH) is None
    assert calls.metrics.refused == {"overloaded": 1}
    assert calls.metrics.calls["Method", "RESOURCE_EXHAUSTED"] == 1


def test_a_call_that_cannot_be_in_time_is_refused_when_it_comes():
    clock = Clock()
    calls = slow(clock, 0.010, most=100)
    for _ in range(200):  # until the mean is known
        calls.answer(PATH, [b"x"], [clock.now])
    assert 0.0099 < calls.seconds_of(PATH) < 0.0101
    assert calls.enter(PATH, (), 0.005).code.name == "RESOURCE_EXHAUSTED"
    assert calls.enter(PATH, (), 0.020) is None
    assert calls.enter(PATH, (), 0.015) is not None, "another one is before it"
    assert calls.enter(PATH) is None
    assert calls.metrics.refused == {"expired": 2}


def test_without_a_deadline_nothing_is_too_late():
    clock = Clock()
    calls = slow(clock, 10.0)
    calls.answer(PATH, [b"x"], [clock.now])
    assert calls.enter(PATH) is None


def test_what_was_answered_is_counted_by_method_and_status():
    clock = Clock()
    calls = slow(clock, 0.001)
    calls.answer(PATH, [b"x", b"", b"y"], [clock.now, clock.now - 0.5, clock.now])
    assert calls.metrics.calls == {("Method", "OK"): 2, ("Method", "RESOURCE_EXHAUSTED"): 1}
    assert calls.metrics.calls.total() == 3
    seconds = calls.metrics.seconds["Method"]
    assert seconds.buckets[(3000).bit_length()] == 2
    assert seconds.buckets[(503_000).bit_length()] == 1
    assert sum(seconds.buckets) == 3
    assert calls.metrics.batches.buckets[2] == 1


def test_a_histogram_keeps_what_is_beyond_its_last_bound():
    histogram = Histogram(4)
    for value in (0, 1, 2, 3, 4, 100):
        histogram.add(value)
    assert histogram.buckets == [1, 1, 2, 2]
    assert histogram.sum == 110


def test_stages_are_counted_for_each_call_of_a_batch():
    metrics = CallMetrics()
    metrics.staged(1.0, 1.00001, 1.00011, 1.00013, calls=3)
    assert [metrics.stages[stage].sum // 3 for stage in ("read", "search", "write")] == pytest.approx(
        [10, 100, 20], abs=1
    )
    assert sum(metrics.stages["search"].buckets) == 3
    assert len(metrics.stages["wait"].buckets) == MICROSECOND_BITS


def test_one_slow_moment_does_not_refuse_calls_for_ever():
    """Whoever is refused is not measured: the mean would stay as it is."""
    clock = Clock()
    calls = slow(clock, 10.0)
    calls.answer(PATH, [b"x"], [clock.now])
    assert calls.enter(PATH, (), 0.1).code.name == "RESOURCE_EXHAUSTED"
    clock.now += 1.0
    assert calls.enter(PATH, (), 0.1) is None
    calls.methods[PATH] = lambda payloads: list(payloads)
    calls.answer(PATH, [b"x"], [clock.now])
    assert calls.enter(PATH, (), 0.1) is None, "what was long ago does not count beside what is new"


def test_a_call_whose_deadline_has_passed_is_too_late_whatever_is_known():
    assert slow(Clock(), 0.0).enter(PATH, (), 0.0).code.name == "RESOURCE_EXHAUSTED"


def test_who_comes_while_the_server_stops_is_counted_too():
    calls = slow(Clock(), 0.0)
    calls.close()
    assert calls.enter(PATH).code.name == "UNAVAILABLE"
    assert calls.metrics.calls == {("Method", "UNAVAILABLE"): 1}
    assert calls.metrics.refused == {"stopping": 1}


def test_an_error_of_a_method_is_a_status_without_details(caplog):
    def broken(payloads):
        raise MemoryError("secret")

    calls = Calls({PATH: broken})
    outcomes = calls.answer(PATH, [b"x", b"y"], [0.0, 0.0])
    assert [each.code.name for each in outcomes] == ["INTERNAL"] * 2
    assert "secret" not in outcomes[0].message
    assert "secret" in caplog.text
    assert calls.metrics.calls == {("Method", "INTERNAL"): 2}
