"""What the clients of `engine.client` have in common: a call, with the time it has and the goes at it.

Kept honest by tests/test_client.py and tests/test_worker_loss.py.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from nearcart.v1 import recommendation_pb2_grpc as wire_grpc

from engine.connections import DEFAULT_CONNECTIONS, Connections
from engine.credentials import ClientTls
from engine.errors import ClientError
from engine.refusals import broke_off, explain

_MIN_SECONDS_LEFT = 0.01
"""With less than this until the deadline nothing is asked again."""


class Caller:
    """Whom to ask, and how. Of channels, which the client opens, each call takes the next."""

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = 10.0,
        connections: int = DEFAULT_CONNECTIONS,
        tls: ClientTls | None = None,
        token: str | Callable[[], str] | None = None,
        token_file: Path | None = None,
        allow_plaintext: bool = False,
    ) -> None:
        self.address = address
        self.timeout_seconds = timeout_seconds
        self._connections = Connections.of(address, connections, tls, token, token_file, allow_plaintext)
        self._channels: Sequence[Any] = ()
        self._stubs: Iterator[wire_grpc.RecommendationServiceStub] = iter(())
        self._is_closed = False
        self._start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def _start(self) -> None:
        """What a client does as soon as it is made."""

    def _take_turns(self, channels: Sequence[Any]) -> None:
        self._channels = channels
        self._stubs = itertools.cycle([wire_grpc.RecommendationServiceStub(each) for each in channels])

    def _call(self, method: str) -> Call:
        if self._is_closed:
            raise ClientError(f"{self!r} was closed: make another one")
        return Call(self, method)

    def _send(self, method: str, request: Message, timeout_seconds: float) -> Any:
        metadata = self._connections.metadata()
        return getattr(next(self._stubs), method)(request, timeout=timeout_seconds, metadata=metadata)


class Call:
    """One call until its deadline.

    gRPC tries again by itself, by the policy of the connection, but for a call whose answer had begun when its
    connection broke. That one is asked once more, over another connection.
    """

    def __init__(self, caller: Caller, method: str) -> None:
        self._caller = caller
        self._method = method
        self._until = time.monotonic() + caller.timeout_seconds
        self._is_last = False

    def send(self, request: Message) -> Any:
        """Returns what the method of the stub does: the response, or what can be awaited for it."""
        return self._caller._send(self._method, request, self._until - time.monotonic())

    def fail(self, error: grpc.RpcError) -> None:
        """Raises ClientError, unless another go is worth it."""
        if self._is_last or not broke_off(error) or self._until - time.monotonic() < _MIN_SECONDS_LEFT:
            raise ClientError(explain(error, self._caller.address, self._caller.timeout_seconds)) from error
        self._is_last = True
