"""A made set of users and items in the shape of MovieLens-20M, for what no data at hand is large enough.

`movielens_shape` draws exactly 10,000,000 distinct pairs of 138,493 users and 26,744 items: activity and popularity
have heavy tails, and users prefer the items of their own few clusters, so that there is something to learn. The same
seed gives the same set. Real sets are loaded by benchmarks.training. Checked by tests/test_made_sets.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.ids import IdTable
from trainer.cleaning import Report
from trainer.interactions import Csr, Interactions

_OWN_SHARE = 0.7
"""Share of draws from the user's own clusters; the others follow popularity alone."""
_OWN_CLUSTERS = 3
_ACTIVITY_TAIL = 1.6
_POPULARITY_TAIL = 1.5
_MOST = 0.15
"""No user draws more than this share of the items at once."""


def movielens_shape(seed: int = 20) -> Csr:
    """The set of ten million entries, by user."""
    return made_set(138_493, 26_744, 10_000_000, seed)


def made_set(n_users: int, n_items: int, n_entries: int, seed: int) -> Csr:
    """n_entries distinct pairs, all of weight 1; every user and every item has one; items fall with their users."""
    if not n_users + n_items <= n_entries <= n_users * n_items // 4:
        raise ValueError(f"{n_entries:,} entries: expected from {n_users + n_items:,} to {n_users * n_items // 4:,}")
    generator = np.random.default_rng(seed)
    tastes = _Tastes(n_users, n_items, generator)
    users, items = np.arange(n_users), np.arange(n_items)
    anyone = generator.integers(0, n_users, n_items)
    kept = _distinct(np.concatenate([users * n_items + tastes.items_for(users), anyone * n_items + items]))
    while len(kept) < n_entries:
        wanted = n_entries - len(kept)
        drawn = tastes.users(int(1.3 * wanted) + 16)
        new = _distinct(drawn * n_items + tastes.items_for(drawn))
        new = np.setdiff1d(new, kept, assume_unique=True)
        if len(new) > wanted:
            new = generator.choice(new, wanted, replace=False, shuffle=False)
        kept = np.concatenate([kept, new])
    return _by_user(kept, n_users, n_items)


def interactions_of(by_user: Csr) -> Interactions:
    """Interactions of entries alone. What training does not read (counts, times) takes no memory here."""
    n = by_user.n_entries
    return Interactions(
        user_ids=IdTable.of(f"user {row}" for row in range(by_user.n_rows)),
        item_ids=IdTable.of(f"item {row}" for row in range(by_user.n_columns)),
        by_user=by_user,
        by_item=by_user.transposed(),
        counts=np.broadcast_to(np.int32(1), n),
        quantities=np.broadcast_to(np.float32(1), n),
        last_times=np.broadcast_to(np.nan, n),
        baskets=None,
        prices=None,
        report=Report(n, n, ()),
    )


class _Tastes:
    """Who is how active, what is how popular, and which clusters each user prefers."""

    def __init__(self, n_users: int, n_items: int, generator: np.random.Generator) -> None:
        self._generator = generator
        n_clusters = max(2, min(64, n_items // 20))
        activity = 1 + generator.pareto(_ACTIVITY_TAIL, n_users)
        self._activity = activity / activity.sum()
        popularity = (np.arange(1, n_items + 1) + n_items / 100) ** -_POPULARITY_TAIL
        clusters = generator.integers(0, n_clusters, n_items)
        self._own = generator.integers(0, n_clusters, (n_users, _OWN_CLUSTERS))
        # Items stand cluster by cluster, so that one table of cumulated popularity serves every draw: a cluster is
        # an interval of it, and all items are the whole.
        self._order = np.argsort(clusters, kind="stable")
        self._cumulated = np.concatenate([[0.0], np.cumsum(popularity[self._order])])
        self._bounds = self._cumulated[np.searchsorted(clusters[self._order], np.arange(n_clusters + 1))]

    def users(self, n: int) -> NDArray[np.int64]:
        """About n draws of users by their activity, in rising order, none above its share of the items."""
        counts = self._generator.multinomial(n, self._activity)
        return np.repeat(np.arange(len(counts)), np.minimum(counts, int(_MOST * len(self._order)) + 1))

    def items_for(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """One item for each of these users."""
        generator, n = self._generator, len(users)
        cluster = self._own[users, generator.integers(0, _OWN_CLUSTERS, n)]
        own = generator.random(n) < _OWN_SHARE
        first = np.where(own, self._bounds[cluster], 0.0)
        last = np.where(own, self._bounds[cluster + 1], self._cumulated[-1])
        # A cluster without items is an empty interval: its draws fall on the neighbour's first item.
        places = np.searchsorted(self._cumulated, first + generator.random(n) * (last - first), side="right") - 1
        return self._order[np.minimum(places, len(self._order) - 1)]


def _distinct(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each pair once, rising; four times as fast as numpy.unique, which hashes."""
    pairs = np.sort(pairs)
    return pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])]


def _by_user(pairs: NDArray[np.int64], n_users: int, n_items: int) -> Csr:
    """Pairs user * n_items + item as rows of users, items numbered anew by their falling number of users."""
    users, items = np.divmod(pairs, n_items)
    by_popularity = np.argsort(-np.bincount(items, minlength=n_items), kind="stable")
    rank = np.empty(n_items, dtype=np.int64)
    rank[by_popularity] = np.arange(n_items)
    pairs = np.sort(users * n_items + rank[items])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]).astype(np.int64)
    return Csr(indptr, (pairs % n_items).astype(np.int32), np.ones(len(pairs), dtype=np.float32), n_columns=n_items)
