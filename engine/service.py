"""RecommendationService: a message in, a query to the snapshot, columns out.

Knows neither FAISS nor files, only something that hands out the snapshot of the moment; one call asks for it once, so
that a whole answer comes from one release. Requests are read in `engine.requests`, errors turned into statuses in
`engine.statuses`. Kept honest by tests/test_service.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import grpc
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc as wire_grpc

from engine import requests
from engine.kinds import ByKind
from engine.queries import Answer, CartQuery, SimilarQuery, Source, UserQuery

NAME = wire.DESCRIPTOR.services_by_name["RecommendationService"].full_name
"""The service's full name, as health and reflection use it."""
SOURCES = {
    Source.PERSONAL: wire.SOURCE_PERSONAL,
    Source.CART: wire.SOURCE_CART,
    Source.SIMILAR: wire.SOURCE_SIMILAR,
    Source.POPULAR: wire.SOURCE_POPULAR,
}


class ServedSnapshot(Protocol):
    """What the service needs of an `engine.retrieval.Snapshot`; its errors are those of `engine.errors`."""

    @property
    def release_id(self) -> str:
        """The release's name."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The content of manifest.json."""

    def recommend_for_users(self, queries: Sequence[UserQuery]) -> list[Answer]:
        """One answer per query, in order."""

    def recommend_for_carts(self, queries: Sequence[CartQuery]) -> list[Answer]:
        """One answer per query, in order."""

    def similar_items(self, query: SimilarQuery) -> Answer:
        """The answer."""

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """One title per item, "" where there is none."""


class RecommendationService(wire_grpc.RecommendationServiceServicer):
    """Answers from whatever `snapshot()` returns at the time of a call; ServerError from it becomes UNAVAILABLE."""

    def __init__(self, snapshot: Callable[[], ServedSnapshot]) -> None:
        self._snapshot = snapshot

    def RecommendForUser(  # noqa: N802 - the wire's name, as are the others
        self, request: wire.RecommendForUserRequest, context: grpc.ServicerContext
    ) -> wire.RecommendForUserResponse:
        """See the .proto."""
        snapshot = self._snapshot()
        (answer,) = snapshot.recommend_for_users([requests.user_query(request)])
        return wire.RecommendForUserResponse(**_columns(snapshot, answer, request.include_titles))

    def RecommendForCart(  # noqa: N802
        self, request: wire.RecommendForCartRequest, context: grpc.ServicerContext
    ) -> wire.RecommendForCartResponse:
        """See the .proto."""
        snapshot = self._snapshot()
        (answer,) = snapshot.recommend_for_carts([requests.cart_query(request)])
        return wire.RecommendForCartResponse(**_columns(snapshot, answer, request.include_titles))

    def RecommendSimilarItems(  # noqa: N802
        self, request: wire.RecommendSimilarItemsRequest, context: grpc.ServicerContext
    ) -> wire.RecommendSimilarItemsResponse:
        """See the .proto."""
        snapshot = self._snapshot()
        answer = snapshot.similar_items(requests.similar_query(request))
        return wire.RecommendSimilarItemsResponse(**_columns(snapshot, answer, request.include_titles))

    def BatchRecommendForUsers(  # noqa: N802
        self, request: wire.BatchRecommendForUsersRequest, context: grpc.ServicerContext
    ) -> wire.BatchRecommendForUsersResponse:
        """See the .proto."""
        snapshot = self._snapshot()
        answers = snapshot.recommend_for_users(requests.user_queries(request))
        return wire.BatchRecommendForUsersResponse(**_flat_columns(snapshot, answers))

    def BatchRecommendForCarts(  # noqa: N802
        self, request: wire.BatchRecommendForCartsRequest, context: grpc.ServicerContext
    ) -> wire.BatchRecommendForCartsResponse:
        """See the .proto."""
        snapshot = self._snapshot()
        answers = snapshot.recommend_for_carts(requests.cart_queries(request))
        return wire.BatchRecommendForCartsResponse(**_flat_columns(snapshot, answers))

    def GetRelease(  # noqa: N802
        self, request: wire.GetReleaseRequest, context: grpc.ServicerContext
    ) -> wire.GetReleaseResponse:
        """See the .proto."""
        snapshot = self._snapshot()
        manifest = snapshot.manifest
        response = wire.GetReleaseResponse(
            release_id=snapshot.release_id,
            user_count=manifest["sizes"]["users"],
            item_count=manifest["sizes"]["items"],
            format_version=manifest["format_version"],
            metrics=dict(_numbers({**(manifest.get("metrics") or {}), "index": _measured(manifest)})),
            parts=[_part(part) for part in manifest["parts"]],
        )
        created_at = datetime.datetime.fromisoformat(manifest["created_at"])
        response.created_at.FromDatetime(created_at if created_at.tzinfo else created_at.replace(tzinfo=datetime.UTC))
        return response


def _columns(snapshot: ServedSnapshot, answer: Answer, include_titles: bool) -> dict[str, Any]:
    """The fields of a response of one answer."""
    return {
        "item_ids": answer.item_ids,
        "scores": answer.scores.tolist(),
        "source": SOURCES[answer.source],
        "release_id": snapshot.release_id,
        "unknown_item_ids": answer.unknown_item_ids,
        "titles": snapshot.titles(answer.item_ids) if include_titles else (),
        "share_item_ids": answer.share_item_ids,
        "shares": () if answer.shares is None else answer.shares.ravel().tolist(),
    }


def _flat_columns(snapshot: ServedSnapshot, answers: Sequence[Answer]) -> dict[str, Any]:
    """The fields of a response of many answers."""
    return {
        "item_ids": [item_id for answer in answers for item_id in answer.item_ids],
        "scores": [score for answer in answers for score in answer.scores.tolist()],
        "counts": [len(answer.item_ids) for answer in answers],
        "sources": [SOURCES[answer.source] for answer in answers],
        "release_id": snapshot.release_id,
        "unknown_item_ids": dict.fromkeys(item_id for answer in answers for item_id in answer.unknown_item_ids),
    }


def _part(part: Mapping[str, Any]) -> wire.Part:
    weight = ByKind.read(part["weight"])
    return wire.Part(name=part["name"], user_weight=weight.user, cart_weight=weight.cart)


def _measured(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured of the index, by kind of query."""
    return (manifest.get("index") or {}).get("measured") or {}


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested mapping; names of nested ones are joined by slashes."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
