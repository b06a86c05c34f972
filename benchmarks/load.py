"""How fast does a gRPC server answer, and how late, under a load that does not wait for it?

Two kinds of load, both from one thread on one core. The open loop sends calls at times drawn beforehand (Poisson
arrivals at the offered rate, from a seed) and counts latency from the time a call was due, however late it was sent: a
server that stalls for a second delays all calls of that second. The closed loop keeps so many calls in flight and sends
the next when one is answered: it finds the most calls a second that a server reaches, and hides its stalls.

    python -m benchmarks.load 127.0.0.1:50051 --requests FILE [--rate 5000] [--seconds 10] [--json FILE]
    python -m benchmarks.load [--quick] [--json FILE]

FILE has a request a line, as JSON of the method's message, {"user_id": "17"}; calls take them in turn. Without --rate
the loop is closed; without an address the load measures itself, against an empty server. For use in Python see
`open_loop` and `closed_loop`. HTTP/2 is spoken in `benchmarks.http2_calls`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pool, json_format, message_factory
from nearcart.v1 import recommendation_pb2  # noqa: F401 - so that its messages are known
from numpy.typing import NDArray

from benchmarks.bare_servers import PATH, command, has_native
from benchmarks.call_sender import RECONNECT_SECONDS, CallOptions, Sender
from benchmarks.http2_requests import Request
from benchmarks.pinned_servers import Cores, on_core, serving
from benchmarks.raw_rows import write_rows
from benchmarks.timed_calls import Calls, status_name

_AT_ONCE = 64
"""Calls sent before answers are looked at again."""
_PLAIN = CallOptions()


def open_loop(
    address: str,
    requests: Sequence[Request],
    rate: float,
    seconds: float,
    seed: int = 0,
    connections: int = 4,
    options: CallOptions = _PLAIN,
) -> Calls:
    """Poisson arrivals of `rate` calls a second. Raises OSError where nobody listens at HOST:PORT."""
    generator = np.random.default_rng(seed)
    length = options.warmup_seconds + seconds
    due = arrivals(generator, rate, length)
    return timed_loop(address, requests, due, rate, length, generator, connections, options)


def arrivals(generator: np.random.Generator, rate: float, seconds: float) -> NDArray[np.float64]:
    """Times from 0 on, at which a Poisson process of `rate` a second asks."""
    due = np.cumsum(generator.exponential(1 / rate, int(rate * seconds + 6 * math.sqrt(rate * seconds) + 10)))
    return due[due < seconds]


def timed_loop(
    address: str,
    requests: Sequence[Request],
    due: NDArray[np.float64],
    rate: float,
    length: float,
    generator: np.random.Generator,
    connections: int = 4,
    options: CallOptions = _PLAIN,
) -> Calls:
    """Calls at the times `due`, rising seconds up to `length`; `rate` is what the row says was offered, `generator`
    draws what is cancelled. Raises OSError where nobody listens at HOST:PORT."""
    with Sender(address, requests, connections, options, generator) as sender:
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
    options: CallOptions = _PLAIN,
    seed: int = 0,
) -> Calls:
    """`in_flight` calls at any time on each connection. Raises OSError where nobody listens at HOST:PORT."""
    with Sender(address, requests, connections, options, np.random.default_rng(seed)) as sender:
        began = time.perf_counter()
        ending = began + options.warmup_seconds + seconds
        free = [place for place in range(connections) for _ in range(in_flight)]
        while (now := time.perf_counter()) < ending:
            free = [place for place in free if not sender.send(place, now, now)]
            # Where a connection could not be made again, soon try once more.
            ended = sender.look(RECONNECT_SECONDS if free else ending - now)
            free += [place for place, n in ended for _ in range(n)]
        sender.drain()
    window = (began + options.warmup_seconds, ending)
    return Calls.of(sender.record, "closed", math.nan, window, connections, options.deadline_seconds)


def _requests_of(path: str, file: Path) -> list[Request]:
    """Requests from lines of JSON; the message's type is looked up in nearcart.v1."""
    service, _, method = path.strip("/").partition("/")
    pool = descriptor_pool.Default()
    kind = message_factory.GetMessageClass(pool.FindServiceByName(service).methods_by_name[method].input_type)
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    return [Request(path, json_format.Parse(line, kind()).SerializeToString()) for line in lines]


def _of_a_server(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One load, as the arguments say."""
    requests = _requests_of(arguments.path, arguments.requests)
    options = CallOptions(warmup_seconds=arguments.warmup_seconds, deadline_seconds=arguments.deadline_seconds)
    address, seconds, connections = arguments.address, arguments.seconds, arguments.connections
    if arguments.rate:
        calls = open_loop(address, requests, arguments.rate, seconds, arguments.seed, connections, options)
    else:
        calls = closed_loop(address, requests, seconds, connections, arguments.in_flight, options)
    for status, message in calls.messages.items():
        print(f"first {status_name(status)}: {message}")
    yield calls.row()


def _of_itself(seconds: float) -> Iterator[dict[str, Any]]:
    """What this load can do: against a server that answers nothing, on another core, the fastest there is."""
    cores = Cores.of_this_machine()
    transport = "native" if has_native() else "grpcio"
    options = CallOptions(warmup_seconds=seconds / 5)
    with serving(cores.server, command("empty", transport)) as address, on_core(cores.load):
        request = Request(PATH, b"0123456789ab")
        times = [(time.perf_counter(), time.process_time())]
        saturation = closed_loop(address, [request], seconds, options=options).row()
        times.append((time.perf_counter(), time.process_time()))
        (started, busy_before), (ended, busy) = times
        yield {"server": f"empty {transport}", **saturation, "sender_busy": (busy - busy_before) / (ended - started)}
        for share in (0.25, 0.5, 0.75):
            rate = share * saturation["achieved"]
            yield {
                "server": f"empty {transport}",
                **open_loop(address, [request], rate, seconds, options=options).row(),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", help="HOST:PORT; without it the load measures itself")
    parser.add_argument("--requests", type=Path, help="a request a line, as JSON; needed with an address")
    parser.add_argument("--path", default=PATH, help="default: %(default)s")
    parser.add_argument("--rate", type=float, help="calls a second; without it the loop is closed")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warmup-seconds", type=float, default=1.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=8, help="of each connection, in a closed loop")
    parser.add_argument("--deadline-seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="measure itself for a moment: does it run?")
    parser.add_argument("--json", type=Path, help="write the raw rows here")
    arguments = parser.parse_args()
    if arguments.address and not arguments.requests:
        parser.error("--requests FILE is needed: what shall be asked of the server?")
    seconds = 0.3 if arguments.quick else arguments.seconds
    rows = list(_of_a_server(arguments) if arguments.address else _of_itself(seconds))
    for row in rows:
        for name, value in row.items():
            print(f"{name:16} {value:,.4g}" if isinstance(value, float) else f"{name:16} {value}")
        print()
    if arguments.json:
        write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
