"""How well vectors rank held-out events, and a most-popular ranking beside them that proves the protocol.

Two protocols: `rank_catalogue` ranks every item but the user's training items (LightGCN, Liang et al.);
`rank_candidates` ranks each test item among its own candidates (He et al. 2017, the NCF files). Both give places of
hits, which trainer.metrics turns into numbers. Equal scores fall to the smaller row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.scoring import top_positions
from trainer.candidates import Candidates
from trainer.errors import EvaluationError
from trainer.interactions import Csr, Interactions
from trainer.metrics import Counts, Metric, summarize

_BATCH_SCORES = 1 << 25
"""Scores held at a time, 128 MiB of float32."""


@dataclass(frozen=True)
class Scorer:
    """Anything whose score of an item for a user is an inner product: float32 (n_users, d) and (n_items, d)."""

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]


@dataclass(frozen=True)
class HeldOut:
    """Test events by training row: users ascending, each with the rows of its test items.

    `n_relevant` counts all test items of the user, also those that training never saw and nothing can rank.
    """

    users: NDArray[np.int32]
    items: tuple[NDArray[np.int32], ...]
    n_relevant: Counts
    n_unknown_users: int
    n_unknown_items: int


@dataclass(frozen=True)
class Cases:
    """Cases by training row: each case's user, and the rows of its test item and of the others (-1: unknown)."""

    users: NDArray[np.int32]
    items: tuple[NDArray[np.int32], ...]
    n_unknown_users: int


def popularity_scorer(interactions: Interactions) -> Scorer:
    """Ranks by the number of users who like an item in training, for everyone alike."""
    popularity = interactions.popularity().astype(np.float32)
    return Scorer(np.ones((interactions.by_user.n_rows, 1), dtype=np.float32), popularity[:, np.newaxis])


def hold_out(train: Interactions, test: Interactions) -> HeldOut:
    """Match test events to training rows by id; negative feedback is nothing to be found.

    Raises EvaluationError where no test user was trained on.
    """
    user_rows = train.user_ids.rows_of(test.user_ids.strings)
    item_rows = train.item_ids.rows_of(test.item_ids.strings)
    liked = [rows[values > 0] for rows, values in map(test.by_user.row, range(test.n_users))]
    known = np.flatnonzero((user_rows >= 0) & np.array([len(rows) > 0 for rows in liked]))
    known = known[np.argsort(user_rows[known], kind="stable")]
    if not len(known):
        raise EvaluationError(
            f"none of the {len(user_rows):,} test users is among the {len(train.user_ids):,} training users; the first "
            f"ids are {train.user_ids[0]!r} in training and {test.user_ids[0]!r} in the test: "
            "do the files belong together?"
        )
    items, counts = [], []
    for user in known.tolist():
        rows = item_rows[liked[user]]
        items.append(rows[rows >= 0])
        counts.append(len(rows))
    return HeldOut(
        user_rows[known],
        tuple(items),
        np.array(counts, dtype=np.int64),
        n_unknown_users=int(np.count_nonzero(user_rows < 0)),
        n_unknown_items=int(np.count_nonzero(item_rows < 0)),
    )


def rank_catalogue(
    scorer: Scorer,
    history: Csr,
    held_out: HeldOut,
    metrics: Sequence[Metric],
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Rank all items but the user's history for each held-out user; returns the mean of each metric."""
    depth = max(metric.k for metric in metrics)
    n_items = len(scorer.item_vectors)
    hits = np.zeros((len(held_out.users), depth), dtype=bool)
    relevant = np.zeros(n_items, dtype=bool)
    best = np.empty(min(depth, n_items), dtype=np.int64)
    batch = max(1, _BATCH_SCORES // max(1, n_items))
    for start in range(0, len(held_out.users), batch):
        users = held_out.users[start : start + batch]
        scores = scorer.user_vectors[users] @ scorer.item_vectors.T
        for i, user in enumerate(users.tolist()):
            scores[i, history.row(user)[0]] = -np.inf
            size = top_positions(scores[i], best)
            relevant[held_out.items[start + i]] = True
            hits[start + i, :size] = relevant[best[:size]]
            relevant[held_out.items[start + i]] = False
        if on_progress is not None:
            on_progress(min(1.0, (start + batch) / len(held_out.users)))
    return summarize(metrics, hits, held_out.n_relevant)


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


def rank_candidates(scorer: Scorer, cases: Cases, metrics: Sequence[Metric]) -> dict[str, float]:
    """Rank each test item among its own candidates; items that training never saw rank last."""
    depth = max(metric.k for metric in metrics)
    hits = np.zeros((len(cases.users), depth), dtype=bool)
    for i, (user, rows) in enumerate(zip(cases.users.tolist(), cases.items, strict=True)):
        scores = np.full(len(rows), -np.inf, dtype=np.float32)
        scores[rows >= 0] = scorer.item_vectors[rows[rows >= 0]] @ scorer.user_vectors[user]
        target, others, other_rows = scores[0], scores[1:], rows[1:]
        place = np.count_nonzero(others > target) + np.count_nonzero((others == target) & (other_rows < rows[0]))
        if place < depth and rows[0] >= 0:
            hits[i, place] = True
    return summarize(metrics, hits, np.ones(len(cases.users), dtype=np.int64))
