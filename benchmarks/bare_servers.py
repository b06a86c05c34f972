"""The least that a gRPC server in Python can be: what `nearcart serve` is held against in benchmarks.latency.

Runs in a process of its own, which `command` starts. `empty` answers nothing at once: the cost of the stack itself.
`search` looks the request up, as bytes, in a dict of the users that will be asked for, searches with the user's stored
vector and what is to be left out, through the same index as the full server, and answers with one message encoded
beforehand, as long as a real one. Prints HOST:PORT when it answers; runs until it is ended. No status but OK, no check,
no metrics.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from nearcart.v1 import recommendation_pb2 as wire

from benchmarks.made_release import AskedUsers, K
from engine.libraries import use_one_thread
from engine.release import Release

PATH = "/nearcart.v1.RecommendationService/RecommendForUser"
TRANSPORTS = ("grpcio", "native")
Handler = Callable[[bytes], bytes]
_CHILD = "from benchmarks.bare_servers import main; main()"
_AT_ONCE = 64
_THREADS = 4
"""Of 1, 2, 4 and 8 the fastest around an empty handler, by 20% of 1 (four turns, one core)."""


def has_native() -> bool:
    """Whether the package of the native transport is installed."""
    return importlib.util.find_spec("pygrpc_native") is not None


def command(handler: str, transport: str, release: Path | None = None, n_asked: int = 0) -> list[str]:
    """What runs a server; `search` needs a release, and how many of its users will be asked for."""
    start = [sys.executable, "-c", _CHILD, handler, "--transport", transport]
    return start if release is None else [*start, "--release", str(release), "--asked", str(n_asked)]


def empty(payload: bytes) -> bytes:
    return b""


def searching(release: Release, n_asked: int) -> Handler:
    """A handler that searches and does not tell what it found."""
    asked = AskedUsers.of(release, n_asked)
    index = asked.index
    known = {
        request.payload: (vector[np.newaxis], [rows])
        for request, vector, rows in zip(asked.requests(), asked.vectors, asked.excluded, strict=True)
    }
    rows, scores = index.search(asked.vectors[:1], K, asked.excluded[:1])[0]
    answer = wire.RecommendForUserResponse(
        item_ids=[f"item-{row:07}" for row in rows],
        scores=scores.tolist(),
        source=wire.SOURCE_PERSONAL,
        release_id=release.release_id,
    ).SerializeToString()

    def handle(payload: bytes) -> bytes:
        vector, excluded = known[payload]
        index.search(vector, K, excluded)
        return answer

    return handle


def serve_grpcio(handle: Handler) -> None:
    """grpcio's server with a pool of _THREADS, its messages as bytes."""
    methods = {PATH.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(lambda payload, context: handle(payload))}
    pool = ThreadPoolExecutor(_THREADS, initializer=use_one_thread)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(PATH.split("/")[1], methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def serve_native(handle: Handler) -> None:
    """pygrpc-native's lowest layer: batches of calls, answered one after the other on this thread."""
    from pygrpc_native import EVENT_CALL, NativeGrpcFront

    front = NativeGrpcFront("127.0.0.1:0", [(PATH, False)], io_threads=1)
    front.start()
    use_one_thread()
    print(f"127.0.0.1:{front.bound_port}", flush=True)
    while (events := front.recv_batch(_AT_ONCE)) is not None:
        for kind, call, _, payload, _ in events:
            if kind == EVENT_CALL:
                front.respond(call, handle(payload))


def main() -> None:
    """In the process of the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("handler", choices=("empty", "search"))
    parser.add_argument("--transport", choices=TRANSPORTS, default="grpcio")
    parser.add_argument("--release", type=Path)
    parser.add_argument("--asked", type=int, default=0)
    arguments = parser.parse_args()
    handle = empty if arguments.handler == "empty" else searching(Release(arguments.release), arguments.asked)
    if arguments.transport == "native":
        serve_native(handle)
    else:
        serve_grpcio(handle)
