"""The transport of grpcio: TLS, every kind of client, every option.

grpcio hands each call to a pool of threads. Its own pool and its own limit would do, but for two things: a refusal by
the limit carries no details, and one from the pool waits for a thread. So calls are refused where they arrive, on
grpcio's polling thread, and the pool is a plain queue. Kept honest by tests/test_transports.py.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc

from engine.calls import Calls
from engine.keepalive import SERVER_OPTIONS
from engine.methods import Outcome
from engine.statuses import Refusal
from engine.transport import TransportOptions

_ASIDE_THREADS = 4

_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Register = Callable[[grpc.Server], None]
"""Adds further services, as health and reflection."""


class GrpcioTransport:
    """See engine.transport.Transport. `prepare` runs in each thread before its first call."""

    def __init__(
        self, calls: Calls, options: TransportOptions, register: Sequence[Register], prepare: Callable[[], None]
    ) -> None:
        self._calls, self._options = calls, options
        self._pool = _CallPool(options.threads, calls, prepare)
        # What answers health and reflection, which must not wait for recommendations.
        self._aside = ThreadPoolExecutor(_ASIDE_THREADS, "nearcart-aside")
        age_ms = round(options.max_connection_age_seconds * 1000)
        self._server = grpc.server(
            self._aside,
            handlers=[_Handlers(calls, self._pool)],
            options=[
                # On by default, and then a second server on the port starts silently and takes half of the connections.
                ("grpc.so_reuseport", int(options.share_port)),
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_concurrent_streams", options.max_concurrent_streams),
                *SERVER_OPTIONS,
                *(
                    (("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", 30_000))
                    if age_ms
                    else ()
                ),
            ],
        )
        for each in register:
            each(self._server)

    def bind(self, address: str) -> int:
        """As the protocol says."""
        if self._options.credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, self._options.credentials)

    def start(self) -> None:
        """As the protocol says."""
        self._server.start()

    def stop(self, grace_seconds: float) -> Callable[[], None]:
        """As the protocol says."""
        ended = self._server.stop(grace_seconds)

        def wait() -> None:
            ended.wait()
            self._pool.shutdown(wait=False)
            self._aside.shutdown(wait=False, cancel_futures=True)

        return wait

    @property
    def n_waiting(self) -> int:
        """As the protocol says."""
        return self._pool.n_waiting

    @property
    def is_busy(self) -> bool:
        """As the protocol says."""
        return self._calls.in_flight > 0


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call, or one that refuses it: on grpcio's polling thread, before the message is read."""

    def __init__(self, calls: Calls, pool: _CallPool) -> None:
        self._calls = calls
        self._by_path: dict[str, _Handler] = {
            path: grpc.unary_unary_rpc_method_handler(_Behaviour(path, calls, pool)) for path in calls.methods
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """None for what is another service's."""
        path = handler_call_details.method
        handler = self._by_path.get(path)
        if handler is None:
            return None
        refusal = self._calls.enter(path, handler_call_details.invocation_metadata)
        return handler if refusal is None else _refusing(refusal)


class _Behaviour:
    """Answers the calls of one method, each in a thread of the pool, which grpcio finds by the attribute's name."""

    def __init__(self, path: str, calls: Calls, pool: _CallPool) -> None:
        self.experimental_thread_pool = pool
        self._path, self._calls, self._pool = path, calls, pool

    def __call__(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        left = context.time_remaining()
        if left is not None and self._calls.is_too_late(self._path, left):
            outcome: Outcome = self._calls.late(self._path)
        else:
            traces = self._calls.traces
            parents = () if traces is None else (traces.parent_in(context.invocation_metadata()),)
            (outcome,) = self._calls.answer(self._path, [payload], [self._pool.arrived], parents)
        return outcome if isinstance(outcome, bytes) else _abort(outcome, context)


def _abort(refusal: Refusal, context: grpc.ServicerContext) -> NoReturn:
    context.set_trailing_metadata((*refusal.trailers, *refusal.pushback))
    context.abort(refusal.code, refusal.message)


def _refusing(refusal: Refusal) -> _Handler:
    """A handler that refuses without a message and without a thread.

    As one that takes a stream of requests: grpcio waits for the request of any other before it calls.
    """

    def refuse(requests: object, context: grpc.ServicerContext) -> bytes:
        _abort(refusal, context)

    refuse.experimental_thread_pool = _HERE  # type: ignore[attr-defined]
    return grpc.stream_unary_rpc_method_handler(refuse)


class _Work:
    """What grpcio wants of a Future: to be told when it is done."""

    def __init__(self, run: Callable[[], object], arrived: float) -> None:
        self.run, self.arrived = run, arrived
        self._tell: Callable[[_Work], object] | None = None
        self._done = False
        self._lock = threading.Lock()

    def add_done_callback(self, tell: Callable[[_Work], object]) -> None:
        with self._lock:
            self._tell = tell
            if not self._done:
                return
        tell(self)

    def finish(self) -> None:
        with self._lock:
            self._done = True
            tell = self._tell
        if tell is not None:
            tell(self)


class _CallPool(ThreadPoolExecutor):
    """Threads that answer calls which were let in, and let them out; grpcio takes nothing but this class for a pool."""

    def __init__(self, threads: int, calls: Calls, prepare: Callable[[], None]) -> None:
        super().__init__(1)  # its own thread never starts: nothing is submitted to it
        self._calls, self._prepare = calls, prepare
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._ours = [
            threading.Thread(target=self._serve, name=f"nearcart-answer-{i}", daemon=True) for i in range(threads)
        ]
        for each in self._ours:
            each.start()

    @property
    def n_waiting(self) -> int:
        """Calls that no thread has taken up."""
        return self._waiting.qsize()

    @property
    def arrived(self) -> float:
        """When the call came that this thread works on, by the clock of the calls."""
        return float(self._local.arrived)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answer a call as soon as a thread is free."""
        work = _Work(partial(fn, *args, **kwargs), self._calls.clock())
        self._waiting.put(work)
        return work

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end after what they work on."""
        for _ in self._ours:
            self._waiting.put(None)
        super().shutdown(wait=wait)

    def _serve(self) -> None:
        self._prepare()
        while (work := self._waiting.get()) is not None:
            self._local.arrived = work.arrived
            try:
                work.run()
            finally:
                self._calls.leave()
                work.finish()


class _Here(ThreadPoolExecutor):
    """A pool without threads: what is submitted is done at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do it."""
        work = _Work(partial(fn, *args, **kwargs), 0.0)
        work.run()
        work.finish()
        return work


_HERE = _Here(1)
