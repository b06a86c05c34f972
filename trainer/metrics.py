"""Ranking metrics at k, from ranked lists and their hits. Nothing here knows where the lists came from.

Of hits, each a number for every user:

    recall@k      hits / test items (LightGCN's protocol)
    recall@k/min  hits / min(k, test items) (Liang et al. 2018); two published recalls differ, so they have two names
    precision@k   hits / k
    ndcg@k        sum of 1 / log2(place + 1) over the hits / the same sum with min(k, test items) hits on top
    map@k         sum of precision@place over the hits / min(k, test items): the mean of average precision
    mrr@k         1 / place of the first hit, 0 without one
    hr@k          1 with a hit, 0 without

Of the items that were listed, which takes a ranking of the whole catalogue (measures after Vargas and Castells 2011):

    revenue@k     price of the hits / price of the test items; what has no known price is in neither sum
    novelty@k     mean of -log2(training users of the item / training users) over the listed items, in bits
    diversity@k   1 - mean cosine of the vectors of two listed items, over all pairs; a vector of zeros has cosine 0
    coverage@k    items in anybody's top k / items of the catalogue: one number for all users

A user of whom a metric says nothing is NaN and left out of its mean: revenue where no test item has a known price,
novelty of an empty list, diversity of a list of fewer than two. Held against tests/reference.py and against ranx by
tests/test_metrics.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from trainer.errors import EvaluationError

Counts = NDArray[np.int64]
PerUser = NDArray[np.float64]

_DIVERSITY_USERS = 1024
"""Lists whose vectors are gathered at a time: 10 MiB at k = 20 and 128 factors."""


@dataclass(frozen=True)
class Catalogue:
    """What is known of the ranked items, the same whichever model ranks them.

    n_users int: users trained on; item_users int64 (n_items,): those of them with an entry for the item;
    vectors float32 (n_items, d): what diversity compares; prices float32 (n_items,): NaN where unknown.
    """

    n_users: int
    item_users: Counts
    vectors: NDArray[np.float32]
    prices: NDArray[np.float32]


@dataclass(frozen=True)
class Ranking:
    """The best items for each user, and which of them were to be found.

    rows int32 (users, depth): items by place, -1 after the end of a short list; hits bool (users, depth);
    n_relevant int64 (users,): items to be found, all positive; relevant_price float64 (users,): their prices together,
    0 where none is known. catalogue is None where something else than the catalogue was ranked.
    """

    rows: NDArray[np.int32]
    hits: NDArray[np.bool_]
    n_relevant: Counts
    relevant_price: PerUser
    catalogue: Catalogue | None = None

    def top(self, k: int) -> Ranking:
        """The first k places, k <= depth."""
        return replace(self, rows=self.rows[:, :k], hits=self.hits[:, :k])


@dataclass(frozen=True)
class Metric:
    """One metric at one depth; `name` is how it is asked for and printed, such as recall@20/min."""

    name: str
    kind: str
    k: int

    @property
    def needs_catalogue(self) -> bool:
        """Whether only a ranking of the whole catalogue can be measured by it."""
        return self.kind in _OF_ITEMS

    def of(self, ranking: Ranking) -> PerUser | float:
        """One number a user, float64 (users,), or one for all. Raises EvaluationError where there is none."""
        top = ranking.top(self.k)
        if not self.needs_catalogue:
            return _OF_HITS[self.kind](top)
        value = _OF_ITEMS[self.kind](top, self.required(ranking.catalogue))
        if np.isnan(value).all():
            raise EvaluationError(
                f"{self.name} says nothing about any of the {len(top.rows):,} users: revenue needs test items with a "
                "price, novelty a list that is not empty, diversity one of at least two items"
            )
        return value

    def required(self, catalogue: Catalogue | None) -> Catalogue:
        """The catalogue, where there is one. Raises EvaluationError."""
        if catalogue is None:
            raise EvaluationError(
                f"{self.name} is about lists from the whole catalogue, not from given candidates: expected one of "
                f"{_spelled(_OF_HITS)}"
            )
        return catalogue


@dataclass(frozen=True)
class Measured:
    """`means` by name of every metric, `per_user` float64 (users,) of those that have a number for each user."""

    means: dict[str, float]
    per_user: dict[str, PerUser]


def parse_metrics(names: str) -> tuple[Metric, ...]:
    """Metrics from a comma-separated list such as "recall@20,recall@20/min,ndcg@20". Raises UsageError."""
    metrics = []
    for name in filter(None, (each.strip().lower() for each in names.split(","))):
        match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,3})(/min)?", name)
        kind = "" if match is None else match[1] + (match[3] or "")
        if match is None or (kind not in _OF_HITS and kind not in _OF_ITEMS):
            known = _spelled([*_OF_HITS, *_OF_ITEMS])
            raise UsageError(f"unknown metric {name!r}: expected one of {known}, with a number for k")
        metrics.append(Metric(name, kind, int(match[2])))
    if not metrics:
        raise UsageError("no metric was named: expected a list such as recall@20,ndcg@20")
    return tuple(metrics)


def measure(metrics: Sequence[Metric], ranking: Ranking) -> Measured:
    """Every metric of a ranking at least as deep as each k. Raises EvaluationError where one has no value."""
    values = {metric.name: metric.of(ranking) for metric in metrics}
    return Measured(
        {name: float(np.nanmean(value)) for name, value in values.items()},
        {name: value for name, value in values.items() if isinstance(value, np.ndarray)},
    )


def _spelled(kinds: Iterable[str]) -> str:
    return ", ".join(kind.replace("/min", "@k/min") if "/" in kind else f"{kind}@k" for kind in kinds)


def _recall(top: Ranking) -> PerUser:
    return _share(top.hits.sum(axis=1), top.n_relevant)


def _recall_min(top: Ranking) -> PerUser:
    return _share(top.hits.sum(axis=1), _most_hits(top))


def _precision(top: Ranking) -> PerUser:
    found: PerUser = top.hits.mean(axis=1)
    return found


def _ndcg(top: Ranking) -> PerUser:
    discounts = 1.0 / np.log2(np.arange(2, top.hits.shape[1] + 2))
    return _share(top.hits @ discounts, np.cumsum(discounts)[_most_hits(top) - 1])


def _average_precision(top: Ranking) -> PerUser:
    precisions = np.cumsum(top.hits, axis=1) / np.arange(1, top.hits.shape[1] + 1)
    return _share((precisions * top.hits).sum(axis=1), _most_hits(top))


def _reciprocal_rank(top: Ranking) -> PerUser:
    return _share(_hit_rate(top), top.hits.argmax(axis=1) + 1)


def _hit_rate(top: Ranking) -> PerUser:
    hit: PerUser = np.asarray(top.hits.any(axis=1), dtype=np.float64)
    return hit


def _revenue(top: Ranking, catalogue: Catalogue) -> PerUser:
    prices = np.nan_to_num(catalogue.prices).astype(np.float64)
    return _share(np.where(top.hits, prices[top.rows], 0.0).sum(axis=1), top.relevant_price)


def _novelty(top: Ranking, catalogue: Catalogue) -> PerUser:
    # Every item of real events has a user; one without counts as if it had one, which keeps the mean finite.
    information = -np.log2(np.maximum(catalogue.item_users, 1) / catalogue.n_users)
    listed = top.rows >= 0
    return _share(np.where(listed, information[top.rows], 0.0).sum(axis=1), listed.sum(axis=1))


def _diversity(top: Ranking, catalogue: Catalogue) -> PerUser:
    """With unit vectors u_i and s their sum, the cosines of all ordered pairs i != j add up to |s|^2 - sum |u_i|^2."""
    lengths = np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
    units = catalogue.vectors / np.where(lengths > 0, lengths, 1)
    # One more vector, of zeros, stands where row -1 leads: a place without an item adds nothing.
    units = np.concatenate((units, np.zeros_like(units[:1])))
    cosines = np.empty(len(top.rows))
    for start in range(0, len(top.rows), _DIVERSITY_USERS):
        listed = units[top.rows[start : start + _DIVERSITY_USERS]].astype(np.float64)
        squares = np.einsum("ukd,ukd->u", listed, listed)
        cosines[start : start + _DIVERSITY_USERS] = np.square(listed.sum(axis=1)).sum(axis=1) - squares
    size = (top.rows >= 0).sum(axis=1)
    return 1.0 - _share(cosines, size * (size - 1))


def _coverage(top: Ranking, catalogue: Catalogue) -> float:
    return len(np.unique(top.rows[top.rows >= 0])) / len(catalogue.item_users)


def _most_hits(top: Ranking) -> Counts:
    return np.minimum(top.n_relevant, top.hits.shape[1])


def _share(part: NDArray[Any], whole: NDArray[Any]) -> PerUser:
    """part / whole by user, NaN where the whole is 0."""
    out = np.full(len(part), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


_OF_HITS: Mapping[str, Callable[[Ranking], PerUser]] = {
    "recall": _recall,
    "recall/min": _recall_min,
    "ndcg": _ndcg,
    "precision": _precision,
    "map": _average_precision,
    "mrr": _reciprocal_rank,
    "hr": _hit_rate,
}

_OF_ITEMS: Mapping[str, Callable[[Ranking, Catalogue], PerUser | float]] = {
    "revenue": _revenue,
    "novelty": _novelty,
    "diversity": _diversity,
    "coverage": _coverage,
}
