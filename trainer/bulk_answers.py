"""What each user of a release gets, for thousands of users at a time.

The same answers as those of engine.retrieval to RecommendForUser, which the trainer does not import: a user who likes
anything gets the best of the recommender, another what is popular. tests/test_recommend_all.py holds the two together,
to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.evidence import NO_ROWS
from engine.histories import Histories
from engine.parts import Sizes
from engine.plan import IndexPlan
from engine.recommender import DenseMemory, Recommender
from engine.release import Release
from engine.scoring import Found
from engine.sparse_part import read_sparse_parts

Rows = NDArray[np.int32]

_NO_SCORES: NDArray[np.float32] = np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class Block:
    """Answers for m users in a row: item rows int32 and scores float32, one user's after another's."""

    counts: NDArray[np.int64]
    """How many of them each user has, (m,)."""
    rows: Rows
    scores: NDArray[np.float32]
    personal: NDArray[np.bool_]
    """Whose scores are inner products, (m,); those of the others are counts of users."""


class BulkAnswers:
    """Answers from a release, whose arrays stay memory-mapped. Thread-safe.

    Each has up to `limit` items; with `repeats` those that the user already has may be among them.
    """

    def __init__(self, release: Release, limit: int, *, repeats: bool) -> None:
        """Open the release. Raises ReleaseError, IndexUnsupported."""
        sizes = Sizes.of(release.manifest)
        self._n_items = sizes.n_items
        self._histories = Histories.read(release)
        available = release.array("items/available", np.bool_, (sizes.n_items,))
        popular_rows = release.array("items/popular_rows", np.int32, (sizes.n_items,))
        self._popular_rows = popular_rows[available[popular_rows]]
        self._popularity = release.array("items/popularity", np.int32, (sizes.n_items,))
        dense = DenseMemory.open(release, available, IndexPlan())
        self._recommender = Recommender(dense, read_sparse_parts(release), available)
        self._limit = min(limit, int(available.sum()))
        self._repeats = repeats

    def of(self, start: int, stop: int) -> Block:
        """The answers for the users of the rows from start to stop, computed by the calling thread alone."""
        histories = [self._histories.of(user, self._n_items) for user in range(start, stop)]
        personal = np.array([each.is_liked for each in histories], dtype=np.bool_)
        excluded = [NO_ROWS if self._repeats else each.rows for each in histories]
        asked = np.flatnonzero(personal).tolist()
        queries = [self._recommender.query(histories[place], "user", user=start + place) for place in asked]
        found = iter(self._recommender.search(queries, self._limit, [excluded[place] for place in asked], None))
        answers = [
            next(found) if is_personal else self._most_popular(rows)
            for rows, is_personal in zip(excluded, personal.tolist(), strict=True)
        ]
        return Block(
            np.array([len(rows) for rows, _ in answers], dtype=np.int64),
            np.concatenate([NO_ROWS, *(rows for rows, _ in answers)]),
            np.concatenate([_NO_SCORES, *(scores for _, scores in answers)]),
            personal,
        )

    def _most_popular(self, excluded: Rows) -> Found:
        """The first rows by popularity that are available and not excluded: few users have no vector."""
        rows = self._popular_rows[: self._limit + len(excluded)]
        rows = rows[~np.isin(rows, excluded)][: self._limit]
        return rows, self._popularity[rows].astype(np.float32)
