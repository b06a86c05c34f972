"""One suite for every transport: what a client sees must not depend on which one runs.

Messages, statuses and details are tests/test_service.py's, which runs over both as well.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from waiting import until

from benchmarks.http2_requests import DATA, WORD, RequestBlocks, frame
from engine import call_pool, service
from engine.calls import Calls
from engine.errors import UsageError
from engine.health import Health, standard_services
from engine.native_transport import NativeTransport
from engine.transport import Transport, TransportOptions
from engine.worker import TRANSPORTS

ECHO, LONG = "/test.Service/Echo", "/test.Service/Long"
LIMIT = 100_000
SETTINGS = 4
"""The kind of HTTP/2's frame."""


class Served:
    """An echo, and a method that waits until `leave` is set; what was asked of either stands in `asked`."""

    def __init__(self, name: str, most: int = 1024, **options: object) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Event()
        self.asked: list[bytes] = []
        self.calls = Calls({ECHO: self._echo, LONG: self._long}, most=most, concurrency=2)
        self.health = Health(service.NAME)
        settings = TransportOptions(**{"threads": 2, "max_message_bytes": LIMIT, **options})  # type: ignore[arg-type]
        register = standard_services(self.health, service.NAME)
        self.transport: Transport = TRANSPORTS[name](self.calls, settings, register, lambda: None)
        self.address = f"127.0.0.1:{self.transport.bind('127.0.0.1:0')}"
        self.transport.start()
        self.health.set(True)

    def _echo(self, payloads: Sequence[bytes]) -> list[bytes]:
        self.asked += payloads
        return list(payloads)

    def _long(self, payloads: Sequence[bytes]) -> list[bytes]:
        self.asked += payloads
        for _ in payloads:
            self.entered.release()
        assert self.leave.wait(30)
        return list(payloads)


@contextlib.contextmanager
def served(name: str, **options: object) -> Iterator[tuple[Served, Callable[..., grpc.UnaryUnaryMultiCallable]]]:
    """A served pair of methods, and what makes a callable of a path over one channel."""
    server = Served(name, **options)  # type: ignore[arg-type]
    with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            yield server, channel.unary_unary
        finally:
            server.leave.set()
            server.health.shut_down()
            wait = server.transport.stop(5)
            server.health.end_watches()
            wait()


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()  # type: ignore[no-any-return, attr-defined]


def test_many_calls_at_once_get_their_own_answers(transport: str) -> None:
    with served(transport) as (server, method):
        payloads = [f"{n}".encode() * (n % 50) for n in range(500)]
        futures = [method(ECHO).future(payload, timeout=20) for payload in payloads]
        assert [future.result() for future in futures] == payloads
        until(lambda: server.calls.in_flight == 0)
        assert server.calls.metrics.calls["Echo", "OK"] == 500


def test_an_unknown_method_is_unimplemented(transport: str) -> None:
    with served(transport) as (_, method):
        for path in ("/test.Service/None", "/other.Service/Echo"):
            assert code_of(lambda path=path: method(path)(b"", timeout=10)) is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused_and_one_at_it_is_not(transport: str) -> None:
    with served(transport) as (server, method):
        assert len(method(ECHO)(b"x" * LIMIT, timeout=10)) == LIMIT
        refused = code_of(lambda: method(ECHO)(b"x" * (LIMIT + 1), timeout=10))
        assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert all(len(each) <= LIMIT for each in server.asked)
        until(lambda: server.calls.in_flight == 0)


def test_calls_beyond_the_bound_are_refused_at_once_with_when_to_come_back(transport: str) -> None:
    with served(transport, most=3) as (server, method):
        under_way = [method(LONG).future(b"x", timeout=20) for _ in range(3)]
        until(lambda: server.calls.in_flight == 3)
        with pytest.raises(grpc.RpcError) as caught:
            method(ECHO)(b"one too many", timeout=10)
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        retry = error_details_pb2.RetryInfo()
        assert status is not None
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToNanoseconds() > 0
        pushback = dict(caught.value.trailing_metadata()).get("grpc-retry-pushback-ms")  # type: ignore[attr-defined]
        assert pushback == (str(retry.retry_delay.ToMilliseconds()) if transport == "grpcio" else None)
        server.leave.set()
        assert [each.result() for each in under_way] == [b"x"] * 3
        until(lambda: server.calls.in_flight == 0)
        assert method(ECHO)(b"again", timeout=10) == b"again"
        assert b"one too many" not in server.asked


def test_errors_of_methods_and_guards_cost_no_thread(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(transport, threads=1) as (server, method):
        for name in ("answer", "enter"):
            with monkeypatch.context() as patched:
                patched.setattr(server.calls, name, _fail)
                codes = {code_of(lambda: method(ECHO)(b"x", timeout=10)) for _ in range(5)}
                assert codes <= {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
            assert method(ECHO)(b"again", timeout=10) == b"again"
            until(lambda: server.calls.in_flight == 0 and not server.transport.is_busy)


def test_a_thread_that_receives_may_find_that_another_one_took_what_it_received(native: object) -> None:
    calls = Calls({ECHO: list})
    calls.answer(ECHO, [b""], [calls.clock()])  # quick, as far as it knows
    transport = NativeTransport(calls, TransportOptions(threads=2), [], lambda: None)
    events = [[(0, 1, 0, b"x", None, ((), "", None))], None]

    class Front:
        def recv_batch_details(self, most: int, timeout_ms: int | None) -> object:
            return events.pop(0)

        def close(self) -> None: ...

    class Lock:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            if transport._free == 1:  # a place was taken, and the other thread is faster
                transport._waiting.clear()

    transport._front, transport._state = Front(), Lock()  # type: ignore[assignment]
    assert not transport._lead()
    assert transport._free == 2
    transport.stop(0)()


def test_refusals_do_not_wait_for_those_who_work(transport: str) -> None:
    with served(transport, most=2) as (server, method):
        under_way = [method(LONG).future(b"x", timeout=20) for _ in range(2)]
        for _ in range(2):
            assert server.entered.acquire(timeout=10)
        for _ in range(50):
            assert code_of(lambda: method(ECHO)(b"", timeout=5)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        server.leave.set()
        assert [each.result() for each in under_way] == [b"x"] * 2


def test_a_call_that_waited_past_its_deadline_is_never_answered(transport: str) -> None:
    with served(transport, threads=1) as (server, method):
        first = method(LONG).future(b"first", timeout=20)
        assert server.entered.acquire(timeout=10)
        for payload in (b"late", b"clock"):  # the second makes sure that the server, too, is past the first's deadline
            assert (
                code_of(lambda payload=payload: method(ECHO)(payload, timeout=0.2)) is grpc.StatusCode.DEADLINE_EXCEEDED
            )
        server.leave.set()
        assert first.result() == b"first"
        assert method(ECHO)(b"after", timeout=10) == b"after"
        assert b"late" not in server.asked
        until(lambda: server.calls.in_flight == 0)


def test_a_call_that_cannot_be_in_time_is_refused_on_its_arrival(transport: str) -> None:
    with served(transport) as (server, method):
        clock = iter([0.0, 20.0])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(server.calls, "clock", lambda: next(clock))
            server.calls.answer(ECHO, [b"slow"], [0.0])
        server.calls._answered_at[ECHO] = time.monotonic() + 60  # and so it stays known
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            method(ECHO)(b"too late", timeout=0.9)
        assert time.monotonic() - began < 0.8
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(caught.value)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.reason == "DEADLINE_TOO_SHORT"
        assert method(ECHO)(b"no hurry", timeout=300) == b"no hurry"
        until(lambda: server.calls.in_flight == 0)
        assert server.asked == [b"slow", b"no hurry"]
        assert server.calls.metrics.refused == {"expired": 1}


def test_a_cancelled_call_that_waited_is_not_answered_and_not_counted_for_ever(transport: str) -> None:
    with served(transport, threads=1) as (server, method):
        first = method(LONG).future(b"first", timeout=20)
        assert server.entered.acquire(timeout=10)
        waiting = [method(ECHO).future(b"cancelled", timeout=20) for _ in range(20)]
        until(lambda: server.calls.in_flight == 21)
        for each in waiting:
            each.cancel()
        assert code_of(lambda: method("/test.Service/None")(b"", timeout=10)) is grpc.StatusCode.UNIMPLEMENTED
        server.leave.set()
        assert first.result() == b"first"
        until(lambda: server.calls.in_flight == 0)


def test_calls_under_way_are_answered_when_the_server_stops_and_new_ones_are_not(transport: str) -> None:
    with served(transport) as (server, method):
        under_way = method(LONG).future(b"x", timeout=20)
        assert server.entered.acquire(timeout=10)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(lambda: server.transport.stop(10)())
            until(lambda: _is_refused(server.address))
            server.leave.set()
            assert under_way.result() == b"x"
            stopping.result(20)


def test_health_is_answered_and_watched(transport: str) -> None:
    with served(transport) as (server, _), grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service.NAME), timeout=10).status == 1
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == 1
        server.health.set(False)
        assert next(watch).status == 2
        assert code_of(lambda: stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=10)) is (
            grpc.StatusCode.NOT_FOUND
        )


def test_health_is_answered_while_every_thread_works(transport: str) -> None:
    with served(transport, threads=1) as (server, method), grpc.insecure_channel(server.address) as channel:
        under_way = [method(LONG).future(b"x", timeout=20) for _ in range(30)]
        assert server.entered.acquire(timeout=10)
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        server.leave.set()
        assert [each.result() for each in under_way] == [b"x"] * 30


def test_reflection_names_the_services(transport: str) -> None:
    with served(transport) as (server, _), grpc.insecure_channel(server.address) as channel:
        assert {service.NAME, "grpc.health.v1.Health"} <= set(ProtoReflectionDescriptorDatabase(channel).get_services())


def test_streams_of_reflection_that_stay_open_keep_nobody_from_asking_for_health(transport: str) -> None:
    with served(transport) as (server, _), grpc.insecure_channel(server.address) as channel:
        leave = threading.Event()

        def silent() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            leave.wait(30)

        streams = [reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(silent()) for _ in range(8)]
        next(streams[0])
        try:
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
        finally:
            leave.set()
            for each in streams:
                each.cancel()


def test_metadata_beyond_the_limit_is_refused_and_others_pass(transport: str) -> None:
    with served(transport) as (_, method):
        assert method(ECHO)(b"x", timeout=10, metadata=[("key", "v" * 4_000)]) == b"x"
        assert code_of(lambda: method(ECHO)(b"x", timeout=10, metadata=[("key", "v" * 40_000)])) in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.UNKNOWN,
        )
        assert method(ECHO)(b"y", timeout=10) == b"y"


def test_a_taken_port_is_not_shared(transport: str) -> None:
    with served(transport) as (server, _), pytest.raises(RuntimeError):
        TRANSPORTS[transport](server.calls, TransportOptions(), [], lambda: None).bind(server.address)


def test_a_port_is_shared_where_that_is_asked_for(transport: str) -> None:
    with served(transport, share_port=True) as (server, method):
        other = TRANSPORTS[transport](server.calls, TransportOptions(share_port=True), [], lambda: None)
        assert f"127.0.0.1:{other.bind(server.address)}" == server.address
        other.start()
        assert method(ECHO)(b"x", timeout=10) == b"x"
        other.stop(0)()


def test_bytes_that_are_no_http2_do_no_harm(transport: str) -> None:
    with served(transport) as (server, method):
        host, port = server.address.split(":")
        with socket.create_connection((host, int(port))) as nonsense:
            nonsense.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 100)
        assert method(ECHO)(b"x", timeout=10) == b"x"


def opened(address: str, n: int, path: str, half: bytes = b"") -> socket.socket:
    """A connection with calls of which no message follows, or half of one."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    blocks = RequestBlocks(address, ())
    data = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
    for stream in range(1, 2 * n, 2):
        start, block = blocks.of(path)
        data += start + WORD.pack(stream) + block + (frame(DATA, 0, stream, half) if half else b"")
    connection.sendall(data)
    return connection


@pytest.mark.parametrize("half", [b"", b"\0\0\0\0\x09half"])
def test_calls_whose_message_never_comes_hold_up_nobody(transport: str, half: bytes) -> None:
    """Of a server with two threads: twenty such calls, each of which a thread would wait for."""
    with served(transport) as (server, method), opened(server.address, 20, ECHO, half):
        if transport == "grpcio":
            until(lambda: server.calls.in_flight == 20)
        for n in range(20):
            assert method(ECHO)(b"%d" % n, timeout=5) == b"%d" % n
    until(lambda: server.calls.in_flight == 0)


def test_calls_whose_message_never_comes_lose_their_place_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with served("grpcio") as (server, method), opened(server.address, 4, ECHO):
        until(lambda: server.calls.in_flight == 4)
        assert method(ECHO)(b"x", timeout=5) == b"x"
        assert server.calls.in_flight >= 4
        monkeypatch.setattr(call_pool, "MESSAGE_SECONDS", 0.0)
        assert method(ECHO)(b"y", timeout=5) == b"y"
        until(lambda: server.calls.in_flight == 0)


def test_calls_whose_message_does_not_come_yield_their_place_where_all_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_pool, "MESSAGE_SECONDS_WHEN_FULL", 0.0)
    with served("grpcio", most=4) as (server, method), opened(server.address, 4, ECHO):
        until(lambda: server.calls.in_flight == 4)
        assert code_of(lambda: method(ECHO)(b"x", timeout=5)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        until(lambda: server.calls.in_flight == 0)
        assert method(ECHO)(b"x", timeout=5) == b"x"


def test_a_server_that_stood_still_does_not_take_its_callers_for_silent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with served("grpcio", most=4) as (server, method), opened(server.address, 4, ECHO):
        until(lambda: server.calls.in_flight == 4)
        clock = server.calls.clock
        monkeypatch.setattr(server.calls, "clock", lambda: clock() + 3600)
        for _ in range(3):
            assert code_of(lambda: method(ECHO)(b"x", timeout=5)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.calls.in_flight == 4


def test_a_grpcio_that_looks_other_inside_costs_what_this_is_for_and_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert call_pool.knows_grpcio()
    monkeypatch.setitem(call_pool._INSIDE, "_receive_message", ("state", "call"))
    with served("grpcio") as (server, method):
        assert [each.message for each in caplog.records] == [
            f"grpcio {grpc.__version__} is newer than this server: silent clients hold up its threads"
        ]
        assert method(ECHO)(b"x", timeout=5) == b"x"
        with opened(server.address, 2, ECHO):
            until(lambda: server.calls.in_flight == 2 and server.transport.n_waiting == 0)
            waiting = method(ECHO).future(b"y", timeout=20)
            until(lambda: server.transport.n_waiting == 1)
        assert waiting.result() == b"y"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_connection_age_seconds": 60.0}, "--max-connection-age-seconds"),
        ({"credentials": object()}, "plaintext only"),
    ],
)
def test_the_native_transport_refuses_what_it_cannot_do(
    native: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        TRANSPORTS["native"](Calls({}), TransportOptions(**options), [], lambda: None)  # type: ignore[arg-type]


def _fail(*_: object) -> NoReturn:
    raise ValueError("secret")


def _is_refused(address: str) -> bool:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            channel.unary_unary(ECHO)(b"", timeout=1)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[no-any-return, attr-defined]
    return False
