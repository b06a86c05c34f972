"""What a client gets: plain values out of responses. What it asks stands in `engine.questions`.

Kept honest by tests/test_client.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nearcart.v1 import recommendation_pb2 as wire

from engine.errors import ClientError
from engine.queries import Source

_SOURCES: dict[int, Source] = {
    wire.SOURCE_PERSONAL: Source.PERSONAL,
    wire.SOURCE_CART: Source.CART,
    wire.SOURCE_SIMILAR: Source.SIMILAR,
    wire.SOURCE_POPULAR: Source.POPULAR,
}

BatchResponse = wire.BatchRecommendForUsersResponse | wire.BatchRecommendForCartsResponse


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


def read_one(
    response: wire.RecommendForUserResponse | wire.RecommendForCartResponse | wire.RecommendSimilarItemsResponse,
) -> Recommendations:
    """The answer to one query. Raises ClientError."""
    return Recommendations(
        item_ids=tuple(response.item_ids),
        scores=tuple(response.scores),
        source=source_of(response.source),
        release_id=response.release_id,
        unknown_item_ids=tuple(response.unknown_item_ids),
        titles=tuple(response.titles),
        share_item_ids=tuple(response.share_item_ids),
        shares=_rows(response.shares, len(response.share_item_ids)),
    )


def read_many(response: BatchResponse, asked_item_ids: Sequence[Sequence[str]]) -> Iterator[Recommendations]:
    """Cut the flat columns; the unknown items of all come back to the queries that named them. Raises ClientError."""
    item_ids, scores, start = list(response.item_ids), list(response.scores), 0
    unknown = set(response.unknown_item_ids)
    for count, source, asked in zip(response.counts, response.sources, asked_item_ids, strict=True):
        stop = start + count
        yield Recommendations(
            item_ids=tuple(item_ids[start:stop]),
            scores=tuple(scores[start:stop]),
            source=source_of(source),
            release_id=response.release_id,
            unknown_item_ids=tuple(dict.fromkeys(each for each in asked if each in unknown)),
        )
        start = stop


def read_release(response: wire.GetReleaseResponse) -> ReleaseInfo:
    """The release that answered."""
    return ReleaseInfo(
        release_id=response.release_id,
        created_at=response.created_at.ToDatetime(datetime.UTC),
        n_users=response.user_count,
        n_items=response.item_count,
        format_version=response.format_version,
        metrics=dict(response.metrics),
        parts=tuple(PartInfo(part.name, part.user_weight, part.cart_weight) for part in response.parts),
    )


def source_of(value: int) -> Source:
    """The source of a number on the wire. Raises ClientError."""
    try:
        return _SOURCES[value]
    except KeyError:
        raise ClientError(f"the server named the source {value}, which this client does not know: update it") from None


def _rows(numbers: Sequence[float], length: int) -> tuple[tuple[float, ...], ...]:
    """Flat numbers, so many to a row."""
    return tuple(tuple(numbers[start : start + length]) for start in range(0, len(numbers), max(1, length)))
