"""Messages become queries here, and whatever is wrong with a message is found here, all of it at once.

Every rule is stated beside its field in proto/nearcart/v1/recommendation.proto; tests/test_service.py holds both
together. The checks are written out by hand because general validators are too slow to stand before every answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from nearcart.v1 import recommendation_pb2 as wire

from engine import filter_messages
from engine.filters import Filter
from engine.ids import MAX_ID_BYTES
from engine.queries import (
    DEFAULT_LIMIT,
    MAX_BATCH_ANSWERS,
    MAX_BATCH_QUERIES,
    MAX_CART_ITEMS,
    MAX_LIMIT,
    MAX_QUANTITY,
    CartQuery,
    Repeat,
    SimilarQuery,
    UserQuery,
)
from engine.violations import Violations

_MAX_PARTS = 100
_REPEATS: dict[int, Repeat] = {
    wire.REPEAT_NEVER: Repeat.NEVER,
    wire.REPEAT_MIX: Repeat.MIX,
    wire.REPEAT_ONLY: Repeat.ONLY,
}


def user_query(request: wire.RecommendForUserRequest) -> UserQuery:
    """Raises InvalidQuery."""
    check = Check()
    query = UserQuery(
        user_id=check.id("user_id", request.user_id),
        limit=check.limit(request.limit if request.HasField("limit") else None),
        exclude_item_ids=check.ids("exclude_item_ids", request.exclude_item_ids),
        recent_item_ids=check.ids("recent_item_ids", request.recent_item_ids, most=MAX_CART_ITEMS),
        repeat=check.repeat(request.repeat, Repeat.NEVER),
        strict=request.strict,
        filter=check.filter(request),
        allowed_item_ids=check.allowed(request),
        without_parts=check.without_parts(request),
        shares=request.include_shares,
    )
    check.close()
    return query


def plain_user(payload: bytes) -> tuple[str, int] | None:
    """The user and the limit of a RecommendForUserRequest that says nothing else, and is right; None for all others.

    It says nothing else where the two fields, as protobuf writes them, are as long as the whole.
    """
    try:
        request = wire.RecommendForUserRequest.FromString(payload)
    except DecodeError:
        return None
    user_id, limit = request.user_id, request.limit
    n_bytes = len(user_id.encode())
    written = n_bytes + (2 if n_bytes < 128 else 3)
    if request.HasField("limit"):
        written += 2 if 0 <= limit < 128 else 3
    else:
        limit = DEFAULT_LIMIT
    if written != len(payload) or not 0 < n_bytes <= MAX_ID_BYTES or not 0 < limit <= MAX_LIMIT or "\0" in user_id:
        return None
    return user_id, limit


def plain_users(request: wire.BatchRecommendForUsersRequest) -> tuple[list[str], int] | None:
    """The users and the limit of a request that says nothing else; None for others. Raises InvalidQuery."""
    if not {field.name for field, _ in request.ListFields()} <= {"user_ids", "limit"}:
        return None
    check = Check()
    user_ids = check.ids("user_ids", request.user_ids, least=1, most=MAX_BATCH_QUERIES)
    limit = check.limit(request.limit if request.HasField("limit") else None, n_queries=len(user_ids))
    check.close()
    return user_ids, limit


def cart_query(request: wire.RecommendForCartRequest) -> CartQuery:
    """Raises InvalidQuery."""
    check = Check()
    query = CartQuery(
        item_ids=check.ids("item_ids", request.item_ids, least=1, most=MAX_CART_ITEMS),
        user_id=check.id("user_id", request.user_id) if request.HasField("user_id") else None,
        limit=check.limit(request.limit if request.HasField("limit") else None),
        exclude_item_ids=check.ids("exclude_item_ids", request.exclude_item_ids),
        repeat=check.repeat(request.repeat, Repeat.MIX),
        strict=request.strict,
        filter=check.filter(request),
        allowed_item_ids=check.allowed(request),
        quantities=check.quantities("quantities", request.quantities, len(request.item_ids)),
        history_weight=check.history_weight(request.history_weight, has_user=request.HasField("user_id")),
        without_parts=check.without_parts(request),
        shares=request.include_shares,
    )
    check.user_for(query.repeat, has_user=query.user_id is not None)
    check.close()
    return query


def similar_query(request: wire.RecommendSimilarItemsRequest) -> SimilarQuery:
    """Raises InvalidQuery."""
    check = Check()
    query = SimilarQuery(
        item_id=check.id("item_id", request.item_id),
        limit=check.limit(request.limit if request.HasField("limit") else None),
        exclude_item_ids=check.ids("exclude_item_ids", request.exclude_item_ids),
        filter=check.filter(request),
        allowed_item_ids=check.allowed(request),
        without_parts=check.without_parts(request),
        shares=request.include_shares,
    )
    check.close()
    return query


def user_queries(request: wire.BatchRecommendForUsersRequest) -> list[UserQuery]:
    """Raises InvalidQuery."""
    check = Check()
    user_ids = check.ids("user_ids", request.user_ids, least=1, most=MAX_BATCH_QUERIES)
    limit = check.limit(request.limit if request.HasField("limit") else None, n_queries=len(user_ids))
    excluded = check.ids("exclude_item_ids", request.exclude_item_ids)
    repeat = check.repeat(request.repeat, Repeat.NEVER)
    filter, allowed, without = check.filter(request), check.allowed(request), check.without_parts(request)
    check.close()
    return [
        UserQuery(user_id, limit, excluded, (), repeat, request.strict, filter, allowed, without)
        for user_id in user_ids
    ]


def cart_queries(request: wire.BatchRecommendForCartsRequest) -> list[CartQuery]:
    """Raises InvalidQuery."""
    check = Check()
    carts = request.carts if check.count("carts", len(request.carts), 1, MAX_BATCH_QUERIES) else ()
    limit = check.limit(request.limit if request.HasField("limit") else None, n_queries=len(request.carts))
    excluded = check.ids("exclude_item_ids", request.exclude_item_ids)
    repeat = check.repeat(request.repeat, Repeat.MIX)
    filter, allowed, without = check.filter(request), check.allowed(request), check.without_parts(request)
    has_users = all(cart.HasField("user_id") for cart in carts)
    check.user_for(repeat, has_user=has_users)
    weight = check.history_weight(request.history_weight, has_user=has_users)
    queries = []
    for position, cart in enumerate(carts):
        item_ids = check.ids(f"carts[{position}].item_ids", cart.item_ids, least=1, most=MAX_CART_ITEMS)
        user_id = check.id(f"carts[{position}].user_id", cart.user_id) if cart.HasField("user_id") else None
        quantities = check.quantities(f"carts[{position}].quantities", cart.quantities, len(cart.item_ids))
        asked = (item_ids, user_id, limit, excluded, repeat, request.strict, filter, allowed, quantities, weight)
        queries.append(CartQuery(*asked, without_parts=without))
    check.close()
    return queries


Restricted = (
    wire.RecommendForUserRequest
    | wire.RecommendForCartRequest
    | wire.RecommendSimilarItemsRequest
    | wire.BatchRecommendForUsersRequest
    | wire.BatchRecommendForCartsRequest
)
"""The requests that say which items may come back."""


class Check:
    """Collects what is wrong with one request. Methods return what to go on with; `close` raises."""

    def __init__(self) -> None:
        self._violations = Violations()

    def close(self) -> None:
        """Raise InvalidQuery with the first violations, if there were any."""
        self._violations.close()

    def id(self, field: str, value: str) -> str:
        """An id that must be there."""
        if not value:
            self._violations.add(field, f"is empty; expected an id of 1 to {MAX_ID_BYTES} bytes")
        elif (size := len(value.encode())) > MAX_ID_BYTES:
            self._violations.add(field, f"has {size:,} bytes; an id has at most {MAX_ID_BYTES}")
        elif "\0" in value:
            self._violations.add(field, "holds a NUL character; ids are text without one")
        return value

    def ids(self, field: str, values: Sequence[str], *, least: int = 0, most: int | None = None) -> list[str]:
        """A list of ids; without `most` it may have any length. One of a wrong length is not looked into."""
        if most is not None and not self.count(field, len(values), least, most):
            return []
        ids = list(values)
        # Three passes in C settle nearly every request; only a list with something odd in it is walked id by id.
        if ids and (not all(ids) or max(map(len, ids)) > MAX_ID_BYTES // 4 or "\0" in "".join(ids)):
            for position, each in enumerate(ids):
                self.id(f"{field}[{position}]", each)
                if self._violations.full:
                    break
        return ids

    def count(self, field: str, found: int, least: int, most: int) -> bool:
        """The length of a list; False where it is wrong: then leave the list alone, 4 MiB hold millions of elements."""
        if least <= found <= most:
            return True
        self._violations.add(field, f"has {found:,} elements; expected {least} to {most:,}")
        return False

    def limit(self, value: int | None, *, n_queries: int = 1) -> int:
        """How many items to answer, None where the request does not say."""
        limit = DEFAULT_LIMIT if value is None else value
        if not 1 <= limit <= MAX_LIMIT:
            self._violations.add("limit", f"is {limit:,}; expected 1 to {MAX_LIMIT:,}, or unset for {DEFAULT_LIMIT}")
        elif n_queries <= MAX_BATCH_QUERIES and n_queries * limit > MAX_BATCH_ANSWERS:
            self._violations.add(
                "limit",
                f"is {limit:,} for {n_queries:,} queries; their product may be {MAX_BATCH_ANSWERS:,} at most: "
                "lower it or split the batch",
            )
        return limit

    def repeat(self, value: int, default: Repeat) -> Repeat:
        """What becomes of items the user already has."""
        if value == wire.REPEAT_UNSPECIFIED:
            return default
        repeat = _REPEATS.get(value)  # enums of proto3 are open: the wire carries any number
        if repeat is None:
            self._violations.add("repeat", f"is {value}, which the enum Repeat does not name")
            return default
        return repeat

    def quantities(self, field: str, values: Sequence[int], n_items: int) -> tuple[int, ...]:
        """How many of each of n_items items there are; none are one of each."""
        quantities = tuple(values)
        if quantities and len(quantities) != n_items:
            self._violations.add(
                field, f"has {len(quantities):,} elements for {n_items:,} items; expected as many, or none"
            )
            return ()
        for position, quantity in enumerate(quantities):
            if not 1 <= quantity <= MAX_QUANTITY:
                self._violations.add(f"{field}[{position}]", f"is {quantity:,}; expected 1 to {MAX_QUANTITY:,}")
                break
        return quantities

    def history_weight(self, weight: float, *, has_user: bool) -> float:
        """What a history counts for beside a cart."""
        if not 0 <= weight <= 1:
            self._violations.add("history_weight", f"is {weight:g}; expected 0 to 1")
        elif weight > 0 and not has_user:
            self._violations.add("history_weight", "is about the user's history: give a user_id")
        return weight

    def user_for(self, repeat: Repeat, *, has_user: bool) -> None:
        """The user whose history Repeat.ONLY asks for; `engine.retrieval` refuses with the same words."""
        if repeat is Repeat.ONLY and not has_user:
            self._violations.add("repeat", "ONLY means items of the user's history: give a user_id")

    def filter(self, request: Restricted) -> Filter | None:
        """Which items may come back by their attributes, None for all."""
        if not request.HasField("filter"):
            return None
        return filter_messages.read(request.filter, "filter", self._violations)

    def allowed(self, request: Restricted) -> tuple[str, ...]:
        """The only items that may come back, none for all."""
        return tuple(self.ids("allowed_item_ids", request.allowed_item_ids))

    def without_parts(self, request: Restricted) -> tuple[str, ...]:
        """Names of parts that are not to count."""
        return tuple(self.ids("without_parts", request.without_parts, most=_MAX_PARTS))
