"""How well vectors rank held-out events, and a most-popular ranking beside them that proves the protocol.

Two protocols: `catalogue_ranking` ranks every item but what a user has already (LightGCN, Liang et al.);
`candidates_ranking` ranks each test item among its own candidates (He et al. 2017, the NCF files). Both give a Ranking,
which trainer.metrics turns into numbers; `rank_catalogue` and `rank_candidates` go on to the means. Equal scores fall
to the smaller row. Users are those of training or, under strong generalization (Liang et al.), others that are folded
in from a history of their own. Checked by tests/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.row_solver import EXACT
from engine.scoring import top_positions
from trainer.als import Embeddings
from trainer.candidates import Candidates
from trainer.eigenbasis import standing
from trainer.errors import EvaluationError, TrainingDiverged
from trainer.half_epoch import Penalty, RowNotFinite, solve_side
from trainer.interactions import Csr, Interactions
from trainer.metrics import Catalogue, Counts, Metric, PerUser, Ranking, measure
from trainer.threads import Threads

_BATCH_SCORES = 1 << 22
"""Scores that a thread holds at a time, 16 MiB of float32. Bounds of batches never depend on the number of threads."""


class Scores(Protocol):
    """Anything that scores all items for users by row: vectors (Scorer), or the parts of a recommender."""

    @property
    def n_items(self) -> int:
        """How many items there are."""

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """Float32 (users, n_items), to be overwritten."""


@dataclass(frozen=True)
class Scorer:
    """Anything whose score of an item for a user is an inner product: float32 (n_users, d) and (n_items, d)."""

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self.item_vectors)

    def scores(self, users: NDArray[np.int32]) -> NDArray[np.float32]:
        """Float32 (users, n_items), a new array."""
        products: NDArray[np.float32] = self.user_vectors[users] @ self.item_vectors.T
        return products


@dataclass(frozen=True)
class HeldOut:
    """Test events by row: users ascending, each with the training rows of its test items.

    `n_relevant` counts all test items of the user, also those that training never saw and nothing can rank, and
    `relevant_price` float64 (users,) adds up their prices, 0 where none is known. `prices` float32 (n_items,) are those
    of the test events by training row, NaN where unknown.
    """

    users: NDArray[np.int32]
    items: tuple[NDArray[np.int32], ...]
    n_relevant: Counts
    relevant_price: PerUser
    prices: NDArray[np.float32]
    n_unknown_users: int
    n_unknown_items: int


@dataclass(frozen=True)
class Cases:
    """Cases by training row: each case's user, and the rows of its test item and of the others (-1: unknown)."""

    users: NDArray[np.int32]
    items: tuple[NDArray[np.int32], ...]
    n_unknown_users: int


def popularity_scorer(train: Interactions, n_users: int | None = None) -> Scorer:
    """Ranks by the number of users who like an item in training, for everyone alike; `n_users` where not those."""
    popularity = train.popularity().astype(np.float32)
    users = train.n_users if n_users is None else n_users
    return Scorer(np.ones((users, 1), dtype=np.float32), popularity[:, np.newaxis])


def seen_items(train: Interactions, history: Interactions) -> Csr:
    """The entries of each user of `history` by training row of the item; items that training never saw are left out."""
    item_rows = train.item_ids.rows_of(history.item_ids.strings)
    items = item_rows[history.by_user.indices]
    users = np.repeat(np.arange(history.n_users), np.diff(history.by_user.indptr))
    kept = np.flatnonzero(items >= 0)
    kept = kept[np.lexsort((items[kept], users[kept]))]
    indptr = np.zeros(history.n_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(users[kept], minlength=history.n_users), out=indptr[1:])
    return Csr(indptr, items[kept], history.by_user.values[kept], n_columns=train.n_items)


def encoded(embeddings: Embeddings, seen: Csr, named: str = "user") -> Scorer:
    """Vectors of users that were not trained on, from what they have seen, as the last half epoch solved the others.

    A user who has seen nothing gets zeros: its ranking is that of the rows, most users first. Raises TrainingDiverged,
    for the first row of `seen` whose vector is not finite, by the name of what rows are.
    """
    items, options = embeddings.item_vectors, embeddings.options
    penalty = Penalty(embeddings.unobserved_weight, options.regularization, options.regularization_exponent)
    table = standing(items, embeddings.spectrum)
    vectors = np.empty((seen.n_rows, items.shape[1]), dtype=np.float32)
    try:
        with threadpool_limits(1, "blas"), Threads(options.threads) as pool:
            solve_side(seen, table, penalty, EXACT, vectors, pool)
    except RowNotFinite as error:
        raise TrainingDiverged(
            f"the vector of {named} {error.row + 1:,} of those folded in is not finite: event weights "
            "should be of the order of 1; lower them, or raise --regularization"
        ) from None
    return Scorer(vectors, items)


def hold_out(train: Interactions, test: Interactions, history: Interactions | None = None) -> HeldOut:
    """Match test events by id, items to rows of training, users to rows of training or else of `history`.

    Negative feedback is nothing to be found. Raises EvaluationError where no test user is known.
    """
    user_ids, whose = (train.user_ids, "training") if history is None else (history.user_ids, "history")
    user_rows = user_ids.rows_of(test.user_ids.strings)
    item_rows = train.item_ids.rows_of(test.item_ids.strings)
    liked = [rows[values > 0] for rows, values in map(test.by_user.row, range(test.n_users))]
    known = np.flatnonzero((user_rows >= 0) & np.array([len(rows) > 0 for rows in liked]))
    known = known[np.argsort(user_rows[known], kind="stable")]
    if not len(known):
        raise EvaluationError(
            f"none of the {len(user_rows):,} test users is among the {len(user_ids):,} {whose} users; the first "
            f"ids are {user_ids[0]!r} in {whose} and {test.user_ids[0]!r} in the test: "
            "do the files belong together?"
        )
    test_prices = np.full(test.n_items, np.nan, dtype=np.float32) if test.prices is None else test.prices
    prices = np.full(train.n_items, np.nan, dtype=np.float32)
    prices[item_rows[item_rows >= 0]] = test_prices[item_rows >= 0]
    items = [item_rows[liked[user]] for user in known.tolist()]
    return HeldOut(
        user_rows[known],
        tuple(rows[rows >= 0] for rows in items),
        np.array([len(rows) for rows in items], dtype=np.int64),
        np.array([np.nansum(test_prices[liked[user]], dtype=np.float64) for user in known.tolist()]),
        prices,
        n_unknown_users=int(np.count_nonzero(user_rows < 0)),
        n_unknown_items=int(np.count_nonzero(item_rows < 0)),
    )


def known_items(train: Interactions, held_out: HeldOut, item_vectors: NDArray[np.float32]) -> Catalogue:
    """What the metrics of items need: users by training, prices by the test events, and any model's item vectors."""
    return Catalogue(train.n_users, np.diff(train.by_item.indptr), item_vectors, held_out.prices)


def check_metrics(metrics: Sequence[Metric], held_out: HeldOut | None) -> None:
    """Raises EvaluationError for what a ranking for these events, or of candidates (None), cannot be measured by.

    Measuring would say so as well, but after a training that may take hours.
    """
    for metric in metrics:
        if held_out is None and metric.needs_catalogue:
            metric.required(None)
        if metric.kind == "diversity" and metric.k < 2:
            raise EvaluationError(f"{metric.name}: a list of one item has no diversity: expected k of at least 2")
        if held_out is not None and metric.kind == "revenue" and not held_out.relevant_price.any():
            raise EvaluationError(
                f"{metric.name}: no test event has a price above zero: does --price-column name the right column?"
            )


def rank_catalogue(
    scorer: Scores,
    history: Csr,
    held_out: HeldOut,
    metrics: Sequence[Metric],
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """The mean of each metric of hits over the held-out users, as `catalogue_ranking` ranks for them."""
    depth = max(metric.k for metric in metrics)
    return measure(metrics, catalogue_ranking(scorer, history, held_out, depth, on_progress=on_progress)).means


def catalogue_ranking(
    scorer: Scores,
    history: Csr | None,
    held_out: HeldOut,
    depth: int,
    *,
    catalogue: Catalogue | None = None,
    threads: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Ranking:
    """Rank all items but the user's history for each held-out user; the same for any number of threads (0: all).

    Without a history, what a user has competes with all else.
    """
    n_users, n_items = len(held_out.users), scorer.n_items
    rows = np.full((n_users, depth), -1, dtype=np.int32)
    hits = np.zeros((n_users, depth), dtype=bool)
    batch = max(1, _BATCH_SCORES // max(1, n_items))

    def rank(start: int) -> int:
        users = held_out.users[start : start + batch]
        scores = scorer.scores(users)
        relevant = np.zeros(n_items, dtype=bool)
        best = np.empty(min(depth, n_items), dtype=np.int64)
        for i, user in enumerate(users.tolist()):
            if history is not None:
                scores[i, history.row(user)[0]] = -np.inf
            size = top_positions(scores[i], best)
            rows[start + i, :size] = best[:size]
            relevant[held_out.items[start + i]] = True
            hits[start + i, :size] = relevant[best[:size]]
            relevant[held_out.items[start + i]] = False
        return start + len(users)

    # One BLAS thread for each of ours: fewer idle processors, and the same sums however many there are.
    with threadpool_limits(1, "blas"), Threads(threads) as pool:
        for ranked in pool.map(rank, range(0, n_users, batch)):
            if on_progress is not None:
                on_progress(ranked / n_users)
    return Ranking(rows, hits, held_out.n_relevant, held_out.relevant_price, catalogue)


def check_cases(candidates: Candidates, test: Interactions) -> None:
    """Raises EvaluationError unless every case of the candidates file is one of the test events."""
    users = test.user_ids.rows_of(candidates.user_ids)
    items = test.item_ids.rows_of(candidates.item_ids)[candidates.starts[:-1]]
    for case, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        if user < 0 or item < 0 or item not in test.by_user.row(user)[0]:
            raise EvaluationError(
                f"case {case + 1} of the candidates file is ({candidates.user_ids[case]}, "
                f"{candidates.item_ids[int(candidates.starts[case])]}), which is not among the test events: "
                "give the files that belong together, or leave --test away"
            )


def match_cases(train: Interactions, candidates: Candidates) -> Cases:
    """Match the cases of a candidates file to training rows by id. Raises EvaluationError where no user is known."""
    users = train.user_ids.rows_of(candidates.user_ids)
    items = train.item_ids.rows_of(candidates.item_ids)
    known = np.flatnonzero(users >= 0)
    if not len(known):
        raise EvaluationError("none of the users of the candidates file was trained on: do the files belong together?")
    starts = candidates.starts
    return Cases(
        users[known],
        tuple(items[starts[case] : starts[case + 1]] for case in known.tolist()),
        n_unknown_users=len(users) - len(known),
    )


def rank_candidates(scorer: Scores, cases: Cases, metrics: Sequence[Metric]) -> dict[str, float]:
    """The mean of each metric of hits over the cases, as `candidates_ranking` ranks them."""
    return measure(metrics, candidates_ranking(scorer, cases, max(metric.k for metric in metrics))).means


def candidates_ranking(scorer: Scores, cases: Cases, depth: int) -> Ranking:
    """Rank each test item among its own candidates; items that training never saw are not listed."""
    rows = np.full((len(cases.users), depth), -1, dtype=np.int32)
    hits = np.zeros((len(cases.users), depth), dtype=bool)
    batch = max(1, _BATCH_SCORES // max(1, scorer.n_items))
    for start in range(0, len(cases.users), batch):
        users = cases.users[start : start + batch]
        for i, (scores, candidates) in enumerate(zip(scorer.scores(users), cases.items[start:], strict=False), start):
            known = candidates[candidates >= 0]
            best = known[np.lexsort((known, -scores[known]))][:depth]
            rows[i, : len(best)] = best
            hits[i, : len(best)] = best == candidates[0]
    n_cases = len(cases.users)
    return Ranking(rows, hits, np.ones(n_cases, dtype=np.int64), np.zeros(n_cases))
