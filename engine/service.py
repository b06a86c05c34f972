"""RecommendationService: a message in, a query to the snapshot, columns out.

Knows neither FAISS nor files nor sockets, only something that hands out the snapshot of the moment; one call asks for
it once, so that a whole answer comes from one release. What is asked most, a user and a limit and nothing else, is
answered for many calls at once. Requests are read in `engine.requests`, errors turned into statuses in
`engine.statuses`. Kept honest by tests/test_service.py.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from google.protobuf.message import Message
from nearcart.v1 import recommendation_pb2 as wire

from engine import requests
from engine.call_metrics import CallMetrics
from engine.ids import Ids, StringTable
from engine.kinds import ByKind
from engine.methods import Answerer, Outcome, methods_of, path_of
from engine.queries import Answer, CartQuery, SimilarQuery, Source, UserQuery
from engine.stacked import Stacked
from engine.statuses import refusal_of
from engine.wire_columns import columns_of_each

if TYPE_CHECKING:
    from engine.stored_users import Answered

Asked = TypeVar("Asked")
Given = TypeVar("Given")
_SERVICE = wire.DESCRIPTOR.services_by_name["RecommendationService"]
NAME = _SERVICE.full_name
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

    @property
    def item_ids(self) -> StringTable:
        """The id of each row that `answer_users` names."""

    def answer_users(self, user_ids: Sequence[str], limit: int) -> Answered | None:
        """What `recommend_for_users` of these users and a limit answers, as columns; None where it must be asked."""

    def recommend_for_users(self, queries: Sequence[UserQuery]) -> list[Answer]:
        """One answer per query, in order."""

    def recommend_for_carts(self, queries: Sequence[CartQuery]) -> list[Answer]:
        """One answer per query, in order."""

    def similar_items(self, query: SimilarQuery) -> Answer:
        """The answer."""

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """One title per item, "" where there is none."""


class RecommendationService:
    """Answers from what `snapshot("")` returns at the time of a call, or snapshot(release_id) where one is named."""

    def __init__(self, snapshot: Callable[[str], ServedSnapshot], metrics: CallMetrics) -> None:
        self._snapshot, self._metrics = snapshot, metrics
        self._singly = methods_of(_SERVICE, self)

    def methods(self) -> dict[str, Answerer]:
        """Every RPC, by its path."""
        return {**self._singly, _FOR_USER: self._recommend_for_each_user}

    def RecommendForUser(self, request: wire.RecommendForUserRequest) -> bytes:  # noqa: N802 - the wire's, as the others
        """See the .proto."""
        return self._answer(
            request,
            requests.user_query,
            lambda snapshot, query: snapshot.recommend_for_users([query])[0],
            partial(_one, wire.RecommendForUserResponse, request.include_titles),
        )

    def RecommendForCart(self, request: wire.RecommendForCartRequest) -> bytes:  # noqa: N802
        """See the .proto."""
        return self._answer(
            request,
            requests.cart_query,
            lambda snapshot, query: snapshot.recommend_for_carts([query])[0],
            partial(_one, wire.RecommendForCartResponse, request.include_titles),
        )

    def RecommendSimilarItems(self, request: wire.RecommendSimilarItemsRequest) -> bytes:  # noqa: N802
        """See the .proto."""
        return self._answer(
            request,
            requests.similar_query,
            lambda snapshot, query: snapshot.similar_items(query),
            partial(_one, wire.RecommendSimilarItemsResponse, request.include_titles),
        )

    def BatchRecommendForUsers(self, request: wire.BatchRecommendForUsersRequest) -> bytes:  # noqa: N802
        """See the .proto."""
        begun = time.perf_counter()
        snapshot = self._snapshot(request.release_id)
        plain = requests.plain_users(request)
        read = time.perf_counter()
        answered = None if plain is None else snapshot.answer_users(*plain)
        if answered is None:
            return self._answer(
                request,
                requests.user_queries,
                lambda snapshot, queries: snapshot.recommend_for_users(queries),
                partial(_many, wire.BatchRecommendForUsersResponse),
            )
        searched = time.perf_counter()
        rest = wire.BatchRecommendForUsersResponse(
            counts=answered.found.sizes.tolist(),
            sources=[_PERSONAL if each else _POPULAR for each in answered.personal.tolist()],
            release_id=snapshot.release_id,
        )
        written = columns_of_each(snapshot.item_ids, answered.found.flat())[0] + rest.SerializeToString()
        self._metrics.staged(begun, read, searched, time.perf_counter())
        return written

    def BatchRecommendForCarts(self, request: wire.BatchRecommendForCartsRequest) -> bytes:  # noqa: N802
        """See the .proto."""
        return self._answer(
            request,
            requests.cart_queries,
            lambda snapshot, queries: snapshot.recommend_for_carts(queries),
            partial(_many, wire.BatchRecommendForCartsResponse),
        )

    def GetRelease(self, request: wire.GetReleaseRequest) -> wire.GetReleaseResponse:  # noqa: N802
        """See the .proto."""
        snapshot = self._snapshot("")
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

    def _answer(
        self,
        request: Any,
        read: Callable[[Any], Asked],
        ask: Callable[[ServedSnapshot, Asked], Given],
        write: Callable[[ServedSnapshot, Given], bytes],
    ) -> bytes:
        """From a request to the bytes of its response, with a look at the clock between."""
        begun = time.perf_counter()
        snapshot, asked = self._snapshot(request.release_id), read(request)
        was_read = time.perf_counter()
        given = ask(snapshot, asked)
        searched = time.perf_counter()
        written = write(snapshot, given)
        self._metrics.staged(begun, was_read, searched, time.perf_counter())
        return written

    def _recommend_for_each_user(self, payloads: Sequence[bytes]) -> list[Outcome]:
        """RecommendForUser of many calls: those that ask for nothing but a user and a limit are answered together."""
        begun = time.perf_counter()
        outcomes: list[Outcome | None] = [None] * len(payloads)
        alike: dict[int, list[tuple[int, str]]] = {}
        for place, payload in enumerate(payloads):
            plain = requests.plain_user(payload)
            if plain is not None:
                alike.setdefault(plain[1], []).append((place, plain[0]))
        for limit, asked in alike.items():
            for (place, _), outcome in zip(
                asked, self._plain([user_id for _, user_id in asked], limit, begun), strict=False
            ):
                outcomes[place] = outcome
        one = self._singly[_FOR_USER]
        return [one([payloads[i]])[0] if each is None else each for i, each in enumerate(outcomes)]

    def _plain(self, user_ids: Sequence[str], limit: int, begun: float) -> Sequence[Outcome]:
        """The answers to users who are asked for with a limit and nothing else; none where each must be asked for."""
        try:
            snapshot, read = self._snapshot(""), time.perf_counter()
            answered = snapshot.answer_users(user_ids, limit)
            if answered is None:
                return ()
            searched = time.perf_counter()
            columns = columns_of_each(snapshot.item_ids, answered.found)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers get a status
            return [refusal_of(error, _FOR_USER)] * len(user_ids)
        personal, popular = _endings(snapshot.release_id)
        written = [
            each + (personal if is_personal else popular)
            for each, is_personal in zip(columns, answered.personal.tolist(), strict=True)
        ]
        self._metrics.staged(begun, read, searched, time.perf_counter(), len(written))
        return written


def warm(snapshot: ServedSnapshot, user_ids: StringTable) -> None:
    """Ask a snapshot what will be asked of it, for some of its users: the first caller waits no longer than others.

    Counted nowhere. Raises whatever the snapshot raises.
    """
    service = RecommendationService(lambda release_id: snapshot, CallMetrics())
    for user_id in _spread(user_ids):
        request = wire.RecommendForUserRequest(user_id=user_id)
        service.RecommendForUser(request)
        service.methods()[_FOR_USER]([request.SerializeToString()])
        service.BatchRecommendForUsers(wire.BatchRecommendForUsersRequest(user_ids=[user_id]))
    for item_id in _spread(snapshot.item_ids):
        service.RecommendForCart(wire.RecommendForCartRequest(item_ids=[item_id]))
        service.RecommendSimilarItems(wire.RecommendSimilarItemsRequest(item_id=item_id))
        service.BatchRecommendForCarts(wire.BatchRecommendForCartsRequest(carts=[wire.Cart(item_ids=[item_id])]))


def _spread(ids: StringTable) -> list[str]:
    """Some of the ids, from all over the table."""
    return ids.take(np.arange(0, len(ids), max(1, len(ids) // _WARMING)))


_WARMING = 32
"""Users, and items, who are asked for before a release serves."""
_FOR_USER = path_of(_SERVICE.methods_by_name["RecommendForUser"])
_PERSONAL, _POPULAR = SOURCES[Source.PERSONAL], SOURCES[Source.POPULAR]


@functools.lru_cache(maxsize=8)
def _endings(release_id: str) -> tuple[bytes, bytes]:
    """What comes behind the columns of a user's answer, where it is personal and where it is popular."""
    personal, popular = (
        wire.RecommendForUserResponse(source=source, release_id=release_id).SerializeToString()
        for source in (_PERSONAL, _POPULAR)
    )
    return personal, popular


def _one(response: type[Any], include_titles: bool, snapshot: ServedSnapshot, answer: Answer) -> bytes:
    """The bytes of a response of one answer."""
    ids = Ids.of(answer.item_ids)
    rest = response(
        source=SOURCES[answer.source],
        release_id=snapshot.release_id,
        unknown_item_ids=answer.unknown_item_ids,
        titles=snapshot.titles(answer.item_ids) if include_titles else (),
        share_item_ids=answer.share_item_ids,
        shares=() if answer.shares is None else answer.shares.ravel().tolist(),
    )
    return columns_of_each(ids.table, Stacked.one(ids.rows, answer.scores))[0] + _bytes_of(rest)


def _many(response: type[Any], snapshot: ServedSnapshot, answers: Sequence[Answer]) -> bytes:
    """The bytes of a response of many answers."""
    rest = response(
        counts=[len(answer.item_ids) for answer in answers],
        sources=[SOURCES[answer.source] for answer in answers],
        release_id=snapshot.release_id,
        unknown_item_ids=dict.fromkeys(item_id for answer in answers for item_id in answer.unknown_item_ids),
    )
    ids = Ids.joined([Ids.of(answer.item_ids) for answer in answers])
    scores = np.concatenate([answer.scores for answer in answers])
    return columns_of_each(ids.table, Stacked.one(ids.rows, scores))[0] + _bytes_of(rest)


def _bytes_of(message: Message) -> bytes:
    return message.SerializeToString()


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
