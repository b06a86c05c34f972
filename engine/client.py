"""Typed clients, one that waits and one for asyncio: queries in, plain values out, errors a person can act on.

Here calls are carried, and nothing else: questions are made in `engine.questions` and `engine.batches`, answers read in
`engine.answers`, connections, retries and what guards them stand in `engine.connections`. Every RPC only reads, so
what fails with UNAVAILABLE is asked again. Kept honest by tests/test_client.py and tests/test_async_client.py.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from engine import batches, questions
from engine.answers import PartInfo, Recommendations, ReleaseInfo
from engine.batches import Batch, BatchColumns, carts_from_columns
from engine.caller import Caller
from engine.connections import MAX_ANSWER_BYTES, SERVICE_CONFIG
from engine.credentials import ClientTls
from engine.questions import Cart, Question

__all__ = [
    "MAX_ANSWER_BYTES",
    "SERVICE_CONFIG",
    "AsyncClient",
    "BatchColumns",
    "Cart",
    "Client",
    "ClientTls",
    "PartInfo",
    "Recommendations",
    "ReleaseInfo",
    "carts_from_columns",
]

CALLS_OF_A_BATCH = 4
"""Calls of one batch of any size that are on their way at the same time."""

P = ParamSpec("P")
Answer = TypeVar("Answer")
Piece = TypeVar("Piece")
Carried = TypeVar("Carried", bound=Callable[..., Any])


def _described_by(ask: Callable[..., Any]) -> Callable[[Carried], Carried]:
    """Gives a method of a client the name, the documentation and the parameters of the question that it asks."""

    def describe(carry: Carried) -> Carried:
        functools.update_wrapper(carry, ask)
        signature = inspect.signature(ask)
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        shown = signature.replace(parameters=[own, *signature.parameters.values()], return_annotation=signature.empty)
        carry.__signature__ = shown  # type: ignore[attr-defined]
        return carry

    return describe


def _asks(ask: Callable[P, Question[Answer]]) -> Callable[Concatenate[Client, P], Answer]:
    @_described_by(ask)
    def carry(self: Client, /, *arguments: P.args, **options: P.kwargs) -> Answer:
        return self._ask(ask(*arguments, **options))

    return carry


def _asks_many(ask: Callable[P, Batch[Piece, Answer]]) -> Callable[Concatenate[Client, P], Answer]:
    @_described_by(ask)
    def carry(self: Client, /, *arguments: P.args, **options: P.kwargs) -> Answer:
        batch = ask(*arguments, **options)
        with ThreadPoolExecutor(CALLS_OF_A_BATCH, "nearcart-batch") as threads:
            return batch.join(list(threads.map(self._ask, batch.questions)))

    return carry


def _awaits(ask: Callable[P, Question[Answer]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Answer]]:
    @_described_by(ask)
    async def carry(self: AsyncClient, /, *arguments: P.args, **options: P.kwargs) -> Answer:
        return await self._ask(ask(*arguments, **options))

    return carry


def _awaits_many(
    ask: Callable[P, Batch[Piece, Answer]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Answer]]:
    @_described_by(ask)
    async def carry(self: AsyncClient, /, *arguments: P.args, **options: P.kwargs) -> Answer:
        batch = ask(*arguments, **options)
        turn = asyncio.Semaphore(CALLS_OF_A_BATCH)

        async def take_turn(question: Question[Piece]) -> Piece:
            async with turn:
                return await self._ask(question)

        asking = [asyncio.ensure_future(take_turn(question)) for question in batch.questions]
        try:
            return batch.join(await asyncio.gather(*asking))
        finally:
            for each in asking:
                each.cancel()

    return carry


class Client(Caller):
    """Asks the server at `address`, HOST:PORT or any gRPC name. Use it in `with`, or `close` it; it is thread-safe.

    A call has `timeout_seconds` in all. Calls take turns over `connections`, which connect when used. A `token`, text
    or what returns it, or the one in `token_file`, which may change, goes with each call as a bearer token: over `tls`,
    to this machine, or where `allow_plaintext` says that something else guards the way. Every method, and this, raises
    ClientError, whose text says what to do.
    """

    recommend_for_user = _asks(questions.recommend_for_user)
    recommend_for_cart = _asks(questions.recommend_for_cart)
    similar_items = _asks(questions.similar_items)
    recommend_for_users = _asks(questions.recommend_for_users)
    recommend_for_carts = _asks(questions.recommend_for_carts)
    columns_for_users = _asks_many(batches.columns_for_users)
    columns_for_carts = _asks_many(batches.columns_for_carts)
    release = _asks(questions.release)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        for channel in self._channels:
            channel.close()

    def _start(self) -> None:
        self._take_turns(self._connections.open())

    def _ask(self, question: Question[Answer]) -> Answer:
        call = self._call(question.method)
        while True:
            try:
                response = call.send(question.request)
            except grpc.RpcError as error:
                call.fail(error)
            else:
                return question.read(response)


class AsyncClient(Caller):
    """Client, for asyncio: the same arguments and methods, and each method is awaited.

    Use it in `async with`, or await `close`; it belongs to the event loop of its first call.
    """

    recommend_for_user = _awaits(questions.recommend_for_user)
    recommend_for_cart = _awaits(questions.recommend_for_cart)
    similar_items = _awaits(questions.similar_items)
    recommend_for_users = _awaits(questions.recommend_for_users)
    recommend_for_carts = _awaits(questions.recommend_for_carts)
    columns_for_users = _awaits_many(batches.columns_for_users)
    columns_for_carts = _awaits_many(batches.columns_for_carts)
    release = _awaits(questions.release)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        for channel in self._channels:
            await channel.close()

    async def _ask(self, question: Question[Answer]) -> Answer:
        call = self._call(question.method)
        if not self._channels:  # not before a loop runs: channels belong to one
            self._take_turns(self._connections.open_async())
        while True:
            try:
                response = await call.send(question.request)
            except grpc.RpcError as error:
                call.fail(error)
            else:
                return question.read(response)
