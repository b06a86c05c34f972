"""What an index is measured with, and how: recall and time of queries of the real kinds.

Kinds are user vectors and folded-in carts, which are not distributed like items; each leaves out what serving leaves
out, histories and carts, because exclusions cost an approximate search recall. Checked by tests/test_calibration.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.index import Index, recalls
from engine.recall import lower_bound
from engine.scoring import Found
from engine.vector_table import Vectors

RECALL_AT = 20
MAX_QUERIES = 500
"""Queries measured of each kind."""
TIMED_QUERIES = 100

Bags = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Carts or histories: starts int64 (bags + 1,) and item rows int32 (items,)."""


@dataclass(frozen=True)
class Queries:
    """Queries of one kind: vectors float32 (m, d), and for each the rows that must not come back, as when serving.

    best: their exact answers, once they are known.
    """

    vectors: NDArray[np.float32]
    excluded: Sequence[NDArray[np.int32]]
    best: Sequence[Found] | None = None

    def every_other(self, first: int) -> Queries:
        """Those at first, first + 2, ...: one half chooses, the other one judges."""
        best = None if self.best is None else self.best[first::2]
        return Queries(np.ascontiguousarray(self.vectors[first::2]), self.excluded[first::2], best)

    def answered(self, index: Index) -> Queries:
        """The same with their exact answers."""
        return replace(self, best=index.exact(self.vectors, RECALL_AT, self.excluded))


@dataclass(frozen=True)
class Measured:
    """Recall of one kind of query, and the time of one of them alone."""

    recall: float
    lower: float
    queries: int
    microseconds: float

    @property
    def told(self) -> str:
        """In words."""
        return (
            f"recall@{RECALL_AT} {self.recall:.4f} (lower 95% bound {self.lower:.4f}), "
            f"median {self.microseconds:.0f} us, {self.queries} queries"
        )

    def as_dict(self) -> dict[str, float]:
        """The manifest's words."""
        return {
            f"recall@{RECALL_AT}": self.recall,
            "lower_95": self.lower,
            "queries": self.queries,
            "median_microseconds": self.microseconds,
        }


def cart_queries(encoder: RidgeEncoder, carts: Bags) -> Queries:
    """Each cart folded in, every item with weight 1; its own items do not come back."""
    bags = [bag(carts, i) for i in range(len(carts[0]) - 1)]
    vectors = np.empty((len(bags), encoder.item_vectors.shape[1]), dtype=np.float32)
    for i, cart in enumerate(bags):
        vectors[i] = encoder.encode(cart, np.ones(len(cart), dtype=np.float32))
    return Queries(vectors, bags)


def user_queries(user_vectors: Vectors, histories: Bags, seed: int = 0) -> Queries:
    """A sample of MAX_QUERIES users; their histories do not come back."""
    n = len(user_vectors)
    chosen = np.sort(np.random.default_rng(seed).choice(n, min(MAX_QUERIES, n), replace=False))
    return Queries(user_vectors[chosen], [bag(histories, user) for user in chosen.tolist()])


def parts_of(histories: Bags, liked: NDArray[np.bool_], seed: int) -> Bags:
    """Carts made of up to 10 liked items of the histories of MAX_QUERIES users; liked is bool (items,)."""
    generator = np.random.default_rng(seed)
    starts, rows = histories
    carts = []
    for user in generator.choice(len(starts) - 1, min(MAX_QUERIES, len(starts) - 1), replace=False).tolist():
        of_user = slice(int(starts[user]), int(starts[user + 1]))
        items = rows[of_user][liked[of_user]]
        if len(items):
            size = min(len(items), int(generator.integers(1, 11)))
            carts.append(np.sort(generator.choice(items, size, replace=False)).astype(np.int32))
    return bags_of(carts)


def bags_of(carts: Sequence[NDArray[np.int32]]) -> Bags:
    """Carts, one after the other."""
    starts = np.cumsum([0, *(len(cart) for cart in carts)]).astype(np.int64)
    return starts, np.concatenate(carts) if carts else np.empty(0, dtype=np.int32)


def bag(bags: Bags, i: int) -> NDArray[np.int32]:
    """The rows of one cart or history."""
    starts, rows = bags
    return rows[starts[i] : starts[i + 1]]


def measure(index: Index, queries: Queries) -> Measured:
    """Recall@20 of each query alone, its mean and lower 95% bound, and the median time of the first hundred."""
    found = recalls(index, queries.vectors, RECALL_AT, queries.excluded, queries.best)
    return Measured(float(found.mean()), lower_bound(found), len(found), alone_microseconds(index, queries))


def alone_microseconds(index: Index, queries: Queries) -> float:
    """The median time of a query that is asked alone."""
    seconds = []
    for query, excluded in zip(queries.vectors[:TIMED_QUERIES], queries.excluded, strict=False):
        started = time.perf_counter()
        index.search(query[np.newaxis], RECALL_AT, [excluded])
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds) * 1e6)


def batch_microseconds(index: Index, queries: Mapping[str, Queries], size: int) -> float:
    """The time of a query in a batch of so many, the median of three."""
    vectors = np.concatenate([each.vectors for each in queries.values()])
    excluded = [rows for each in queries.values() for rows in each.excluded]
    places = np.arange(size) % len(vectors)
    batch, out = np.ascontiguousarray(vectors[places]), [excluded[place] for place in places]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        index.search(batch, RECALL_AT, out)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds) / size * 1e6)
