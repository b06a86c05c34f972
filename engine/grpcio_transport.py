"""The transport of grpcio: TLS, every kind of client, every option.

grpcio hands each call to a pool of threads. Its own pool and its own limit would do, but for three things: a refusal by
the limit carries no details, one from the pool waits for a thread, and a thread waits for the message of its call. So
calls are refused where they arrive, on grpcio's polling thread, and engine.call_pool is a queue of calls whose message
is there. Kept honest by tests/test_transports.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, TypeAlias

import grpc

from engine.call_pool import HERE, CallPool
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
        self._pool = CallPool(options.threads, calls, prepare)
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

    def __init__(self, calls: Calls, pool: CallPool) -> None:
        self._calls, self._pool = calls, pool
        self._by_path: dict[str, _Handler] = {
            path: grpc.unary_unary_rpc_method_handler(_Behaviour(path, calls, pool)) for path in calls.methods
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """None for what is another service's."""
        path = handler_call_details.method
        handler = self._by_path.get(path)
        if handler is None:
            return None
        self._pool.cut_off_silent()
        refusal = self._calls.enter(path, handler_call_details.invocation_metadata)
        return handler if refusal is None else _refusing(refusal)


class _Behaviour:
    """Answers the calls of one method, each in a thread of the pool, which grpcio finds by the attribute's name."""

    def __init__(self, path: str, calls: Calls, pool: CallPool) -> None:
        self.experimental_thread_pool = pool
        self.path = path
        self._calls, self._pool = calls, pool

    def refuse(self, payload: bytes, context: grpc.ServicerContext) -> NoReturn:
        """Say that no answer is possible in time."""
        _abort(self._calls.late(self.path), context)

    def __call__(self, payload: bytes, context: grpc.ServicerContext) -> bytes:
        left = context.time_remaining()
        if left is not None and self._calls.is_too_late(self.path, left):
            self.refuse(payload, context)
        traces = self._calls.traces
        parents = () if traces is None else (traces.parent_in(context.invocation_metadata()),)
        outcome: Outcome
        (outcome,) = self._calls.answer(self.path, [payload], [self._pool.arrived], parents)
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

    refuse.experimental_thread_pool = HERE  # type: ignore[attr-defined]
    return grpc.stream_unary_rpc_method_handler(refuse)
