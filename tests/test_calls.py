"""Who is let in, who is refused and how, and what is counted; on a clock of its own."""

from __future__ import annotations

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


def test_a_deadline_must_leave_room_for_answers_that_take_longer_than_the_mean():
    clock = Clock()
    calls = slow(clock, 0.010)
    for n in range(400):  # one or three at a time: .010 s of each; then a method whose answers take .005 or .015
        calls.answer(PATH, [b"x"] * (1 + 2 * (n % 2)), [clock.now] * (1 + 2 * (n % 2)))
    assert calls.seconds_needed(PATH) < 0.0101

    def uneven(payloads):
        clock.now += 0.005 if len(calls.metrics.calls) % 2 else 0.015
        calls.metrics.calls[f"{clock.now}", "OK"] += 1
        return payloads

    calls.methods[PATH] = uneven
    for _ in range(400):
        calls.answer(PATH, [b"x"], [clock.now])
    assert 0.009 < calls.seconds_of(PATH) < 0.011
    assert 0.027 < calls.seconds_needed(PATH) < 0.033
    assert calls.enter(PATH, (), 0.015).code.name == "RESOURCE_EXHAUSTED"
    assert calls.enter(PATH, (), 0.035) is None


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
    assert calls.metrics.n_calls == 3
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
    metrics.stage("search", 100, 3)
    assert metrics.stages["search"].sum == 300
    assert sum(metrics.stages["search"].buckets) == 3
    assert len(metrics.stages["wait"].buckets) == MICROSECOND_BITS
