"""Batches of any size, cut to what one call may ask, with their answers as columns: for offline rebuilds.

Kept honest by tests/test_batches.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from engine import questions
from engine.answers import BatchResponse, source_of
from engine.connections import MAX_REQUEST_BYTES
from engine.errors import ClientError
from engine.filters import Filter
from engine.queries import DEFAULT_LIMIT, MAX_BATCH_ANSWERS, MAX_BATCH_QUERIES, Repeat
from engine.questions import Cart, Question

STRINGS = np.dtypes.StringDType()
"""Ids in columns: a quarter of the memory of Python's str, sorted and written without touching objects."""

Query = TypeVar("Query")
Joined = TypeVar("Joined")
Piece = TypeVar("Piece")


class BatchOptions(TypedDict, total=False):
    """What holds for all queries of a batch."""

    limit: int | None
    exclude_item_ids: Sequence[str]
    repeat: Repeat | None
    strict: bool
    filter: Filter | None
    allowed_item_ids: Sequence[str]
    without_parts: Sequence[str]
    release_id: str


@dataclass(frozen=True, eq=False)
class BatchColumns:
    """The answers to m queries, n items in all, in the order of the queries and best first.

    Query q owns the elements from `offsets[q]` up to `offsets[q + 1]`. Calls may be answered by several releases where
    one was swapped in between: `release_ids` names each once.
    """

    item_ids: NDArray[Any]
    """StringDType [n]."""
    scores: NDArray[np.float32]
    """[n]"""
    offsets: NDArray[np.int64]
    """[m + 1]"""
    sources: NDArray[np.object_]
    """[m], each an engine.queries.Source."""
    release_ids: tuple[str, ...]
    unknown_item_ids: tuple[str, ...]
    """Items of any cart that the release does not hold, each once."""

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class Batch(Generic[Piece, Joined]):
    """Questions that can be asked in any order and at the same time, and what makes one answer of theirs."""

    questions: Sequence[Question[Piece]]
    join: Callable[[Sequence[Piece]], Joined]


def columns_for_users(
    user_ids: Sequence[str] | NDArray[Any], **options: Unpack[BatchOptions]
) -> Batch[BatchColumns, BatchColumns]:
    """What should each of these users see next? As many users as you like, by several calls; the answers as columns."""
    return _batch(_texts(user_ids), options, questions.recommend_for_users)


def columns_for_carts(
    carts: Sequence[Cart], *, history_weight: float = 0.0, **options: Unpack[BatchOptions]
) -> Batch[BatchColumns, BatchColumns]:
    """What goes with each of these carts? As many as you like, by several calls; the answers as columns."""

    def ask(some: Sequence[Cart], **options: Any) -> Question[Any]:
        return questions.recommend_for_carts(some, history_weight=history_weight, **options)

    return _batch(carts, options, ask)


def carts_from_columns(
    item_ids: Sequence[str] | NDArray[Any],
    offsets: NDArray[np.integer[Any]],
    *,
    user_ids: Sequence[str] | NDArray[Any] | None = None,
    quantities: NDArray[np.integer[Any]] | None = None,
) -> list[Cart]:
    """Carts of flat columns: cart c has the items from `offsets[c]` up to `offsets[c + 1]`, and their quantities.

    `user_ids` has one for each cart, "" for a cart of nobody. Raises ClientError where lengths do not fit.
    """
    texts, users = _texts(item_ids), None if user_ids is None else _texts(user_ids)
    bounds = np.asarray(offsets)
    if len(bounds) == 0 or bounds[0] != 0 or bounds[-1] != len(texts) or (np.diff(bounds) < 0).any():
        raise ClientError(f"offsets: expected numbers that never fall, from 0 to {len(texts)}, the number of item ids")
    n_carts = len(bounds) - 1
    if users is not None and len(users) != n_carts:
        raise ClientError(f"user_ids: found {len(users)}, expected one for each of {n_carts} carts")
    if quantities is not None and len(quantities) != len(texts):
        raise ClientError(f"quantities: found {len(quantities)}, expected one for each of {len(texts)} item ids")
    counts: list[int] = [] if quantities is None else np.asarray(quantities).tolist()
    edges = bounds.tolist()
    return [
        Cart(texts[start:stop], (users[cart] or None) if users else None, counts[start:stop])
        for cart, (start, stop) in enumerate(itertools.pairwise(edges))
    ]


def _batch(
    queries: Sequence[Query], options: BatchOptions, ask: Callable[..., Question[Any]]
) -> Batch[BatchColumns, BatchColumns]:
    limit = options.get("limit") or DEFAULT_LIMIT
    most = max(1, min(MAX_BATCH_QUERIES, MAX_BATCH_ANSWERS // max(1, limit)))
    cut: list[Question[BatchColumns]] = []
    for start in range(0, len(queries), most):
        cut.extend(_fitting(queries[start : start + most], options, ask))
    return Batch(cut, _join)


def _fitting(
    queries: Sequence[Query], options: BatchOptions, ask: Callable[..., Question[Any]]
) -> Iterator[Question[BatchColumns]]:
    """One question, or halves of it where its request is too large for a server."""
    question = ask(queries, **options)
    if question.request.ByteSize() <= MAX_REQUEST_BYTES or len(queries) == 1:
        yield Question(question.method, question.request, _columns)
    else:
        middle = len(queries) // 2
        yield from _fitting(queries[:middle], options, ask)
        yield from _fitting(queries[middle:], options, ask)


def _columns(response: BatchResponse) -> BatchColumns:
    counts = np.fromiter(response.counts, np.int64, len(response.counts))
    sources = [source_of(each) for each in response.sources]
    return BatchColumns(
        np.array(list(response.item_ids), STRINGS),
        np.fromiter(response.scores, np.float32, len(response.scores)),
        np.concatenate([[0], np.cumsum(counts)]),
        np.array(sources, np.object_),
        (response.release_id,),
        tuple(response.unknown_item_ids),
    )


def _join(pieces: Sequence[BatchColumns]) -> BatchColumns:
    starts = np.cumsum([0, *(len(each.item_ids) for each in pieces)])
    ends = [each.offsets[1:] + start for each, start in zip(pieces, starts, strict=False)]
    return BatchColumns(
        np.concatenate([np.empty(0, STRINGS), *(each.item_ids for each in pieces)]),
        np.concatenate([np.empty(0, np.float32), *(each.scores for each in pieces)]),
        np.concatenate([np.zeros(1, np.int64), *ends]),
        np.concatenate([np.empty(0, np.object_), *(each.sources for each in pieces)]),
        tuple(dict.fromkeys(each for piece in pieces for each in piece.release_ids)),
        tuple(dict.fromkeys(each for piece in pieces for each in piece.unknown_item_ids)),
    )


def _texts(values: Sequence[str] | NDArray[Any]) -> Sequence[str]:
    """Ids of an array as Python's str; others as they are."""
    if not isinstance(values, np.ndarray):
        return values
    if values.ndim != 1 or values.dtype.kind not in "OTU":
        raise ClientError(f"ids: found an array {values.shape} of {values.dtype}, expected one row of text")
    texts: list[str] = values.tolist()
    return texts
