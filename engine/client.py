"""A typed client: queries in, plain values out, errors a person can act on.

Names may resolve to several servers; calls go round robin, and because every RPC only reads, one that fails with
UNAVAILABLE is tried again elsewhere. Both are the channel's doing, through its service config. Kept honest by
tests/test_client.py.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import grpc
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc as wire_grpc

from engine import filter_messages
from engine.errors import ClientError
from engine.filters import Filter
from engine.queries import Repeat, Source
from engine.refusals import explain

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer accepted: the largest batch with ids of the largest length."""
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "nearcart.v1.RecommendationService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
"""For other clients to copy: round robin over all addresses, and up to four attempts."""
_REPEATS = {
    Repeat.NEVER: wire.REPEAT_NEVER,
    Repeat.MIX: wire.REPEAT_MIX,
    Repeat.ONLY: wire.REPEAT_ONLY,
    None: wire.REPEAT_UNSPECIFIED,
}
_SOURCES: dict[int, Source] = {
    wire.SOURCE_PERSONAL: Source.PERSONAL,
    wire.SOURCE_CART: Source.CART,
    wire.SOURCE_SIMILAR: Source.SIMILAR,
    wire.SOURCE_POPULAR: Source.POPULAR,
}

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True)
class Recommendations:
    """One answer: items, best first, with their scores; `titles` is as long where it was asked for, otherwise empty.

    Where they were asked for, `shares` says for each item what each of `share_item_ids` gives to its score.
    """

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    source: Source
    release_id: str
    unknown_item_ids: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    share_item_ids: tuple[str, ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class PartInfo:
    """A part of a recommender, and what its scores count for users and for carts."""

    name: str
    user_weight: float
    cart_weight: float


@dataclass(frozen=True)
class ReleaseInfo:
    """What is known about the release that answers."""

    release_id: str
    created_at: datetime.datetime
    n_users: int
    n_items: int
    format_version: int
    metrics: Mapping[str, float]
    parts: tuple[PartInfo, ...] = ()


@dataclass(frozen=True)
class Cart:
    """One cart of a batch, and whose it is."""

    item_ids: Sequence[str]
    user_id: str | None = None
    quantities: Sequence[int] = ()


class Client:
    """Asks the server at `address`, HOST:PORT or any gRPC name. Use it in `with`, or `close` it; it is thread-safe.

    Where limits and defaults are not given, the server's apply: they stand in the .proto. A `filter` is one of
    engine.filters. Every method raises ClientError, whose text says what to do.
    """

    def __init__(self, address: str, *, timeout_seconds: float = 10.0) -> None:
        self.address = address
        self._timeout_seconds = timeout_seconds
        options = [
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ]
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub = wire_grpc.RecommendationServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    def recommend_for_user(
        self,
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
    ) -> Recommendations:
        """What should this user see next?"""
        request = self._request(
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
        )
        return _one(self._ask(self._stub.RecommendForUser, request))

    def recommend_for_cart(
        self,
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
    ) -> Recommendations:
        """What goes with this cart?"""
        request = self._request(
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
        )
        return _one(self._ask(self._stub.RecommendForCart, request))

    def similar_items(
        self,
        item_id: str,
        *,
        limit: int | None = None,
        exclude_item_ids: Sequence[str] = (),
        titles: bool = False,
        filter: Filter | None = None,
        allowed_item_ids: Sequence[str] = (),
        without_parts: Sequence[str] = (),
        shares: bool = False,
    ) -> Recommendations:
        """Which items are like this one?"""
        request = self._request(
            wire.RecommendSimilarItemsRequest,
            item_id=item_id,
            limit=limit,
            exclude_item_ids=exclude_item_ids,
            include_titles=titles,
            filter=filter,
            allowed_item_ids=allowed_item_ids,
            without_parts=without_parts,
            include_shares=shares,
        )
        return _one(self._ask(self._stub.RecommendSimilarItems, request))

    def recommend_for_users(
        self,
        user_ids: Sequence[str],
        *,
        limit: int | None = None,
        exclude_item_ids: Sequence[str] = (),
        repeat: Repeat | None = None,
        strict: bool = False,
        filter: Filter | None = None,
        allowed_item_ids: Sequence[str] = (),
        without_parts: Sequence[str] = (),
    ) -> list[Recommendations]:
        """What should each of these users see next? Answers in their order."""
        request = self._request(
            wire.BatchRecommendForUsersRequest,
            user_ids=user_ids,
            limit=limit,
            exclude_item_ids=exclude_item_ids,
            repeat=_REPEATS[repeat],
            strict=strict,
            filter=filter,
            allowed_item_ids=allowed_item_ids,
            without_parts=without_parts,
        )
        return list(_many(self._ask(self._stub.BatchRecommendForUsers, request), [()] * len(user_ids)))

    def recommend_for_carts(
        self,
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
    ) -> list[Recommendations]:
        """What goes with each of these carts? Answers in their order."""
        request = self._request(
            wire.BatchRecommendForCartsRequest,
            carts=[
                self._request(wire.Cart, item_ids=cart.item_ids, user_id=cart.user_id, quantities=cart.quantities)
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
        )
        response = self._ask(self._stub.BatchRecommendForCarts, request)
        return list(_many(response, [cart.item_ids for cart in carts]))

    def release(self) -> ReleaseInfo:
        """Which release is answering?"""
        response = self._ask(self._stub.GetRelease, wire.GetReleaseRequest())
        return ReleaseInfo(
            release_id=response.release_id,
            created_at=response.created_at.ToDatetime(datetime.UTC),
            n_users=response.user_count,
            n_items=response.item_count,
            format_version=response.format_version,
            metrics=dict(response.metrics),
            parts=tuple(PartInfo(part.name, part.user_weight, part.cart_weight) for part in response.parts),
        )

    def _request(self, kind: Callable[..., Request], **fields: Any) -> Request:
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

    def _ask(self, method: Callable[..., Response], request: object) -> Response:
        try:
            return method(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise ClientError(explain(error, self.address, self._timeout_seconds)) from error


def _one(
    response: wire.RecommendForUserResponse | wire.RecommendForCartResponse | wire.RecommendSimilarItemsResponse,
) -> Recommendations:
    return Recommendations(
        item_ids=tuple(response.item_ids),
        scores=tuple(response.scores),
        source=_source(response.source),
        release_id=response.release_id,
        unknown_item_ids=tuple(response.unknown_item_ids),
        titles=tuple(response.titles),
        share_item_ids=tuple(response.share_item_ids),
        shares=_rows(response.shares, len(response.share_item_ids)),
    )


def _rows(numbers: Sequence[float], length: int) -> tuple[tuple[float, ...], ...]:
    """Flat numbers, so many to a row."""
    return tuple(tuple(numbers[start : start + length]) for start in range(0, len(numbers), max(1, length)))


def _many(
    response: wire.BatchRecommendForUsersResponse | wire.BatchRecommendForCartsResponse,
    asked_item_ids: Sequence[Sequence[str]],
) -> Iterator[Recommendations]:
    """Cut the flat columns; the unknown items of all come back to the queries that named them."""
    item_ids, scores, start = list(response.item_ids), list(response.scores), 0
    unknown = set(response.unknown_item_ids)
    for count, source, asked in zip(response.counts, response.sources, asked_item_ids, strict=True):
        stop = start + count
        yield Recommendations(
            item_ids=tuple(item_ids[start:stop]),
            scores=tuple(scores[start:stop]),
            source=_source(source),
            release_id=response.release_id,
            unknown_item_ids=tuple(dict.fromkeys(each for each in asked if each in unknown)),
        )
        start = stop


def _source(value: int) -> Source:
    try:
        return _SOURCES[value]
    except KeyError:
        raise ClientError(f"the server named the source {value}, which this client does not know: update it") from None
