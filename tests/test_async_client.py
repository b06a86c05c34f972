"""The client for asyncio: the same questions, messages and answers as the one that waits."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from fake_backend import FakeReleases, FakeSnapshot, serving
from plain_server import answering, one_item

from engine.client import AsyncClient, Cart, Client
from engine.errors import ClientError
from engine.filters import AnyOf
from engine.queries import Repeat

RESTRICTED: dict[str, Any] = {"limit": 3, "exclude_item_ids": ["item 1"], "filter": AnyOf("category", ["cups"])}
QUESTIONS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("recommend_for_user", ("user 1",), {**RESTRICTED, "recent_item_ids": ["item 5", "gone"], "shares": True}),
    ("recommend_for_cart", (["item 0", "gone"],), {**RESTRICTED, "user_id": "user 1", "quantities": [2, 1]}),
    ("similar_items", ("item 0",), {**RESTRICTED, "titles": True}),
    ("recommend_for_users", (["user 1", "stranger"],), {**RESTRICTED, "repeat": Repeat.ONLY}),
    (
        "recommend_for_carts",
        ([Cart(["item 0"], "user 1"), Cart(["gone"], "user 2")],),
        {**RESTRICTED, "history_weight": 0.5},
    ),
    ("release", (), {}),
]


def public_methods(kind: type) -> dict[str, Callable[..., Any]]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_") and name != "close"}


def test_both_clients_have_the_same_methods_with_the_same_parameters_and_documentation() -> None:
    waiting, awaited = public_methods(Client), public_methods(AsyncClient)
    assert {name for name, _, _ in QUESTIONS} < set(waiting)
    assert waiting.keys() == awaited.keys()
    for name, method in waiting.items():
        assert inspect.signature(method) == inspect.signature(awaited[name])
        assert next(iter(inspect.signature(method).parameters)) == "self"
        assert method.__doc__ == awaited[name].__doc__ != ""
        assert (method.__name__, inspect.iscoroutinefunction(awaited[name])) == (name, True)
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    assert list(inspect.signature(Client("127.0.0.1:1").similar_items).parameters)[:2] == ["item_id", "limit"]


@pytest.mark.parametrize(("name", "arguments", "options"), QUESTIONS, ids=[name for name, _, _ in QUESTIONS])
def test_both_clients_ask_and_answer_alike(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    snapshot = FakeSnapshot()
    with serving(FakeReleases(snapshot)) as server, Client(server.address) as client:

        async def ask() -> Any:
            async with AsyncClient(server.address) as asynchronous:
                return await getattr(asynchronous, name)(*arguments, **options)

        expected, asked = getattr(client, name)(*arguments, **options), list(snapshot.asked)
        snapshot.asked.clear()
        assert asyncio.run(ask()) == expected
        assert snapshot.asked == asked
        assert asked or name == "release"


def failing(ask: Callable[[AsyncClient], Awaitable[object]], address: str, **options: Any) -> str:
    async def main() -> None:
        async with AsyncClient(address, **options) as client:
            await ask(client)

    with pytest.raises(ClientError) as caught:
        asyncio.run(main())
    return str(caught.value)


def test_refusals_are_explained() -> None:
    with serving() as server:
        message = failing(lambda client: client.recommend_for_user("", limit=0), server.address)
        assert [line.split(":")[0].strip() for line in message.splitlines()[1:]] == ["user_id", "limit"]
        message = failing(lambda client: client.similar_items("nowhere"), server.address)
        assert message == "not found: this shop does not hold the item 'nowhere'"
    assert f"no answer from {server.address}" in failing(lambda client: client.release(), server.address)
    assert "cannot be put into a message" in failing(lambda client: client.similar_items("a", limit=2**40), "a")


def test_the_deadline_is_kept() -> None:
    snapshot, leave = FakeSnapshot(), threading.Event()
    snapshot.meanwhile = lambda: leave.wait(10)
    with serving(FakeReleases(snapshot)) as server:
        message = failing(lambda client: client.recommend_for_user("user 1"), server.address, timeout_seconds=0.1)
        leave.set()
    assert "did not answer within 0.1 seconds" in message


def test_a_call_that_is_cancelled_ends_and_the_client_goes_on() -> None:
    asked, leave = threading.Event(), threading.Event()

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        if request.user_id == "slow":
            asked.set()
            leave.wait(10)
        return one_item(request)

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            slow = asyncio.ensure_future(client.recommend_for_user("slow"))
            await asyncio.get_running_loop().run_in_executor(None, asked.wait)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await client.recommend_for_user("a")).item_ids == ("a",)

    with answering(answer) as address:
        try:
            asyncio.run(main(address))
        finally:
            leave.set()


def test_a_client_that_was_closed_says_so() -> None:
    async def main() -> None:
        client = AsyncClient("127.0.0.1:1")
        await client.close()
        with pytest.raises(ClientError, match=r"AsyncClient\('127\.0\.0\.1:1'\) was closed: make another one"):
            await client.release()

    asyncio.run(main())
    with Client("127.0.0.1:1") as client:
        pass
    with pytest.raises(ClientError, match="was closed: make another one"):
        client.release()


def test_a_batch_of_many_calls_is_joined_in_order_and_one_failure_ends_it() -> None:
    async def main(address: str, user_ids: list[str]) -> Any:
        async with AsyncClient(address) as client:
            return await client.columns_for_users(user_ids, limit=1000)

    with serving() as server:
        users = [f"user {number % 7}" for number in range(350)]
        columns = asyncio.run(main(server.address, users))
        with Client(server.address) as client:
            expected = client.columns_for_users(users, limit=1000)
        with pytest.raises(ClientError, match="malformed"):
            asyncio.run(main(server.address, [*users, ""]))
    assert len(columns) == 350
    np.testing.assert_array_equal(columns.offsets, expected.offsets)
    np.testing.assert_array_equal(columns.item_ids, expected.item_ids)
    np.testing.assert_array_equal(columns.sources, expected.sources)
