"""The typed client against a server of the fake shop, and against none."""

from __future__ import annotations

import dataclasses
import datetime
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from fake_backend import ITEMS, FakeReleases, FakeSnapshot, serving
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc

from engine.cli import main
from engine.client import Cart, Client, PartInfo, Recommendations, ReleaseInfo
from engine.errors import ClientError, ServerError
from engine.filters import All, AnyOf, Not, Range
from engine.queries import CartQuery, Repeat, SimilarQuery, Source, UserQuery


@pytest.fixture(scope="module")
def snapshot() -> FakeSnapshot:
    return FakeSnapshot()


@pytest.fixture(scope="module")
def shared_client(snapshot: FakeSnapshot) -> Iterator[Client]:
    with serving(FakeReleases(snapshot)) as server, Client(server.address) as client:
        yield client


@pytest.fixture
def client(shared_client: Client, snapshot: FakeSnapshot) -> Client:
    snapshot.asked.clear()
    return shared_client


def test_every_option_of_a_user_question_arrives(client: Client, snapshot: FakeSnapshot) -> None:
    answer = client.recommend_for_user(
        "user 1",
        limit=2,
        exclude_item_ids=["item 0"],
        recent_item_ids=["gone"],
        repeat=Repeat.MIX,
        strict=True,
        titles=True,
    )
    assert snapshot.asked == [UserQuery("user 1", 2, ["item 0"], ["gone"], Repeat.MIX, True)]
    assert answer == Recommendations(
        ("item 1", "item 2"), (1.0, 0.0), Source.PERSONAL, "release 1", ("gone",), ("ITEM 1", "ITEM 2")
    )


def test_every_option_of_a_cart_question_arrives(client: Client, snapshot: FakeSnapshot) -> None:
    answer = client.recommend_for_cart(
        ["item 0", "gone"],
        user_id="user 1",
        limit=1,
        exclude_item_ids=["item 1"],
        repeat=Repeat.NEVER,
        strict=True,
        titles=True,
        quantities=[3, 1],
        history_weight=0.5,
    )
    asked = CartQuery(["item 0", "gone"], "user 1", 1, ["item 1"], Repeat.NEVER, True)
    assert snapshot.asked == [dataclasses.replace(asked, quantities=(3, 1), history_weight=0.5)]
    assert answer == Recommendations(("item 2",), (1.0,), Source.CART, "release 1", ("gone",), ("ITEM 2",))


def test_every_option_of_a_similar_question_arrives(client: Client, snapshot: FakeSnapshot) -> None:
    answer = client.similar_items("item 0", limit=1, exclude_item_ids=["item 1"], titles=True)
    assert snapshot.asked == [SimilarQuery("item 0", 1, ["item 1"])]
    assert answer == Recommendations(("item 2",), (1.0,), Source.SIMILAR, "release 1", (), ("ITEM 2",))


CHEAP_CUPS = All([AnyOf("category", ["cups"]), Not(Range("price", min=10))])
RESTRICTED: dict[str, Any] = {"filter": CHEAP_CUPS, "allowed_item_ids": ("item 3", "item 4")}


def test_a_filter_and_an_allow_list_arrive_with_every_question(client: Client, snapshot: FakeSnapshot) -> None:
    answers = [
        client.recommend_for_user("user 1", **RESTRICTED),
        client.recommend_for_cart(["item 0"], **RESTRICTED),
        client.similar_items("item 0", **RESTRICTED),
        *client.recommend_for_users(["user 1"], **RESTRICTED),
        *client.recommend_for_carts([Cart(["item 0"])], **RESTRICTED),
    ]
    assert [answer.item_ids for answer in answers] == [("item 3", "item 4")] * 5
    assert [(query.filter, query.allowed_item_ids) for query in snapshot.asked] == [
        (CHEAP_CUPS, ("item 3", "item 4"))
    ] * 5


def test_parts_that_are_not_to_count_arrive_with_every_question(client: Client, snapshot: FakeSnapshot) -> None:
    without: dict[str, Any] = {"without_parts": ["als", "sessions"]}
    client.recommend_for_user("user 1", **without)
    client.recommend_for_cart(["item 0"], **without)
    client.similar_items("item 0", **without)
    client.recommend_for_users(["user 1"], **without)
    client.recommend_for_carts([Cart(["item 0"])], **without)
    assert [query.without_parts for query in snapshot.asked] == [("als", "sessions")] * 5


def test_every_question_may_name_the_release_that_answers() -> None:
    releases = FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))
    with serving(releases) as server, Client(server.address) as client:
        server.holder.promote("release 2")
        for release_id in ("release 1", "release 2"):
            answers = [
                client.recommend_for_user("user 1", release_id=release_id),
                client.recommend_for_cart(["item 1"], release_id=release_id),
                client.similar_items("item 1", release_id=release_id),
                *client.recommend_for_users(["user 1"], release_id=release_id),
                *client.recommend_for_carts([Cart(["item 1"])], release_id=release_id),
            ]
            assert {answer.release_id for answer in answers} == {release_id}
        with pytest.raises(ClientError, match="not loaded here"):
            client.recommend_for_user("user 1", release_id="release 0")


def test_shares_come_back_as_a_row_for_each_item(client: Client, snapshot: FakeSnapshot) -> None:
    answers = [
        client.recommend_for_user("user 1", limit=3, recent_item_ids=["item 7", "gone", "item 5"], shares=True),
        client.recommend_for_cart(["item 0", "item 1"], limit=3, shares=True),
        client.similar_items("item 0", limit=3, shares=True),
        client.recommend_for_user("user 1", limit=3, shares=True),
    ]
    assert [query.shares for query in snapshot.asked] == [True] * 4
    assert [answer.share_item_ids for answer in answers] == [
        ("item 7", "item 5"),
        ("item 0", "item 1"),
        ("item 0",),
        (),
    ]
    for answer in answers[:2]:
        assert answer.scores == (1.0, 0.5, 0.0)
        assert answer.shares == tuple(
            (pytest.approx(score / 3), pytest.approx(score * 2 / 3)) for score in answer.scores
        )
    assert answers[2].shares == ((1.0,), (0.5,), (0.0,))
    assert answers[3].shares == ()


def test_the_query_command_prints_what_gave_most_to_a_score_below_each_item(
    client: Client, snapshot: FakeSnapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    cart = [f"item {number}" for number in range(8)]
    command = ["query", "cart", *cart, "--limit", "2", "--address", client.address]
    assert main([*command, "--shares", "--without", "als", "repeat"]) == 0
    (asked,) = snapshot.asked
    assert (asked.shares, asked.without_parts) == (True, ("als", "repeat"))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "   1      1.0000  item 8  ITEM 8",
        "                  from item 7 0.2222, item 6 0.1944, item 5 0.1667, 5 others 0.4167",
        "   2      0.0000  item 9  ITEM 9",
        "                  from item 0 0.0000, item 1 0.0000, item 2 0.0000, 5 others 0.0000",
        "2 items, source cart, release release 1",
    ]
    assert main(["query", "cart", "item 0", "--limit", "2", "--address", client.address]) == 0
    assert "from" not in capsys.readouterr().out
    assert main([*command, "--shares", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["share_item_ids"] == cart
    assert answer["shares"][0] == pytest.approx([number / 36 for number in range(1, 9)])


@pytest.mark.parametrize("filter", ["category in (cups)", AnyOf(7, ["a"]), Range("price", min="cheap"), Not(None)])  # type: ignore[arg-type]
def test_what_is_no_filter_is_refused_before_anything_is_sent(filter: Any) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ClientError, match="cannot be put into a message"):
        client.recommend_for_user("user 1", filter=filter)


def test_what_is_not_given_is_left_to_the_server(client: Client, snapshot: FakeSnapshot) -> None:
    client.recommend_for_user("user 1")
    client.recommend_for_cart(["item 0"])
    client.similar_items("item 0")
    assert snapshot.asked == [
        UserQuery("user 1", exclude_item_ids=[], recent_item_ids=[]),
        CartQuery(["item 0"], exclude_item_ids=[]),
        SimilarQuery("item 0", exclude_item_ids=[]),
    ]


def test_a_batch_of_users_comes_back_in_order(client: Client) -> None:
    answers = client.recommend_for_users(["user 1", "stranger"], limit=3, repeat=Repeat.ONLY)
    assert [answer.source for answer in answers] == [Source.PERSONAL, Source.POPULAR]
    assert [answer.item_ids for answer in answers] == [tuple(ITEMS[:3])] * 2


def test_each_cart_of_a_batch_gets_its_own_answer_and_its_own_unknown_items(client: Client) -> None:
    carts = [Cart(["item 0", "gone"]), Cart(["item 1"], user_id="user 1"), Cart(["lost", "gone"])]
    batch = client.recommend_for_carts(carts, limit=2)
    singles = [client.recommend_for_cart(cart.item_ids, user_id=cart.user_id, limit=2) for cart in carts]
    assert batch == singles
    assert [answer.unknown_item_ids for answer in batch] == [("gone",), (), ("lost", "gone")]


def test_the_release_is_described(client: Client) -> None:
    assert client.release() == ReleaseInfo(
        release_id="release 1",
        created_at=datetime.datetime(2026, 11, 22, 7, tzinfo=datetime.UTC),
        n_users=5,
        n_items=30,
        format_version=1,
        metrics={
            "recall@20": 0.25,
            "popularity/recall@20": 0.125,
            "index/user/recall@20": 0.75,
            "index/user/median_microseconds": 8.5,
        },
        parts=(PartInfo("als", 1.0, 1.0), PartInfo("neighbours", 0.5, 2.0)),
    )


def test_the_violations_of_a_malformed_question_are_listed(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        client.recommend_for_cart(["item 0", ""], limit=0)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the server refused the question as malformed:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["item_ids[1]", "limit"]


def test_what_is_unknown_is_named(client: Client) -> None:
    with pytest.raises(ClientError, match="not found: this shop does not hold the item 'nowhere'"):
        client.similar_items("nowhere")


@pytest.mark.parametrize("limit", [2**40, "many"])
def test_what_fits_into_no_message_is_an_error_too(client: Client, limit: int) -> None:
    with pytest.raises(ClientError, match="cannot be put into a message"):
        client.recommend_for_user("user 1", limit=limit)


def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        address = f"127.0.0.1:{once.getsockname()[1]}"
    with Client(address) as client, pytest.raises(ClientError, match=rf"no answer from {address}.*nearcart serve"):
        client.release()


def test_a_server_that_has_no_release_yet_is_told_apart() -> None:
    with serving() as server, Client(server.address) as client:
        server.serving._releases = ()
        with pytest.raises(ClientError, match="does not answer yet: no release is loaded"):
            client.release()


def test_a_call_that_is_unavailable_once_is_tried_again() -> None:
    snapshot = FakeSnapshot()
    failures = [ServerError("not yet"), ServerError("not yet")]

    def fail() -> None:
        if failures:
            raise failures.pop()

    snapshot.meanwhile = fail
    with serving(FakeReleases(snapshot)) as server, Client(server.address) as client:
        assert client.recommend_for_user("user 1").item_ids == tuple(ITEMS[:20])
    assert len(snapshot.asked) == 3


def test_a_server_that_takes_too_long_is_told_apart() -> None:
    snapshot = FakeSnapshot()
    with serving(FakeReleases(snapshot)) as server, Client(server.address, timeout_seconds=0.1) as client:
        leave = threading.Event()
        snapshot.meanwhile = lambda: leave.wait(10)
        with pytest.raises(ClientError, match=r"did not answer within 0\.1 seconds"):
            client.recommend_for_user("user 1")
        leave.set()


def test_a_fault_of_the_server_points_to_its_log(caplog: pytest.LogCaptureFixture) -> None:
    snapshot = FakeSnapshot()
    snapshot.manifest = {}
    with (
        serving(FakeReleases(snapshot)) as server,
        Client(server.address) as client,
        pytest.raises(ClientError, match=r"failed with INTERNAL.*log"),
    ):
        client.release()


def test_a_server_of_something_else_is_told_apart() -> None:
    with (
        serving() as server,
        Client(server.admin_address) as client,
        pytest.raises(ClientError, match="no Nearcart server of this version"),
    ):
        client.release()


def test_a_source_from_the_future_asks_for_a_newer_client(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.service.SOURCES", dict.fromkeys(Source, 99))
    with pytest.raises(ClientError, match="source 99"):
        client.recommend_for_user("user 1")


def test_the_largest_batch_of_the_longest_ids_fits_through_the_client() -> None:
    class Wordy(FakeSnapshot):
        def recommend_for_users(self, queries):  # type: ignore[no-untyped-def]
            answers = super().recommend_for_users(queries[:1])
            answers[0].item_ids[:] = ["i" * 512] * 100
            answer = type(answers[0])(answers[0].item_ids, answers[0].scores.repeat(5)[:100], answers[0].source)
            return [answer] * len(queries)

    with serving(FakeReleases(Wordy())) as server:
        with Client(server.address, timeout_seconds=60) as client:
            answers = client.recommend_for_users(["user 1"] * 1000, limit=100)
            assert sum(len(answer.item_ids) for answer in answers) == 100_000
        # A client with gRPC's default limit is refused such an answer, as the .proto says.
        with grpc.insecure_channel(server.address) as channel:
            stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
                stub.BatchRecommendForUsers(wire.BatchRecommendForUsersRequest(user_ids=["u"] * 1000, limit=100))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda client: client.recommend_for_user(12472), "user_id: found 12472, expected a str"),
        (lambda client: client.recommend_for_cart("22697"), "item_ids: found '22697', expected a list of ids"),
        (lambda client: client.recommend_for_cart([22697]), r"item_ids: found \[22697\], expected a list of ids"),
        (lambda client: client.recommend_for_user("a", exclude_item_ids="b"), "exclude_item_ids: found 'b'"),
        (lambda client: client.similar_items("a", without_parts="als"), "without_parts: found 'als', expected a list"),
    ],
)
def test_an_id_that_is_no_text_is_named_before_anything_is_sent(ask: Callable[[Client], object], message: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ClientError, match=message):
        ask(client)
