"""Servers that refuse every call: what saying no costs, through a transport of the engine's and at its cheapest.

Runs in a process of its own, which `command` starts, for benchmarks.fault_overload. `calls` is the way of a worker that
is full: engine.calls lets nobody in. `floor` is grpcio's own limit, maximum_concurrent_rpcs, whose refusal carries no
details. Prints HOST:PORT when it answers; runs until it is ended.
"""

from __future__ import annotations

import argparse
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from benchmarks.bare_servers import PATH, TRANSPORTS
from engine.calls import Calls
from engine.transport import TransportOptions
from engine.worker import TRANSPORTS as ENGINES

KINDS = ("calls", "floor")
_CHILD = "from benchmarks.refusing_servers import main; main()"


def command(kind: str, transport: str) -> list[str]:
    """What runs a server; `floor` is grpcio's."""
    return [sys.executable, "-c", _CHILD, kind, "--transport", transport]


def serve_calls(transport: str) -> None:
    """As a worker does that has no place."""
    calls = Calls({PATH: lambda payloads: [b""] * len(payloads)}, most=0)
    server = ENGINES[transport](calls, TransportOptions(), [], lambda: None)
    port = server.bind("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    threading.Event().wait()


def serve_floor() -> None:
    methods = {PATH.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(lambda payload, context: b"")}
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=0)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PATH.split("/")[1], methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def main() -> None:
    """In the process of the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--transport", choices=TRANSPORTS, default="grpcio")
    arguments = parser.parse_args()
    if arguments.kind == "floor":
        serve_floor()
    else:
        serve_calls(arguments.transport)
