"""How fast does a gRPC server answer, and how late, under a load that does not wait for it?

Two kinds of load, both from one thread on one core. The open loop sends calls at times drawn beforehand (Poisson
arrivals at the offered rate, from a seed) and counts latency from the time a call was due, however late it was sent: a
server that stalls for a second delays all calls of that second. The closed loop keeps so many calls in flight and sends
the next when one is answered: it finds the most calls a second that a server reaches, and hides its stalls.

    python -m benchmarks.load 127.0.0.1:50051 --requests FILE [--rate 5000] [--seconds 10] [--json FILE]

FILE has a request a line, as JSON of the method's message, {"user_id": "17"}; calls take them in turn. Without --rate
the loop is closed. For use in Python see `open_loop` and `closed_loop`. HTTP/2 is spoken in `benchmarks.http2_calls`.
"""

from __future__ import annotations

import argparse
import gc
import math
import select
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pool, json_format, message_factory
from nearcart.v1 import recommendation_pb2  # noqa: F401 - so that its messages are known

from benchmarks.http2_calls import Connection, PreparedRequest, Request
from benchmarks.raw_rows import write_rows
from benchmarks.timed_calls import NOT_CONNECTED, Calls, Record, status_name

_READY_SECONDS = 5.0
_AT_ONCE = 64
"""Calls sent before answers are looked at again."""
_SPIN_SECONDS = 0.002
"""Sleeping ends up to so much late; the rest of a pause is spent looking."""
_RECONNECT_SECONDS = 0.01


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


def open_loop(
    address: str,
    requests: Sequence[Request],
    rate: float,
    seconds: float,
    seed: int = 0,
    connections: int = 4,
    options: CallOptions = CallOptions(),
) -> Calls:
    """Poisson arrivals of `rate` calls a second. Raises OSError where nobody listens at HOST:PORT."""
    generator = np.random.default_rng(seed)
    length = options.warmup_seconds + seconds
    due = np.cumsum(generator.exponential(1 / rate, int(rate * length + 6 * math.sqrt(rate * length) + 10)))
    due = due[due < length]
    with _Sender(address, requests, connections, options, generator) as sender:
        began = time.perf_counter() + 0.001
        times = (due + began).tolist()
        n, sent = len(times), 0
        while sent < n:
            now = time.perf_counter()
            most = min(n, sent + _AT_ONCE)
            while sent < most and times[sent] <= now:
                sender.send(sender.turn(), times[sent], now)
                sent += 1
            sender.look(times[sent] - now if sent < n else 0.0)
        sender.drain()
    window = (began + options.warmup_seconds, began + length)
    return Calls.of(sender.record, "open", rate, window, connections, options.deadline_seconds)


def closed_loop(
    address: str,
    requests: Sequence[Request],
    seconds: float,
    connections: int = 4,
    in_flight: int = 8,
    options: CallOptions = CallOptions(),
    seed: int = 0,
) -> Calls:
    """`in_flight` calls at any time on each connection. Raises OSError where nobody listens at HOST:PORT."""
    with _Sender(address, requests, connections, options, np.random.default_rng(seed)) as sender:
        began = time.perf_counter()
        ending = began + options.warmup_seconds + seconds
        free = [place for place in range(connections) for _ in range(in_flight)]
        while (now := time.perf_counter()) < ending:
            free = [place for place in free if not sender.send(place, now, now)]
            # Where a connection could not be made again, soon try once more.
            ended = sender.look(_RECONNECT_SECONDS if free else ending - now)
            free += [place for place, n in ended for _ in range(n)]
        sender.drain()
    window = (began + options.warmup_seconds, ending)
    return Calls.of(sender.record, "closed", math.nan, window, connections, options.deadline_seconds)


class _Sender:
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
        self._cancels: deque[tuple[float, Connection, int]] = deque()
        self._to_write: set[Connection] = set()
        self._n_sent = 0

    def __enter__(self) -> _Sender:
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
        self._to_write.add(connection)
        if self._options.cancel_share and self._generator.random() < self._options.cancel_share:
            self._cancels.append((now + self._options.cancel_after_seconds, connection, call))
        return True

    def look(self, seconds: float) -> list[tuple[int, int]]:
        """Write what is to be written, wait at most `seconds` for something to read and read it; (place, calls ended)
        of each connection that was read. Returns early rather than late."""
        now = time.perf_counter()
        while self._cancels and self._cancels[0][0] <= now:
            _, connection, call = self._cancels.popleft()
            connection.cancel(call, now)
            self._to_write.add(connection)
        if self._cancels:
            seconds = min(seconds, self._cancels[0][0] - now)
        if self._to_write:
            for connection in self._to_write:
                connection.flush(now)
            self._to_write = {connection for connection in self._to_write if connection.has_to_write}
            if self._to_write:
                seconds = 0.0
        ended = []
        for descriptor, _ in self._epoll.poll(seconds - _SPIN_SECONDS if seconds > _SPIN_SECONDS else 0):
            place, connection = self._places[descriptor]
            n = connection.read(time.perf_counter())
            if connection.has_to_write:
                self._to_write.add(connection)
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
        self._to_write.add(connection)
        return connection

    def _connect_again(self, place: int, now: float) -> Connection | None:
        """A new connection in the place of one that takes no more calls; the old one is read until it is lost."""
        if now < self._refused_until:
            return None
        try:
            return self._connect(place)
        except OSError:
            self._refused_until = now + _RECONNECT_SECONDS
            return None

    def _close(self) -> None:
        for _, connection in self._places.values():
            connection.socket.close()
        self._epoll.close()


def _requests_of(path: str, file: Path) -> list[Request]:
    """Requests from lines of JSON; the message's type is looked up in nearcart.v1."""
    service, _, method = path.strip("/").partition("/")
    pool = descriptor_pool.Default()
    kind = message_factory.GetMessageClass(pool.FindServiceByName(service).methods_by_name[method].input_type)
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    return [Request(path, json_format.Parse(line, kind()).SerializeToString()) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--requests", type=Path, required=True, help="a request a line, as JSON")
    parser.add_argument("--path", default="/nearcart.v1.RecommendationService/RecommendForUser")
    parser.add_argument("--rate", type=float, help="calls a second; without it the loop is closed")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warmup-seconds", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=8, help="of each connection, in a closed loop")
    parser.add_argument("--deadline-seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the raw row here")
    arguments = parser.parse_args()
    requests = _requests_of(arguments.path, arguments.requests)
    options = CallOptions(warmup_seconds=arguments.warmup_seconds, deadline_seconds=arguments.deadline_seconds)
    if arguments.rate:
        seed, connections = arguments.seed, arguments.connections
        calls = open_loop(arguments.address, requests, arguments.rate, arguments.seconds, seed, connections, options)
    else:
        calls = closed_loop(
            arguments.address, requests, arguments.seconds, arguments.connections, arguments.in_flight, options
        )
    for name, value in calls.row().items():
        print(f"{name:16} {value:,.4g}" if isinstance(value, float) else f"{name:16} {value}")
    for status, message in calls.messages.items():
        print(f"first {status_name(status)}: {message}")
    if arguments.json:
        write_rows(arguments.json, [calls.row()])


if __name__ == "__main__":
    main()
