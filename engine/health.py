"""What the standard health service says of a server: whether its service, and under the name "" the whole, is serving.

Kept honest by tests/test_server.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

_REFLECTION_THREADS = 2
"""Streams of reflection that are answered at once; others wait."""


class Health:
    """What the health service says of a server: of its service and, under the name "", of the whole."""

    def __init__(self, name: str) -> None:
        self.servicer = _HealthServicer()
        self._names = ("", name)
        self.set(False)

    def set(self, healthy: bool) -> None:
        """Say SERVING or NOT_SERVING; without effect after `shut_down`."""
        serving = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            self.servicer.set(name, serving)

    def shut_down(self) -> None:
        """Say NOT_SERVING for good."""
        self.servicer.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """End the streams of those who watch: each would hold up the end of the server for the whole grace period."""
        for end in self.servicer.watches.copy():
            end(None)


class _HealthServicer(health.HealthServicer):  # type: ignore[misc]
    """The stock servicer, which also remembers how to end each watching stream."""

    def __init__(self) -> None:
        super().__init__()
        self.watches: set[Callable[[None], None]] = set()

    def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[health_pb2.HealthCheckResponse | None], None],
    ) -> None:
        """As the stock servicer's."""
        self.watches.add(send_response_callback)
        context.add_callback(lambda: self.watches.discard(send_response_callback))
        super().Watch(request, context, send_response_callback)


def standard_services(health_of: Health, name: str) -> list[Callable[[grpc.Server], None]]:
    """Health and reflection for a service of this name."""
    names = name, health.SERVICE_NAME, reflection.SERVICE_NAME
    return [
        lambda server: health_pb2_grpc.add_HealthServicer_to_server(health_of.servicer, server),
        lambda server: reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_Reflection(names), server),
    ]


class _Reflection:
    """The stock servicer, in threads of its own: a stream holds one for as long as a client keeps it open, and whoever
    asks for health must not wait for that."""

    def __init__(self, names: Iterable[str]) -> None:
        servicer = reflection.ReflectionServicer(names)

        def reflect(requests: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            yield from servicer.ServerReflectionInfo(requests, context)

        # Where grpcio looks for a pool.
        reflect.experimental_thread_pool = ThreadPoolExecutor(  # type: ignore[attr-defined]
            _REFLECTION_THREADS, "nearcart-reflection"
        )
        self.ServerReflectionInfo = reflect
