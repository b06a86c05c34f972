"""The load generator against grpcio, which judges whether what it speaks is gRPC."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from waiting import until

from benchmarks.http2_requests import Request
from benchmarks.load import CallOptions, closed_loop, open_loop
from benchmarks.timed_calls import Calls, Record, status_name

ECHO, FAIL, WAIT, METADATA = (f"/judge.Judge/{method}" for method in ("Echo", "Fail", "Wait", "Metadata"))


@dataclass
class Judge(grpc.GenericRpcHandler):
    """Echoes, fails with the code that the payload names, waits as many milliseconds as it names, returns metadata."""

    ended: list[str] = field(default_factory=list)
    remaining: list[float] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        methods = {ECHO: self.echo, FAIL: self.fail, WAIT: self.wait, METADATA: self.metadata}
        return grpc.unary_unary_rpc_method_handler(methods[details.method]) if details.method in methods else None

    def echo(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        return payload

    def fail(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("place", payload.decode()),))
        context.abort(grpc.StatusCode[payload.decode()], "100% as asked")

    def wait(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        self.remaining.append(context.time_remaining() or math.inf)
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        if over.wait(int(payload) / 1000):
            self.ended.append("cut short")
        return payload

    def metadata(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        return dict(context.invocation_metadata())[payload.decode()].encode()


@contextmanager
def judging(
    judge: Judge | None = None, threads: int = 4, port: int = 0, **options: int
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a server, and what stops it."""
    with ThreadPoolExecutor(threads) as pool:
        chosen = [("grpc.so_reuseport", 0), *((f"grpc.{name}", value) for name, value in options.items())]
        server = grpc.server(pool, handlers=[judge or Judge()], options=chosen)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()

        def stop() -> None:
            server.stop(0).wait()

        try:
            yield f"127.0.0.1:{port}", stop
        finally:
            stop()


def test_every_answer_belongs_to_its_call_and_every_failure_is_counted_by_its_status() -> None:
    echoes = [Request(ECHO, b"x" * n) for n in (0, 1, 5_000, 16_379)]
    failures = [Request(FAIL, b"NOT_FOUND"), Request(FAIL, b"RESOURCE_EXHAUSTED"), Request("/judge.Judge/No", b"")]
    with judging() as (address, _):
        calls = closed_loop(address, [*echoes, *failures], 0.4, 3, 5, CallOptions(keep_every=1))
    good = calls.status == 0
    assert set(calls.asked[good].tolist()) == {0, 1, 2, 3}
    for call in np.flatnonzero(good).tolist():
        assert calls.answers[call] == echoes[calls.asked[call]].payload
        assert calls.size[call] == len(echoes[calls.asked[call]].payload)
    wanted = {4: "NOT_FOUND", 5: "RESOURCE_EXHAUSTED", 6: "UNIMPLEMENTED"}
    for place, name in wanted.items():
        assert {status_name(each) for each in calls.status[calls.asked == place].tolist()} == {name}
    row = calls.row()
    assert set(row["errors"]) == set(wanted.values())
    assert sum(row["errors"].values()) + np.sum(good & calls.counted) == row["calls"] > 50
    assert row["achieved"] == pytest.approx(row["calls"] * 4 / 7 / 0.4, rel=0.3)
    assert row["in_flight_max"] == 15
    assert calls.messages[grpc.StatusCode.NOT_FOUND.value[0]] == "100% as asked"


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    with judging() as (address, _):
        first, again, other = (open_loop(address, [Request(ECHO, b"")], 500, 1.0, seed) for seed in (1, 1, 2))
    gaps = np.diff(first.intended)
    assert np.mean(gaps) == pytest.approx(1 / 500, rel=0.2)
    assert np.std(gaps) == pytest.approx(1 / 500, rel=0.3)
    assert np.allclose(np.diff(again.intended), gaps)
    assert len(other.intended) != len(first.intended) or not np.allclose(np.diff(other.intended), gaps)
    assert first.row()["offered"] == 500
    assert not first.row()["errors"]


def test_an_overloaded_server_looks_slow_to_the_open_loop_and_fast_to_the_closed_one() -> None:
    with judging(threads=1) as (address, _):
        closed = closed_loop(address, [Request(WAIT, b"5")], 0.5, 1, 1).row()
        opened = open_loop(address, [Request(WAIT, b"5")], 600, 0.5).row()
    assert closed["p99_ms"] < 40
    assert opened["p50_ms"] > 5 * closed["p50_ms"]
    assert opened["achieved"] < 0.6 * opened["offered"]
    assert opened["in_flight_max"] > 50
    assert not opened["errors"]


def test_a_single_stall_delays_all_that_were_due_meanwhile() -> None:
    requests = [Request(WAIT, b"300"), *(Request(ECHO, b"") for _ in range(200))]
    with judging(threads=1) as (address, _):
        latencies = open_loop(address, requests, 400, 0.5).latencies()
    assert np.mean(latencies > 0.05) > 0.3


def test_little_s_law_holds() -> None:
    with judging() as (address, _):
        calls = open_loop(address, [Request(WAIT, b"3")], 200, 1.0, options=CallOptions(warmup_seconds=0.2))
    row = calls.row()
    assert row["in_flight_mean"] == pytest.approx(np.sum(calls.counted) * calls.latencies().mean(), rel=0.1)
    assert np.sum(~calls.counted) > 10
    assert row["calls"] == np.sum(calls.counted)


def test_a_deadline_is_told_to_the_server_and_late_answers_are_failures() -> None:
    judge = Judge()
    with judging(judge) as (address, _):
        calls = open_loop(address, [Request(WAIT, b"200")], 20, 0.3, options=CallOptions(deadline_seconds=0.03))
        in_time = open_loop(address, [Request(WAIT, b"1")], 20, 0.3, options=CallOptions(deadline_seconds=5))
    assert set(calls.row()["errors"]) == {"DEADLINE_EXCEEDED"}
    assert calls.row()["achieved"] == 0
    assert min(judge.remaining) <= 0.03
    assert not in_time.row()["errors"]
    assert 4 < max(judge.remaining) <= 5


def test_an_answer_that_came_after_its_deadline_is_no_good_answer() -> None:
    record = Record(keep_every=1)
    for taken in (0.01, 0.06):
        call = record.begin(1.0, 1.02, 0)  # sent late, which is not the server's deadline
        record.take(call, b"\0\0\0\0\1a")
        record.end(call, 0, 1.02 + taken)
    calls = Calls.of(record, "open", 2, (1.0, 2.0), 1, 0.05)
    assert [status_name(each) for each in calls.status.tolist()] == ["OK", "DEADLINE_EXCEEDED"]
    assert calls.achieved == 1
    assert calls.latencies() == pytest.approx([0.03])
    assert calls.answers == {0: b"a"}


def test_cancelled_calls_end_on_the_server_too() -> None:
    judge = Judge()
    options = CallOptions(cancel_share=0.5, cancel_after_seconds=0.01)
    with judging(judge, threads=32) as (address, _):
        calls = open_loop(address, [Request(WAIT, b"150")], 100, 0.5, options=options)
    assert set(calls.row()["errors"]) == {"CANCELLED_HERE"}
    cancelled = int(np.sum(calls.status != 0))
    assert 0.3 < cancelled / len(calls.status) < 0.7
    assert 0.5 * cancelled < judge.ended.count("cut short") <= cancelled  # some never begin


def test_a_closed_loop_goes_on_after_cancelled_calls() -> None:
    options = CallOptions(cancel_share=0.5, cancel_after_seconds=0.005)
    with judging(threads=8) as (address, _):
        row = closed_loop(address, [Request(WAIT, b"20")], 0.5, 2, 2, options).row()
    assert row["errors"]["CANCELLED_HERE"] > 8
    assert row["in_flight_mean"] > 3


def test_metadata_travels_with_every_call() -> None:
    options = CallOptions(metadata=(("authorization", "Bearer of news"),), keep_every=1)
    with judging() as (address, _):
        calls = closed_loop(address, [Request(METADATA, b"authorization"), Request(ECHO, b"a")], 0.2, options=options)
    assert not calls.row()["errors"]
    assert {calls.answers[call] for call in np.flatnonzero(calls.asked == 0).tolist()} == {b"Bearer of news"}


def test_a_server_that_ends_connections_by_age_fails_no_call() -> None:
    ages = {"max_connection_age_ms": 100, "max_connection_age_grace_ms": 1000}
    with judging(**ages) as (address, _):
        opened = open_loop(address, [Request(WAIT, b"2")], 300, 1.0)
        closed = closed_loop(address, [Request(WAIT, b"2")], 0.5, 2, 2)
    assert not opened.row()["errors"]
    assert not closed.row()["errors"]
    assert closed.row()["in_flight_mean"] > 3


def test_a_server_s_limit_of_streams_holds_calls_back() -> None:
    with judging(max_concurrent_streams=2) as (address, _):
        row = closed_loop(address, [Request(WAIT, b"2")], 0.3, 1, 10).row()
    assert row["held_back"] > 10
    # grpcio lets go of a stream a little after its last frame, and refuses what comes in between.
    assert set(row["errors"]) <= {"RESET REFUSED_STREAM"}
    assert row["achieved"] > 100


def test_calls_of_a_server_that_dies_are_lost_and_those_after_its_return_are_answered() -> None:
    judge, over = Judge(), threading.Event()
    with judging(judge) as (address, stop):

        def replace() -> None:
            until(lambda: len(judge.remaining) >= 40)  # another has just begun, and more are waiting
            stop()
            with judging(port=int(address.rpartition(":")[2])):
                over.wait(30)

        replacing = threading.Thread(target=replace)
        replacing.start()
        calls = open_loop(address, [Request(WAIT, b"20")], 220, 1.2)
        over.set()
        replacing.join()
    errors = calls.row()["errors"]
    assert set(errors) <= {"CONNECTION_LOST", "NOT_CONNECTED", "UNAVAILABLE", "CANCELLED", "TURNED_AWAY NO_ERROR"}
    assert 0 < sum(errors.values()) < 150
    assert np.all(calls.status[calls.intended > calls.ended - 0.1] == 0)


def test_what_is_never_answered_says_so() -> None:
    with judging() as (address, _):
        row = open_loop(address, [Request(WAIT, b"700")], 20, 0.2, options=CallOptions(drain_seconds=0.1)).row()
    assert set(row["errors"]) == {"UNANSWERED"}
    assert row["in_flight_max"] == row["calls"]
    assert math.isnan(row["p50_ms"])


def test_a_sender_that_was_late_says_so() -> None:
    record = Record()
    for due in np.linspace(1.0, 1.9, 10).tolist():
        record.end(record.begin(due, due + 0.002, 0), 0, due + 0.003)
    row = Calls.of(record, "open", 10, (1.0, 2.0), 1, math.inf).row()
    assert row["sender_lagged"]
    assert row["p50_ms"] == pytest.approx(3)


def test_nobody_listening_and_too_large_a_payload_are_errors_at_once() -> None:
    with judging() as (address, stop):
        stop()
        with pytest.raises(OSError, match=r"."):
            open_loop(address, [Request(ECHO, b"")], 10, 0.1)
    with pytest.raises(ValueError, match="16,379"):
        Request(ECHO, b"x" * 16_380)


def test_statuses_have_names() -> None:
    names = [status_name(each) for each in (8, -1, 107, 200, 113, 99)]
    assert names == [
        "RESOURCE_EXHAUSTED",
        "UNANSWERED",
        "RESET REFUSED_STREAM",
        "TURNED_AWAY NO_ERROR",
        "RESET 13",
        "status 99",
    ]
