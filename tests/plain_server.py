"""A gRPC server that answers what a test says, with nothing of the engine in it; as a program, a worker to be killed.

    python tests/plain_server.py HOST:PORT [break]

answers users on a port that several may share, and prints the port; with `break` it dies in the middle of its first
answer, after the headers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from nearcart.v1 import recommendation_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["RecommendationService"]

Answer = Callable[[str, Any, grpc.ServicerContext], Any]
"""Of the name of an RPC, its request and its context; what is returned is the response, None an empty one."""


def new_server(answer: Answer, threads: int = 8, **options: Any) -> grpc.Server:
    server = grpc.server(
        ThreadPoolExecutor(threads), options=[(f"grpc.{name}", each) for name, each in options.items()]
    )
    handlers = {}
    for method in SERVICE.methods:
        response = GetMessageClass(method.output_type)

        def handle(request: Any, context: Any, name: str = method.name, response: Any = response) -> Any:
            return answer(name, request, context) or response()

        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            handle, GetMessageClass(method.input_type).FromString, response.SerializeToString
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    return server


@contextlib.contextmanager
def answering(answer: Answer, credentials: grpc.ServerCredentials | None = None, **options: Any) -> Iterator[str]:
    """The address of a server that answers so, on this machine."""
    server = new_server(answer, **options)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


def one_item(request: Any) -> wire.RecommendForUserResponse | wire.BatchRecommendForUsersResponse:
    """An item for the user, or a hundred for each of a batch."""
    if not hasattr(request, "user_ids"):
        return wire.RecommendForUserResponse(
            item_ids=[request.user_id], scores=[1.0], source=wire.SOURCE_PERSONAL, release_id=str(os.getpid())
        )
    n_users = len(request.user_ids)
    return wire.BatchRecommendForUsersResponse(
        item_ids=["a long name of an item"] * 100 * n_users,
        scores=[1.0] * 100 * n_users,
        counts=[100] * n_users,
        sources=[wire.SOURCE_PERSONAL] * n_users,
        release_id=str(os.getpid()),
    )


def _work(name: str, request: Any, context: grpc.ServicerContext) -> Any:
    time.sleep(0.002)
    return one_item(request)


def _break(name: str, request: Any, context: grpc.ServicerContext) -> Any:
    context.send_initial_metadata(())
    time.sleep(0.1)  # until the headers are out
    os._exit(1)


if __name__ == "__main__":
    worker = new_server(_break if sys.argv[2:] == ["break"] else _work, so_reuseport=1)
    print(worker.add_insecure_port(sys.argv[1]), flush=True)
    worker.start()
    worker.wait_for_termination()
