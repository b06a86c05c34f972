"""What a client can ask: each function is a method of `engine.client`'s clients, without the carrying.

Arguments in, a message and how to read its response out. Where limits and defaults are not given, the server's apply:
they stand in the .proto. A `filter` is one of engine.filters; `release_id` names the release that is to answer, where
that is not the live one. Every function raises ClientError for what fits into no message. Kept honest by
tests/test_client.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from nearcart.v1 import recommendation_pb2 as wire

from engine import answers, filter_messages
from engine.answers import Recommendations, ReleaseInfo
from engine.errors import ClientError
from engine.filters import Filter
from engine.queries import Repeat

_REPEATS = {
    Repeat.NEVER: wire.REPEAT_NEVER,
    Repeat.MIX: wire.REPEAT_MIX,
    Repeat.ONLY: wire.REPEAT_ONLY,
    None: wire.REPEAT_UNSPECIFIED,
}

Request = TypeVar("Request")
Answer_co = TypeVar("Answer_co", covariant=True)


@dataclass(frozen=True)
class Question(Generic[Answer_co]):
    """One call: the name of the RPC, its request, and what makes an answer of its response."""

    method: str
    request: Message
    read: Callable[[Any], Answer_co]


@dataclass(frozen=True)
class Cart:
    """One cart of a batch, and whose it is."""

    item_ids: Sequence[str]
    user_id: str | None = None
    quantities: Sequence[int] = ()


def recommend_for_user(
    user_id: str,
    *,
    limit: int | None = None,
    exclude_item_ids: Sequence[str] = (),
    recent_item_ids: Sequence[str] = (),
    repeat: Repeat | None = None,
    strict: bool = False,
    titles: bool = False,
    filter: Filter | None = None,
    allowed_item_ids: Sequence[str] = (),
    without_parts: Sequence[str] = (),
    shares: bool = False,
    release_id: str = "",
) -> Question[Recommendations]:
    """What should this user see next?"""
    request = _request(
        wire.RecommendForUserRequest,
        user_id=user_id,
        limit=limit,
        exclude_item_ids=exclude_item_ids,
        recent_item_ids=recent_item_ids,
        repeat=_REPEATS[repeat],
        strict=strict,
        include_titles=titles,
        filter=filter,
        allowed_item_ids=allowed_item_ids,
        without_parts=without_parts,
        include_shares=shares,
        release_id=release_id,
    )
    return Question("RecommendForUser", request, answers.read_one)


def recommend_for_cart(
    item_ids: Sequence[str],
    *,
    user_id: str | None = None,
    limit: int | None = None,
    exclude_item_ids: Sequence[str] = (),
    repeat: Repeat | None = None,
    strict: bool = False,
    titles: bool = False,
    filter: Filter | None = None,
    allowed_item_ids: Sequence[str] = (),
    quantities: Sequence[int] = (),
    history_weight: float = 0.0,
    without_parts: Sequence[str] = (),
    shares: bool = False,
    release_id: str = "",
) -> Question[Recommendations]:
    """What goes with this cart?"""
    request = _request(
        wire.RecommendForCartRequest,
        item_ids=item_ids,
        user_id=user_id,
        limit=limit,
        exclude_item_ids=exclude_item_ids,
        repeat=_REPEATS[repeat],
        strict=strict,
        include_titles=titles,
        filter=filter,
        allowed_item_ids=allowed_item_ids,
        without_parts=without_parts,
        include_shares=shares,
        quantities=quantities,
        history_weight=history_weight,
        release_id=release_id,
    )
    return Question("RecommendForCart", request, answers.read_one)


def similar_items(
    item_id: str,
    *,
    limit: int | None = None,
    exclude_item_ids: Sequence[str] = (),
    titles: bool = False,
    filter: Filter | None = None,
    allowed_item_ids: Sequence[str] = (),
    without_parts: Sequence[str] = (),
    shares: bool = False,
    release_id: str = "",
) -> Question[Recommendations]:
    """Which items are like this one?"""
    request = _request(
        wire.RecommendSimilarItemsRequest,
        item_id=item_id,
        limit=limit,
        exclude_item_ids=exclude_item_ids,
        include_titles=titles,
        filter=filter,
        allowed_item_ids=allowed_item_ids,
        without_parts=without_parts,
        include_shares=shares,
        release_id=release_id,
    )
    return Question("RecommendSimilarItems", request, answers.read_one)


def recommend_for_users(
    user_ids: Sequence[str],
    *,
    limit: int | None = None,
    exclude_item_ids: Sequence[str] = (),
    repeat: Repeat | None = None,
    strict: bool = False,
    filter: Filter | None = None,
    allowed_item_ids: Sequence[str] = (),
    without_parts: Sequence[str] = (),
    release_id: str = "",
) -> Question[list[Recommendations]]:
    """What should each of these users see next? Answers in their order, from one call."""
    request = _request(
        wire.BatchRecommendForUsersRequest,
        user_ids=user_ids,
        limit=limit,
        exclude_item_ids=exclude_item_ids,
        repeat=_REPEATS[repeat],
        strict=strict,
        filter=filter,
        allowed_item_ids=allowed_item_ids,
        without_parts=without_parts,
        release_id=release_id,
    )
    nothing: list[tuple[str, ...]] = [()] * len(user_ids)
    return Question("BatchRecommendForUsers", request, lambda response: list(answers.read_many(response, nothing)))


def recommend_for_carts(
    carts: Sequence[Cart],
    *,
    limit: int | None = None,
    exclude_item_ids: Sequence[str] = (),
    repeat: Repeat | None = None,
    strict: bool = False,
    filter: Filter | None = None,
    allowed_item_ids: Sequence[str] = (),
    history_weight: float = 0.0,
    without_parts: Sequence[str] = (),
    release_id: str = "",
) -> Question[list[Recommendations]]:
    """What goes with each of these carts? Answers in their order, from one call."""
    request = _request(
        wire.BatchRecommendForCartsRequest,
        carts=[
            _request(wire.Cart, item_ids=cart.item_ids, user_id=cart.user_id, quantities=cart.quantities)
            for cart in carts
        ],
        limit=limit,
        exclude_item_ids=exclude_item_ids,
        repeat=_REPEATS[repeat],
        strict=strict,
        filter=filter,
        allowed_item_ids=allowed_item_ids,
        without_parts=without_parts,
        history_weight=history_weight,
        release_id=release_id,
    )
    asked = [cart.item_ids for cart in carts]
    return Question("BatchRecommendForCarts", request, lambda response: list(answers.read_many(response, asked)))


def release() -> Question[ReleaseInfo]:
    """Which release is answering?"""
    return Question("GetRelease", wire.GetReleaseRequest(), answers.read_release)


def _request(kind: Callable[..., Request], **fields: Any) -> Request:
    for name, value in fields.items():
        many = name.endswith(("_ids", "_parts"))
        if many and (isinstance(value, str) or not all(isinstance(each, str) for each in value)):
            raise ClientError(f"{name}: found {value!r}, expected a list of ids, each a str")
        if name.endswith("_id") and not isinstance(value, str | None):
            raise ClientError(f"{name}: found {value!r}, expected a str; ids are text")
    try:
        if fields.get("filter") is not None:
            fields["filter"] = filter_messages.write(fields["filter"])
        return kind(**fields)
    except (TypeError, ValueError, AttributeError) as error:  # no text, a number beyond 32 bits, half a surrogate
        raise ClientError(f"the question cannot be put into a message: {error}") from error
