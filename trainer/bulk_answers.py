"""What each user of a release gets, for thousands of users at a time.

The same answers as those of engine.retrieval to RecommendForUser, which the trainer does not import: a user with a
vector gets the best of the index, one without what is popular. tests/test_recommend_all.py holds the two together, to
the bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.index import Index
from engine.parts import DensePart
from engine.plan import IndexPlan
from engine.release import Release
from engine.scoring import Found

Rows = NDArray[np.int32]

_NO_ROWS: Rows = np.empty(0, dtype=np.int32)
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
        part = DensePart.of(release.manifest)
        self._starts = release.array("users/history.indptr", np.int64, (part.n_users + 1,))
        self._history_rows = release.array("users/history.indices", np.int32, (part.n_entries,))
        self._history_values = release.array("users/history.values", np.float32, (part.n_entries,))
        self._user_vectors = part.user_vectors(release)
        available = release.array("items/available", np.bool_, (part.n_items,))
        popular_rows = release.array("items/popular_rows", np.int32, (part.n_items,))
        self._popular_rows = popular_rows[available[popular_rows]]
        self._popularity = release.array("items/popularity", np.int32, (part.n_items,))
        self._index = Index(release, part.item_vectors(release), IndexPlan(), available)
        self._limit = min(limit, self._index.n_available)
        self._repeats = repeats

    def of(self, start: int, stop: int) -> Block:
        """The answers for the users of the rows from start to stop, computed by the calling thread alone."""
        starts = self._starts[start : stop + 1]
        cuts = starts - starts[0]
        personal = _any_in_each(self._history_values[starts[0] : starts[-1]] > 0, cuts)
        excluded = (
            [_NO_ROWS] * (stop - start) if self._repeats else _cut(self._history_rows[starts[0] : starts[-1]], cuts)
        )
        queries = np.ascontiguousarray(self._user_vectors[start:stop][personal])
        of_queries = [rows for rows, is_personal in zip(excluded, personal.tolist(), strict=True) if is_personal]
        found = iter(self._index.exact(queries, self._limit, of_queries))
        answers = [
            next(found) if is_personal else self._most_popular(rows)
            for rows, is_personal in zip(excluded, personal.tolist(), strict=True)
        ]
        return Block(
            np.array([len(rows) for rows, _ in answers], dtype=np.int64),
            np.concatenate([_NO_ROWS, *(rows for rows, _ in answers)]),
            np.concatenate([_NO_SCORES, *(scores for _, scores in answers)]),
            personal,
        )

    def _most_popular(self, excluded: Rows) -> Found:
        """The first rows by popularity that are available and not excluded: few users have no vector."""
        rows = self._popular_rows[: self._limit + len(excluded)]
        rows = rows[~np.isin(rows, excluded)][: self._limit]
        return rows, self._popularity[rows].astype(np.float32)


def _any_in_each(marks: NDArray[np.bool_], cuts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether any mark is set from cuts[i] to cuts[i + 1], (m,) of m + 1 cuts; a stretch may be empty."""
    before = np.concatenate([[0], np.cumsum(marks)])
    return before[cuts[1:]] > before[cuts[:-1]]


def _cut(rows: Rows, cuts: NDArray[np.int64]) -> list[Rows]:
    return [rows[start:stop] for start, stop in itertools.pairwise(cuts.tolist())]
