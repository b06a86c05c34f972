"""One thread that sends calls over several connections and takes in what comes back; for `benchmarks.load`.

Knows no clock of its own: `open_loop` and `closed_loop` say when to send. Kept honest by tests/test_load_benchmark.py.
"""

from __future__ import annotations

import gc
import math
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.http2_calls import Connection
from benchmarks.http2_requests import PreparedRequest, Request
from benchmarks.timed_calls import NOT_CONNECTED, Record

_READY_SECONDS = 5.0
_SPIN_SECONDS = 0.002
"""Sleeping ends up to so much late; the rest of a pause is spent looking."""
RECONNECT_SECONDS = 0.01


@dataclass(frozen=True)
class CallOptions:
    """How calls are made and counted.

    The first `warmup_seconds` are run and not counted; after the end there are `drain_seconds` for answers to come.
    `deadline_seconds` goes as grpc-timeout, and answers later than that count as DEADLINE_EXCEEDED. A share
    `cancel_share` of the calls is cancelled `cancel_after_seconds` after sending. Every `keep_every`-th answer is kept.
    """

    warmup_seconds: float = 0.0
    drain_seconds: float = 10.0
    deadline_seconds: float = math.inf
    metadata: tuple[tuple[str, str], ...] = ()
    cancel_share: float = 0.0
    cancel_after_seconds: float = 0.001
    keep_every: int = 0


class Sender:
    """Connections by place, and the loop's turn around them: cancel what is due, write, wait, read, connect again."""

    def __init__(
        self,
        address: str,
        requests: Sequence[Request],
        connections: int,
        options: CallOptions,
        generator: np.random.Generator,
    ) -> None:
        self.record = Record(options.keep_every)
        self._address, self._options, self._generator = address, options, generator
        self._requests = [PreparedRequest(request) for request in requests]
        timeout = options.deadline_seconds
        headers = () if math.isinf(timeout) else (("grpc-timeout", f"{max(1, round(timeout * 1e6))}u"),)
        self._headers = (*headers, *options.metadata)
        self._epoll = select.epoll()
        self._connections: list[Connection | None] = [None] * connections
        self._places: dict[int, tuple[int, Connection]] = {}
        self._refused_until = 0.0
        self._cancels: deque[tuple[float, int, Connection, int]] = deque()
        self._to_write: set[tuple[int, Connection]] = set()
        self._n_sent = 0

    def __enter__(self) -> Sender:
        for place in range(len(self._connections)):
            self._connect(place)
        until = time.perf_counter() + _READY_SECONDS
        while not all(each is not None and each.is_ready for each in self._connections):
            if time.perf_counter() > until:
                self._close()
                raise TimeoutError(f"{self._address} does not speak HTTP/2 without TLS: no settings in 5 seconds")
            self.look(0.01)
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()
        self._close()

    def turn(self) -> int:
        """The place whose turn it is."""
        return self._n_sent % len(self._connections)

    def send(self, place: int, intended: float, now: float) -> bool:
        """Whether there was a connection; where not, the call is over."""
        asked = self._n_sent % len(self._requests)
        self._n_sent += 1
        call = self.record.begin(intended, now, asked)
        connection = self._connections[place]
        if connection is None or not connection.takes_calls:
            connection = self._connect_again(place, now)
            if connection is None:
                self.record.end(call, NOT_CONNECTED, now)
                return False
        connection.send(call, self._requests[asked])
        self._to_write.add((place, connection))
        if self._options.cancel_share and self._generator.random() < self._options.cancel_share:
            self._cancels.append((now + self._options.cancel_after_seconds, place, connection, call))
        return True

    def look(self, seconds: float) -> list[tuple[int, int]]:
        """Write what is to be written, wait at most `seconds` for something to read and read it; (place, calls ended)
        of each connection that was read. Returns early rather than late."""
        now = time.perf_counter()
        ended = []
        while self._cancels and self._cancels[0][0] <= now:
            _, place, connection, call = self._cancels.popleft()
            if connection.cancel(call, now):
                ended.append((place, 1))
                self._to_write.add((place, connection))
        if self._cancels:
            seconds = min(seconds, self._cancels[0][0] - now)
        if self._to_write:
            for place, connection in self._to_write:
                lost = connection.flush(now)
                if lost:
                    ended.append((place, lost))
            self._to_write = {each for each in self._to_write if each[1].has_to_write}
        if self._to_write or ended:
            seconds = 0.0
        for descriptor, _ in self._epoll.poll(seconds - _SPIN_SECONDS if seconds > _SPIN_SECONDS else 0):
            place, connection = self._places[descriptor]
            n = connection.read(time.perf_counter())
            if connection.has_to_write:
                self._to_write.add((place, connection))
            if n:
                ended.append((place, n))
        return ended

    def drain(self) -> None:
        """Wait until all calls are over, or the time for that is."""
        until = time.perf_counter() + self._options.drain_seconds
        while any(connection.n_calls for _, connection in self._places.values()):
            if time.perf_counter() > until:
                return
            self.look(0.01)

    def _connect(self, place: int) -> Connection:
        connection = Connection(self._address, self._headers, self.record)
        self._connections[place] = connection
        # A lost connection has left the epoll by being closed; its number, once given again, is the new one's.
        self._places[connection.socket.fileno()] = (place, connection)
        self._epoll.register(connection.socket, select.EPOLLIN)
        self._to_write.add((place, connection))
        return connection

    def _connect_again(self, place: int, now: float) -> Connection | None:
        """A new connection in the place of one that takes no more calls; the old one is read until it is lost."""
        if now < self._refused_until:
            return None
        try:
            return self._connect(place)
        except OSError:
            self._refused_until = now + RECONNECT_SECONDS
            return None

    def _close(self) -> None:
        for _, connection in self._places.values():
            connection.socket.close()
        self._epoll.close()
