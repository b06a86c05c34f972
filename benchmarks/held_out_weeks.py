"""A training, the weeks after it, and how one ranking measures every model on them.

A model gives scores; what is listed, what is left out and how ties fall is decided here, once for all models, as
trainer.evaluate decides it (tests/test_quality_benchmark.py compares). benchmarks.quality uses two of these: one to
tune on, one to measure with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts_of_entries import part_of_entries
from benchmarks.real_shops import RealShop, hidden_carts
from engine.scoring import top_positions
from trainer.choices import byte_ranks
from trainer.cleaning import Report
from trainer.evaluate import HeldOut, hold_out
from trainer.experiment import EventsExperiment
from trainer.interactions import Interactions
from trainer.metrics import Metric, PerUser, Ranking, measure, parse_metrics
from trainer.splits import Split
from trainer.weighting import Weighting

AIM = parse_metrics("ndcg@20")[0]
"""What everything is tuned for."""
OF_USERS = parse_metrics("recall@20,ndcg@20")
OF_CARTS = parse_metrics("hr@10")
_BATCH_SCORES = 1 << 22

Rows = NDArray[np.int32]
Scores = NDArray[np.float32]


class Model(Protocol):
    """Anything that scores all items, float32 (queries, n_items), for training users and for carts of item rows."""

    def user_scores(self, users: Rows) -> Scores: ...

    def cart_scores(self, carts: Sequence[Rows]) -> Scores: ...


class CartModel(Protocol):
    """The same for carts alone."""

    def cart_scores(self, carts: Sequence[Rows]) -> Scores: ...


@dataclass(frozen=True)
class Carts:
    """Baskets with one item hidden, the same for every model."""

    shown: tuple[Rows, ...]
    hidden: tuple[int, ...]


@dataclass(frozen=True)
class Weeks:
    """A training and what was held out after it; `experiment` is what `nearcart tune` would search with."""

    experiment: EventsExperiment
    held_out: HeldOut
    carts: Carts

    def train_under(self, weighting: Weighting) -> Interactions:
        return self.experiment.weighed(weighting).train

    def user_ranking(self, model: Model) -> Ranking:
        """Items that are new to each held-out user: the history is not listed."""
        histories, users = self.experiment.split.train.by_user, self.held_out.users
        seen = [histories.row(user)[0] for user in users.tolist()]
        return _ranking(lambda part: model.user_scores(users[part]), seen, self.held_out.items, max_k(OF_USERS))

    def cart_ranking(self, model: CartModel) -> Ranking:
        """Items that are not in the cart; the hidden one is to be found."""
        hidden = [np.array([item], dtype=np.int32) for item in self.carts.hidden]
        shown = self.carts.shown
        return _ranking(lambda part: model.cart_scores(shown[part]), shown, hidden, max_k(OF_CARTS))

    def aim(self, model: Model) -> float:
        """The number that tuning raises."""
        return measure((AIM,), self.user_ranking(model)).means[AIM.name]

    def measured(self, model: Model) -> tuple[dict[str, PerUser], dict[str, PerUser]]:
        """Each metric by user, and by cart."""
        users, carts = self.user_ranking(model), self.cart_ranking(model)
        return measure(OF_USERS, users).per_user, measure(OF_CARTS, carts).per_user


def weeks(shop: RealShop, train: Interactions, after: Interactions, *, most_users: int, seed: int) -> Weeks:
    """Match what came after to the training; of the users `most_users` are drawn, 0 takes all."""
    split = Split(train, None, new_to_them(train, after, most_users, seed), train.report)
    experiment = EventsExperiment(lambda weighting: split, shop.cleaning, AIM, seed=seed)
    cases = hidden_carts(train, after)
    carts = Carts(tuple(cart.astype(np.int32) for _, cart, _ in cases), tuple(hidden for _, _, hidden in cases))
    return Weeks(experiment, hold_out(train, split.test), carts)


def new_to_them(train: Interactions, after: Interactions, most_users: int, seed: int) -> Interactions:
    """What known users took of known items for the first time: nothing else could be listed for them."""
    users, items = (train.user_ids.rows_of(after.user_ids.strings), train.item_ids.rows_of(after.item_ids.strings))
    owners = np.repeat(np.arange(after.n_users), np.diff(after.by_user.indptr))
    pairs = users[owners].astype(np.int64) * train.n_items + items[after.by_user.indices]
    trained = np.repeat(np.arange(train.n_users), np.diff(train.by_user.indptr)) * train.n_items + train.by_user.indices
    kept = (users[owners] >= 0) & (items[after.by_user.indices] >= 0) & ~np.isin(pairs, trained)
    candidates = np.unique(owners[kept])
    if 0 < most_users < len(candidates):
        kept &= np.isin(owners, np.random.default_rng(seed).choice(candidates, most_users, replace=False))
    n_rows = int(after.counts[kept].sum())
    return part_of_entries(after, kept, byte_ranks(after.item_ids.strings), Report.of(n_rows, n_rows, {}))


def max_k(metrics: Sequence[Metric]) -> int:
    return max(metric.k for metric in metrics)


def _ranking(
    scores_of: Callable[[slice], Scores], left_out: Sequence[Rows], relevant: Sequence[Rows], depth: int
) -> Ranking:
    """Ties fall to the item with more users, so that a model that knows nothing ends as the most popular."""
    n_queries = len(relevant)
    rows, hits = np.full((n_queries, depth), -1, dtype=np.int32), np.zeros((n_queries, depth), dtype=bool)
    best = np.empty(depth, dtype=np.int64)
    batch = max(1, _BATCH_SCORES // max(1, scores_of(slice(0, 1)).shape[1]))
    for start in range(0, n_queries, batch):
        scores = scores_of(slice(start, min(n_queries, start + batch)))
        for query, of_query in enumerate(scores, start=start):
            of_query[left_out[query]] = -np.inf
            size = top_positions(of_query, best)
            rows[query, :size] = best[:size]
            hits[query, :size] = np.isin(best[:size], relevant[query])
    return Ranking(rows, hits, np.array([len(each) for each in relevant], dtype=np.int64), np.zeros(n_queries))
