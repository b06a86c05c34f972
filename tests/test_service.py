"""Questions over a real socket: what becomes of good ones, and of every kind of bad one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from fake_backend import ITEMS, FakeReleases, FakeSnapshot, channel_to, serving
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nearcart.v1 import admin_pb2, admin_pb2_grpc, recommendation_pb2_grpc
from nearcart.v1 import recommendation_pb2 as wire

from engine import requests
from engine.errors import InvalidQuery, NearcartError, ReleaseCorrupt, UnknownItem
from engine.filters import Range
from engine.queries import CartQuery, Repeat, SimilarQuery, UserQuery
from engine.retrieval import Snapshot
from engine.server import Server
from engine.statuses import MAX_MESSAGE_BYTES, refusal_of

METHODS = [
    f"/{service.full_name}/{method.name}"
    for file in (wire.DESCRIPTOR, admin_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]


@pytest.fixture(scope="module")
def snapshot() -> FakeSnapshot:
    return FakeSnapshot()


@pytest.fixture(scope="module")
def server(transport: str, snapshot: FakeSnapshot) -> Iterator[Server]:
    with serving(FakeReleases(snapshot), transport=transport) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with channel_to(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel, snapshot: FakeSnapshot) -> Iterator[recommendation_pb2_grpc.RecommendationServiceStub]:
    """Asserts after every test that the server goes on answering."""
    snapshot.asked.clear()
    stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
    yield stub
    snapshot.meanwhile = lambda: None
    assert stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1"), timeout=10).item_ids == ITEMS[:20]


def refusal(method: Any, request: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status, reason, and the violations: what every refusal consists of."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=10)
    error: Any = caught.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    info, violations = error_details_pb2.ErrorInfo(), {}
    for detail in status.details:
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            violations = {each.field: each.description for each in bad_request.field_violations}
        else:
            assert detail.Unpack(info)
    assert info.domain == "nearcart"
    trailers_bytes = sum(len(key) + len(value) + 32 for key, value in error.trailing_metadata())
    assert trailers_bytes * 4 / 3 + len(error.details()) < 8_000
    return error.code(), info.reason, violations


def test_a_user_question_reaches_the_snapshot_whole(stub: Any, snapshot: FakeSnapshot) -> None:
    request = wire.RecommendForUserRequest(
        user_id="user 1",
        limit=4,
        exclude_item_ids=["item 0", "elsewhere"],
        recent_item_ids=["item 2", "gone", "gone"],
        repeat=wire.REPEAT_MIX,
        strict=True,
        include_titles=True,
    )
    response = stub.RecommendForUser(request, timeout=10)
    assert snapshot.asked == [
        UserQuery("user 1", 4, ["item 0", "elsewhere"], ["item 2", "gone", "gone"], Repeat.MIX, True)
    ]
    assert response.item_ids == ["item 1", "item 2", "item 3", "item 4"]
    assert response.scores == np.linspace(1, 0, 4, dtype=np.float32).tolist()
    assert response.source == wire.SOURCE_PERSONAL
    assert response.release_id == "release 1"
    assert response.unknown_item_ids == ["gone"]
    assert response.titles == ["ITEM 1", "ITEM 2", "ITEM 3", "ITEM 4"]


def test_what_a_question_leaves_out_takes_its_default(stub: Any, snapshot: FakeSnapshot) -> None:
    user = stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1"), timeout=10)
    cart = stub.RecommendForCart(wire.RecommendForCartRequest(item_ids=["item 0"]), timeout=10)
    similar = stub.RecommendSimilarItems(wire.RecommendSimilarItemsRequest(item_id="item 0"), timeout=10)
    assert snapshot.asked == [
        UserQuery("user 1", 20, [], [], Repeat.NEVER, False),
        CartQuery(["item 0"], None, 20, [], Repeat.MIX, False),
        SimilarQuery("item 0", 20, []),
    ]
    assert [response.source for response in (user, cart, similar)] == [
        wire.SOURCE_PERSONAL,
        wire.SOURCE_CART,
        wire.SOURCE_SIMILAR,
    ]
    assert all(not response.titles for response in (user, cart, similar))


def test_batches_answer_as_singles_do(stub: Any) -> None:
    carts = [["item 3", "nowhere"], ["item 0"], ["nowhere", "item 5", "nobody's"]]
    batch = stub.BatchRecommendForCarts(
        wire.BatchRecommendForCartsRequest(
            carts=[wire.Cart(item_ids=carts[0], user_id="user 1"), *(wire.Cart(item_ids=each) for each in carts[1:])],
            limit=29,
            exclude_item_ids=["item 9"],
        ),
        timeout=10,
    )
    singles = [
        stub.RecommendForCart(
            wire.RecommendForCartRequest(item_ids=each, limit=29, exclude_item_ids=["item 9"]), timeout=10
        )
        for each in carts
    ]
    assert batch.item_ids == [item_id for single in singles for item_id in single.item_ids]
    assert batch.scores == [score for single in singles for score in single.scores]
    assert batch.counts == [len(single.item_ids) for single in singles]
    assert batch.sources == [single.source for single in singles]
    assert batch.unknown_item_ids == ["nowhere", "nobody's"]
    users = stub.BatchRecommendForUsers(
        wire.BatchRecommendForUsersRequest(user_ids=["user 1", "stranger"], limit=2, repeat=wire.REPEAT_ONLY),
        timeout=10,
    )
    assert users.counts == [2, 2]
    assert users.sources == [wire.SOURCE_PERSONAL, wire.SOURCE_POPULAR]
    assert users.release_id == batch.release_id == "release 1"


def test_the_release_is_described(stub: Any) -> None:
    response = stub.GetRelease(wire.GetReleaseRequest(), timeout=10)
    assert (response.release_id, response.user_count, response.item_count) == ("release 1", 5, 30)
    assert response.created_at.ToJsonString() == "2026-11-22T07:00:00Z"
    assert response.format_version == 1
    assert dict(response.metrics) == {
        "recall@20": 0.25,
        "popularity/recall@20": 0.125,
        "index/user/recall@20": 0.75,
        "index/user/median_microseconds": 8.5,
    }


FILTER = wire.Filter(range=wire.AttributeRange(attribute="price", max=10))
EMPTY = wire.Filter(all=wire.FilterList(filters=[FILTER, wire.Filter()]))
CROSSED = wire.Filter(range=wire.AttributeRange(attribute="price", min=2, max=1))
RESTRICTIONS: dict[str, Any] = {"filter": FILTER, "allowed_item_ids": ["item 5", "item 3"]}


@pytest.mark.parametrize(
    "request_",
    [
        wire.RecommendForUserRequest(user_id="user 1", **RESTRICTIONS),
        wire.RecommendForCartRequest(item_ids=["item 0"], **RESTRICTIONS),
        wire.RecommendSimilarItemsRequest(item_id="item 0", **RESTRICTIONS),
        wire.BatchRecommendForUsersRequest(user_ids=["user 1"], **RESTRICTIONS),
        wire.BatchRecommendForCartsRequest(carts=[wire.Cart(item_ids=["item 0"])], **RESTRICTIONS),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_filter_and_an_allow_list_reach_the_snapshot(stub: Any, snapshot: FakeSnapshot, request_: Any) -> None:
    response = getattr(stub, type(request_).__name__.removesuffix("Request"))(request_, timeout=10)
    (asked,) = snapshot.asked
    assert (asked.filter, asked.allowed_item_ids) == (Range("price", max=10), ("item 5", "item 3"))
    assert response.item_ids == ["item 3", "item 5"]


@pytest.mark.parametrize(
    "request_",
    [
        wire.RecommendForUserRequest(user_id="user 1", without_parts=["als", "repeat"]),
        wire.RecommendForCartRequest(item_ids=["item 0"], without_parts=["als", "repeat"]),
        wire.RecommendSimilarItemsRequest(item_id="item 0", without_parts=["als", "repeat"]),
        wire.BatchRecommendForUsersRequest(user_ids=["user 1", "user 2"], without_parts=["als", "repeat"]),
        wire.BatchRecommendForCartsRequest(carts=[wire.Cart(item_ids=["item 0"])] * 2, without_parts=["als", "repeat"]),
    ],
    ids=lambda request: type(request).__name__,
)
def test_parts_that_are_not_to_count_reach_the_snapshot(stub: Any, snapshot: FakeSnapshot, request_: Any) -> None:
    getattr(stub, type(request_).__name__.removesuffix("Request"))(request_, timeout=10)
    assert len(snapshot.asked) == (2 if "Batch" in type(request_).__name__ else 1)
    assert {tuple(asked.without_parts) for asked in snapshot.asked} == {("als", "repeat")}
    assert not any(asked.shares for asked in snapshot.asked)


@pytest.mark.parametrize(
    ("request_", "share_item_ids", "parts"),
    [
        (
            wire.RecommendForUserRequest(user_id="user 1", limit=3, recent_item_ids=["item 7", "gone", "item 5"]),
            ["item 7", "item 5"],
            [1 / 3, 2 / 3],
        ),
        (wire.RecommendForCartRequest(item_ids=["gone", "item 9"], limit=3), ["item 9"], [1.0]),
        (wire.RecommendSimilarItemsRequest(item_id="item 9", limit=3), ["item 9"], [1.0]),
        (wire.RecommendForUserRequest(user_id="user 1", limit=3), [], []),
    ],
    ids=["user", "cart", "similar", "nothing"],
)
def test_shares_are_asked_for_and_come_back_row_by_row(
    stub: Any, snapshot: FakeSnapshot, request_: Any, share_item_ids: list[str], parts: list[float]
) -> None:
    method = getattr(stub, type(request_).__name__.removesuffix("Request"))
    request_.include_shares = False
    plain = method(request_, timeout=10)
    assert (list(plain.share_item_ids), list(plain.shares)) == ([], [])
    request_.include_shares = True
    response = method(request_, timeout=10)
    assert [asked.shares for asked in snapshot.asked] == [False, True]
    assert (response.item_ids, response.scores) == (plain.item_ids, plain.scores)
    assert response.share_item_ids == share_item_ids
    assert response.shares == pytest.approx([score * part for score in (1.0, 0.5, 0.0) for part in parts])


def test_a_filter_that_does_not_fit_the_release_is_refused_in_the_releases_words(small_repository: Any) -> None:
    real: Any = Snapshot.open(small_repository.current_path())
    with serving(FakeReleases(real)) as server, channel_to(server.address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        filters = [wire.Filter(exists=wire.AttributeExists(attribute="ü" * 256)) for _ in range(98)]
        filters.append(wire.Filter(range=wire.AttributeRange(attribute="tags", min=1)))
        for some, expected in (
            (filters[-2:], {"filter.any.filters[0].exists.attribute", "filter.any.filters[1].range"}),
            (filters, {f"filter.any.filters[{n}].exists.attribute" for n in range(10)}),
        ):
            question = wire.RecommendForUserRequest(user_id="u1", filter=wire.Filter(any=wire.FilterList(filters=some)))
            code, reason, violations = refusal(stub.RecommendForUser, question)
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert violations.keys() >= expected
            assert "it has 'title', 'category', 'price'" in next(iter(violations.values()))
        assert stub.RecommendForUser(wire.RecommendForUserRequest(user_id="u1", filter=FILTER)).item_ids


BAD_QUESTIONS = {
    "a filter of nothing": (wire.RecommendForUserRequest(user_id="u", filter=wire.Filter()), {"filter"}),
    "an empty condition in a filter": (
        wire.RecommendForCartRequest(item_ids=["i"], filter=EMPTY),
        {"filter.all.filters[1]"},
    ),
    "a range the wrong way round": (
        wire.RecommendSimilarItemsRequest(item_id="i", filter=CROSSED),
        {"filter.range"},
    ),
    "a filter of nothing for many users": (
        wire.BatchRecommendForUsersRequest(user_ids=["u"], filter=wire.Filter()),
        {"filter"},
    ),
    "an empty allowed item and a bad filter for many carts": (
        wire.BatchRecommendForCartsRequest(
            carts=[wire.Cart(item_ids=["i"])], filter=wire.Filter(), allowed_item_ids=["i", ""]
        ),
        {"filter", "allowed_item_ids[1]"},
    ),
    "an empty user": (wire.RecommendForUserRequest(), {"user_id"}),
    "a limit of 0": (wire.RecommendForUserRequest(user_id="u", limit=0), {"limit"}),
    "a negative limit": (wire.RecommendForUserRequest(user_id="u", limit=-1), {"limit"}),
    "a limit of ten million": (wire.RecommendForUserRequest(user_id="u", limit=10_000_000), {"limit"}),
    "an id of 1 MB": (wire.RecommendForUserRequest(user_id="u" * 1_000_000), {"user_id"}),
    "an id of 513 bytes in 257 characters": (wire.RecommendForUserRequest(user_id="ü" * 256 + "u"), {"user_id"}),
    "a NUL character": (wire.RecommendForUserRequest(user_id="u\0"), {"user_id"}),
    "an empty excluded item": (
        wire.RecommendForUserRequest(user_id="u", exclude_item_ids=["i", ""]),
        {"exclude_item_ids[1]"},
    ),
    "501 recent items": (wire.RecommendForUserRequest(user_id="u", recent_item_ids=["i"] * 501), {"recent_item_ids"}),
    "a repeat nobody knows": (wire.RecommendForUserRequest(user_id="u", repeat=77), {"repeat"}),  # type: ignore[arg-type]
    "everything wrong at once": (
        wire.RecommendForUserRequest(limit=0, exclude_item_ids=[""], recent_item_ids=["\0"], repeat=77),  # type: ignore[arg-type]
        {"user_id", "limit", "exclude_item_ids[0]", "recent_item_ids[0]", "repeat"},
    ),
    "an empty cart": (wire.RecommendForCartRequest(), {"item_ids"}),
    "a cart of 501 items": (wire.RecommendForCartRequest(item_ids=["i"] * 501), {"item_ids"}),
    "a bad item in a cart": (wire.RecommendForCartRequest(item_ids=["a", "b", "c", "d\0"]), {"item_ids[3]"}),
    "a cart of a user without a name": (wire.RecommendForCartRequest(item_ids=["i"], user_id=""), {"user_id"}),
    "quantities of other items": (
        wire.RecommendForCartRequest(item_ids=["i", "j"], quantities=[1]),
        {"quantities"},
    ),
    "a quantity of none": (wire.RecommendForCartRequest(item_ids=["i", "j"], quantities=[1, 0]), {"quantities[1]"}),
    "a million and one of it": (
        wire.RecommendForCartRequest(item_ids=["i"], quantities=[1_000_001]),
        {"quantities[0]"},
    ),
    "a history that counts twice": (
        wire.RecommendForCartRequest(item_ids=["i"], user_id="u", history_weight=2),
        {"history_weight"},
    ),
    "a history that counts for no number": (
        wire.RecommendForCartRequest(item_ids=["i"], user_id="u", history_weight=float("nan")),
        {"history_weight"},
    ),
    "nobody's history": (wire.RecommendForCartRequest(item_ids=["i"], history_weight=0.5), {"history_weight"}),
    "what nobody had before": (wire.RecommendForCartRequest(item_ids=["i"], repeat=wire.REPEAT_ONLY), {"repeat"}),
    "nothing to be similar to": (wire.RecommendSimilarItemsRequest(limit=1001), {"item_id", "limit"}),
    "a batch of no users": (wire.BatchRecommendForUsersRequest(), {"user_ids"}),
    "a batch of 1001 users": (wire.BatchRecommendForUsersRequest(user_ids=["u"] * 1001), {"user_ids"}),
    "an empty user in a batch": (wire.BatchRecommendForUsersRequest(user_ids=["u", ""]), {"user_ids[1]"}),
    "a batch of too many answers": (wire.BatchRecommendForUsersRequest(user_ids=["u"] * 101, limit=1000), {"limit"}),
    "a batch of no carts": (wire.BatchRecommendForCartsRequest(), {"carts"}),
    "a batch of 1001 carts": (
        wire.BatchRecommendForCartsRequest(carts=[wire.Cart(item_ids=["i"])] * 1001),
        {"carts"},
    ),
    "bad quantities and a cart without its user in a batch": (
        wire.BatchRecommendForCartsRequest(
            carts=[wire.Cart(item_ids=["i"], user_id="u", quantities=[1, 2]), wire.Cart(item_ids=["i"])],
            history_weight=0.1,
        ),
        {"carts[0].quantities", "history_weight"},
    ),
    "bad carts in a batch": (
        wire.BatchRecommendForCartsRequest(
            carts=[wire.Cart(), wire.Cart(item_ids=["i", ""], user_id="")], repeat=wire.REPEAT_ONLY
        ),
        {"carts[0].item_ids", "carts[1].item_ids[1]", "carts[1].user_id", "repeat"},
    ),
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_a_malformed_question_is_refused_field_by_field(stub: Any, snapshot: FakeSnapshot, name: str) -> None:
    request, fields = BAD_QUESTIONS[name]
    method = getattr(stub, type(request).__name__.removesuffix("Request"))
    code, reason, violations = refusal(method, request)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert violations.keys() == fields
    assert snapshot.asked == []


def test_repeating_a_history_that_nobody_has_is_refused_in_retrievals_words(stub: Any) -> None:
    expected = {"repeat": "ONLY means items of the user's history: give a user_id"}
    cart = wire.RecommendForCartRequest(item_ids=["i"], repeat=wire.REPEAT_ONLY)
    assert refusal(stub.RecommendForCart, cart)[2] == expected
    carts = [wire.Cart(item_ids=["i"], user_id="u"), wire.Cart(item_ids=["i"])]
    batch = wire.BatchRecommendForCartsRequest(carts=carts, repeat=wire.REPEAT_ONLY)
    assert refusal(stub.BatchRecommendForCarts, batch)[2] == expected


class Unread(Sequence[Any]):
    """A list that may be counted, but not looked into."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: object) -> Any:
        raise AssertionError(f"element {position} was read")


class Standin:
    """A request of which one field is an `Unread`."""

    def __init__(self, message: Any, field: str) -> None:
        self._message = message
        setattr(self, field, Unread(2_000_000))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)


@pytest.mark.parametrize(
    ("read", "message", "field"),
    [
        (requests.user_query, wire.RecommendForUserRequest(user_id="u"), "recent_item_ids"),
        (requests.cart_query, wire.RecommendForCartRequest(), "item_ids"),
        (requests.user_queries, wire.BatchRecommendForUsersRequest(), "user_ids"),
        (requests.cart_queries, wire.BatchRecommendForCartsRequest(repeat=wire.REPEAT_ONLY), "carts"),
    ],
)
def test_a_list_of_millions_is_refused_by_its_length_alone(read: Any, message: Any, field: str) -> None:
    with pytest.raises(InvalidQuery, match=f"{field}: has 2,000,000 elements"):
        read(Standin(message, field))


@pytest.mark.parametrize(
    "request_",
    [
        wire.RecommendForUserRequest(user_id="user 1", limit=1),
        wire.RecommendForUserRequest(user_id="ü" * 256, limit=1000, recent_item_ids=["i"] * 500),
        wire.RecommendForUserRequest(user_id="u", exclude_item_ids=[f"gone {n}" for n in range(200_000)]),
        wire.BatchRecommendForUsersRequest(user_ids=["u"] * 1000, limit=100),
        wire.BatchRecommendForCartsRequest(carts=[wire.Cart(item_ids=["i"] * 500)] * 1000),
    ],
    ids=["smallest", "largest", "excluding 200,000", "1000 users", "1000 full carts"],
)
def test_a_question_at_its_limits_is_answered(stub: Any, request_: Any) -> None:
    response = getattr(stub, type(request_).__name__.removesuffix("Request"))(request_, timeout=10)
    assert len(response.item_ids) == len(response.scores) > 0


def test_a_refusal_lists_twenty_violations_and_no_more(stub: Any) -> None:
    request = wire.RecommendForUserRequest(user_id="u", exclude_item_ids=["\0" * 600] * 1000)
    _, _, violations = refusal(stub.RecommendForUser, request)
    assert list(violations) == [f"exclude_item_ids[{n}]" for n in range(20)]


def test_strictness_turns_a_popular_answer_into_not_found(stub: Any) -> None:
    assert stub.RecommendForUser(wire.RecommendForUserRequest(user_id="stranger")).source == wire.SOURCE_POPULAR
    request = wire.RecommendForUserRequest(user_id="stranger", strict=True)
    assert refusal(stub.RecommendForUser, request) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_USER", {})
    batch = wire.BatchRecommendForUsersRequest(user_ids=["user 1", "stranger"], strict=True)
    assert refusal(stub.BatchRecommendForUsers, batch) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_USER", {})


def test_an_unknown_item_is_not_found(stub: Any) -> None:
    request = wire.RecommendSimilarItemsRequest(item_id="nowhere ü€ " * 20)
    assert refusal(stub.RecommendSimilarItems, request) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_ITEM", {})


@pytest.mark.parametrize("fault", [ZeroDivisionError("secret"), NearcartError("secret")])
def test_a_fault_is_logged_and_leaves_without_detail(
    stub: Any, snapshot: FakeSnapshot, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    def fail() -> None:
        raise fault

    snapshot.meanwhile = fail
    with pytest.raises(grpc.RpcError) as caught, caplog.at_level(logging.ERROR, "engine.statuses"):
        stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1"), timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is fault


def test_a_message_over_the_limit_is_refused_by_grpc(stub: Any) -> None:
    request = wire.RecommendForUserRequest(user_id="u", exclude_item_ids=["i" * 500] * 9_000)
    with pytest.raises(grpc.RpcError) as caught:
        stub.RecommendForUser(request, timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def ask_raw(server: Server, channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    """Send bytes as they are; admin methods go to the admin port."""
    if "AdminService" in method:
        with channel_to(server.admin_address) as admin_channel:
            return _status(admin_channel, method, data)
    return _status(channel, method, data)


def _status(channel: grpc.Channel, method: str, data: bytes) -> grpc.StatusCode:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    try:
        call(data, timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
def test_a_message_cut_short_is_malformed(
    server: Server, channel: grpc.Channel, stub: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = wire.RecommendForUserRequest(user_id="user 1", limit=5, exclude_item_ids=["item 4"]).SerializeToString()
    assert ask_raw(server, channel, method, whole[:-3]) is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records, "a client's mistake is no traceback in the server's log"


def test_text_that_is_no_utf8_is_malformed(channel: grpc.Channel, stub: Any) -> None:
    assert _status(channel, METHODS[0], b"\x0a\x02\xff\xfe") is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", METHODS)
def test_random_bytes_never_cause_a_fault(server: Server, channel: grpc.Channel, method: str) -> None:
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    if "Promote" in method or "Rollback" in method:
        allowed -= {grpc.StatusCode.OK}  # there is no other release

    @given(st.binary(max_size=200))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def fuzz(data: bytes) -> None:
        assert ask_raw(server, channel, method, data) in allowed

    fuzz()


@given(
    st.builds(
        wire.RecommendForCartRequest,
        item_ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4),
        limit=st.integers(-2, 1002),
        user_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
        repeat=st.integers(-1, 5),
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cart_is_answered_exactly_if_it_keeps_the_rules(channel: grpc.Channel, request_: Any) -> None:
    keeps_the_rules = (
        len(request_.item_ids) >= 1
        and all(each and "\0" not in each for each in [*request_.item_ids, request_.user_id])
        and 1 <= request_.limit <= 1000
        and 0 <= request_.repeat <= 3
    )
    status = _status(channel, "/nearcart.v1.RecommendationService/RecommendForCart", request_.SerializeToString())
    assert status is (grpc.StatusCode.OK if keeps_the_rules else grpc.StatusCode.INVALID_ARGUMENT)


def test_promoting_needs_a_release_of_that_name(server: Server, stub: Any) -> None:
    with channel_to(server.admin_address) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        code, _, violations = refusal(admin.PromoteRelease, admin_pb2.PromoteReleaseRequest())
        assert (code, set(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, {"release_id"})
        request = admin_pb2.PromoteReleaseRequest(release_id="none")
        assert refusal(admin.PromoteRelease, request) == (grpc.StatusCode.NOT_FOUND, "RELEASE_NOT_FOUND", {})


def test_long_messages_are_cut_to_what_trailers_hold() -> None:
    refused = refusal_of(UnknownItem("€" * 1000), "method")
    assert refused.message.endswith("€...")
    assert len(refused.message.encode()) <= MAX_MESSAGE_BYTES
    assert status_pb2.Status.FromString(refused.status).message == refused.message


def test_a_subclass_of_an_error_leaves_as_its_base_does() -> None:
    class Worse(ReleaseCorrupt):
        pass

    assert refusal_of(Worse("bad"), "method").code == grpc.StatusCode.FAILED_PRECONDITION
