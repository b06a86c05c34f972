"""Batches of any size: cut to what a call may ask, joined as columns that say what the single answers say."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from fake_backend import FakeReleases, FakeSnapshot, serving
from hypothesis import example, given
from hypothesis import strategies as st
from nearcart.v1 import recommendation_pb2 as wire
from plain_server import answering

from engine.batches import columns_for_carts, columns_for_users
from engine.client import CALLS_OF_A_BATCH, AsyncClient, BatchColumns, Cart, Client, carts_from_columns
from engine.connections import MAX_REQUEST_BYTES
from engine.errors import ClientError
from engine.queries import MAX_BATCH_ANSWERS, MAX_BATCH_QUERIES, Repeat, Source


def pieces(columns: Any) -> list[tuple[tuple[str, ...], tuple[float, ...], Source]]:
    """The answers of columns, one by one."""
    bounds = zip(columns.offsets[:-1], columns.offsets[1:], columns.sources, strict=True)
    return [
        (tuple(columns.item_ids[start:stop]), tuple(columns.scores[start:stop].tolist()), source)
        for start, stop, source in bounds
    ]


def test_columns_say_what_the_answers_one_by_one_say() -> None:
    users = [f"user {number % 8}" for number in range(1_700)]
    carts = [Cart([f"item {number % 33}", "gone"], f"user {number % 8}") for number in range(1_234)]
    with serving() as server, Client(server.address) as client:
        for_users = client.columns_for_users(users, limit=7, repeat=Repeat.ONLY)
        for_carts = client.columns_for_carts(carts, limit=3, history_weight=0.5, exclude_item_ids=["item 2"])
        one_by_one = [*client.recommend_for_users(users[:1000], limit=7, repeat=Repeat.ONLY)]
        one_by_one += client.recommend_for_users(users[1000:], limit=7, repeat=Repeat.ONLY)
        cart_answers = client.recommend_for_carts(carts[:1000], limit=3, exclude_item_ids=["item 2"])
    assert pieces(for_users) == [(each.item_ids, each.scores, each.source) for each in one_by_one]
    assert pieces(for_carts)[:1000] == [(each.item_ids, each.scores, each.source) for each in cart_answers]
    assert (len(for_users), len(for_carts)) == (1_700, 1_234)
    assert for_users.release_ids == for_carts.release_ids == ("release 1",)
    assert (for_users.unknown_item_ids, for_carts.unknown_item_ids) == ((), ("gone", "item 30", "item 31", "item 32"))
    assert (for_users.scores.dtype, for_users.offsets.dtype) == (np.float32, np.int64)
    assert for_users.item_ids.dtype == np.dtypes.StringDType()


def test_options_reach_every_call() -> None:
    snapshot = FakeSnapshot()
    options: dict[str, Any] = {
        "limit": 500,
        "strict": True,
        "allowed_item_ids": ["item 3"],
        "without_parts": ["als"],
    }
    with serving(FakeReleases(snapshot)) as server, Client(server.address) as client:
        client.columns_for_users(["user 1"] * 201, **options)
        client.columns_for_carts([Cart(["item 1"], "user 1", [2])] * 201, history_weight=0.25, **options)
    assert len(snapshot.asked) == 402
    for query in snapshot.asked:
        assert (query.limit, query.strict, query.allowed_item_ids, query.without_parts) == (
            500,
            True,
            ("item 3",),
            ("als",),
        )
    assert {getattr(query, "history_weight", None) for query in snapshot.asked} == {None, 0.25}


@given(st.integers(0, 5_000), st.sampled_from([None, 1, 20, 100, 101, 333, 1_000]))
def test_every_call_keeps_the_limits_of_the_server(n_users: int, limit: int | None) -> None:
    user_ids = [f"{number}" for number in range(n_users)]
    batch = columns_for_users(user_ids, limit=limit)
    requests: list[Any] = [question.request for question in batch.questions]
    assert [user_id for request in requests for user_id in request.user_ids] == user_ids
    most = min(MAX_BATCH_QUERIES, MAX_BATCH_ANSWERS // (limit or 20))
    assert all(0 < len(request.user_ids) <= most for request in requests)
    assert len(requests) == -(-n_users // most)


@example([500] * 60)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=60))
def test_carts_whose_request_would_be_too_large_are_cut_further(sizes: list[int]) -> None:
    carts = [Cart(["i" * 512] * size, str(number)) for number, size in enumerate(sizes)]
    requests: list[Any] = [question.request for question in columns_for_carts(carts).questions]
    assert [cart.user_id for request in requests for cart in request.carts] == [cart.user_id for cart in carts]
    assert all(request.ByteSize() <= MAX_REQUEST_BYTES for request in requests)
    assert len(requests) <= max(1, sum(sizes) * 515 // (MAX_REQUEST_BYTES // 4))


def test_a_limit_that_is_refused_is_refused_by_the_server() -> None:
    with serving() as server, Client(server.address) as client:
        for limit in (0, -3, 1_001, 2_000_000):
            with pytest.raises(ClientError, match="limit: is"):
                client.columns_for_users(["user 1"] * 3, limit=limit)


def test_no_queries_are_no_calls_and_empty_columns() -> None:
    with Client("127.0.0.1:1") as client:
        for columns in (client.columns_for_users([]), client.columns_for_carts([])):
            assert (len(columns), len(columns.item_ids), columns.offsets.tolist()) == (0, 0, [0])
            assert (columns.item_ids.dtype, columns.scores.dtype) == (np.dtypes.StringDType(), np.float32)


def columns_of_the_client(address: str, user_ids: list[str]) -> BatchColumns:
    with Client(address) as client:
        return client.columns_for_users(user_ids)


def columns_of_the_asynchronous_client(address: str, user_ids: list[str]) -> BatchColumns:
    async def ask() -> BatchColumns:
        async with AsyncClient(address) as client:
            return await client.columns_for_users(user_ids)

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [columns_of_the_client, columns_of_the_asynchronous_client])
def test_some_calls_are_on_their_way_at_a_time_and_a_swap_between_them_is_told(
    ask: Callable[[str, list[str]], BatchColumns],
) -> None:
    together = threading.Barrier(CALLS_OF_A_BATCH)
    running, most, lock = 0, 0, threading.Lock()

    def answer(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)
        time.sleep(0.05)  # for what should not be on its way yet
        with lock:
            running -= 1
        release_id = "old" if int(request.user_ids[0]) < 4_000 else "new"
        n_users = len(request.user_ids)
        sources = [wire.SOURCE_POPULAR] * n_users
        return wire.BatchRecommendForUsersResponse(counts=[0] * n_users, sources=sources, release_id=release_id)

    with answering(answer, threads=2 * CALLS_OF_A_BATCH) as address:
        columns = ask(address, [str(number) for number in range(2 * CALLS_OF_A_BATCH * 1_000)])
    assert most == CALLS_OF_A_BATCH
    assert columns.release_ids == ("old", "new")
    assert columns.offsets.tolist() == [0] * 8_001


@pytest.mark.parametrize("dtype", [object, np.str_, np.dtypes.StringDType()])
def test_arrays_of_any_kind_of_text_are_ids(dtype: Any) -> None:
    ids = ["user 1", "Käufer 2", ""]
    (question,) = columns_for_users(np.array(ids, dtype)).questions
    request: Any = question.request
    assert list(request.user_ids) == ids


@pytest.mark.parametrize("ids", [np.arange(3), np.array([["a"], ["b"]]), np.array([b"a"])])
def test_arrays_that_are_no_row_of_text_are_refused(ids: Any) -> None:
    with pytest.raises(ClientError, match=r"ids: found an array .*, expected one row of text"):
        columns_for_users(ids)


@given(st.lists(st.lists(st.text("abc", min_size=1), max_size=5), max_size=20))
def test_carts_come_out_of_columns_as_they_went_in(rows: list[list[str]]) -> None:
    flat = np.array([each for row in rows for each in row], np.dtypes.StringDType())
    offsets = np.cumsum([0, *map(len, rows)])
    users = ["" if number % 3 == 0 else f"user {number}" for number in range(len(rows))]
    quantities = np.arange(1, len(flat) + 1)
    carts = carts_from_columns(flat, offsets, user_ids=np.array(users, object), quantities=quantities)
    assert [list(cart.item_ids) for cart in carts] == rows
    assert [cart.user_id or "" for cart in carts] == users
    assert [each for cart in carts for each in cart.quantities] == quantities.tolist()
    assert None in [cart.user_id for cart in carts] or not rows
    plain = carts_from_columns(flat, offsets)
    assert [(cart.user_id, cart.quantities) for cart in plain] == [(None, [])] * len(rows)


@pytest.mark.parametrize(
    ("offsets", "options", "message"),
    [
        ([], {}, "offsets: expected numbers that never fall, from 0 to 3"),
        ([0, 2], {}, "from 0 to 3"),
        ([1, 3], {}, "from 0 to 3"),
        ([0, 2, 1, 3], {}, "never fall"),
        ([0, 3], {"user_ids": ["a", "b"]}, "user_ids: found 2, expected one for each of 1 carts"),
        ([0, 3], {"quantities": np.ones(2, np.int64)}, "quantities: found 2, expected one for each of 3 item ids"),
    ],
)
def test_columns_that_do_not_fit_are_refused(offsets: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        carts_from_columns(["a", "b", "c"], np.array(offsets, np.int64), **options)
