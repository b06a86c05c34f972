"""What a query is made from: the items of a history or of a cart, with what they weigh and how old they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt

OLDEST = 65_535
"""The age of an item that is so old or older: ages are stored in 16 bits."""

NO_ROWS: NDArray[np.int32] = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Evidence:
    """m items: rows int32 (m,), ascending and unique, weights float32 (m,), below 0 for negative feedback, and ages.

    ages int32 (m,): how many distinct newer moments there are, 0 for the newest items; all 0 where no order is known.
    """

    rows: NDArray[np.int32]
    weights: NDArray[np.float32]
    ages: NDArray[np.int32]

    @classmethod
    def of_rows(cls, rows: NDArray[np.int32]) -> Evidence:
        """Rows of weight 1, without an order."""
        return cls(rows, np.ones(len(rows), dtype=np.float32), np.zeros(len(rows), dtype=np.int32))

    @property
    def is_liked(self) -> bool:
        """Whether any item weighs more than 0."""
        return bool((self.weights > 0).any())

    def joined(self, newer: Evidence) -> Evidence:
        """This and what came after it. An item of both keeps the larger of its weights, and is as old as the newer."""
        if not len(newer.rows):
            return self
        rows = np.union1d(self.rows, newer.rows).astype(np.int32)
        weights, ages = np.zeros(len(rows), dtype=np.float32), np.zeros(len(rows), dtype=np.int32)
        here, there = np.searchsorted(rows, self.rows), np.searchsorted(rows, newer.rows)
        weights[here] = self.weights
        weights[there] = np.maximum(weights[there], newer.weights)
        moments = int(newer.ages.max()) + 1
        ages[here] = np.minimum(self.ages + moments, OLDEST)
        ages[there] = newer.ages
        return Evidence(rows, weights, ages)

    def weighed(self, newest: int, recency: float) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The items that weigh more than 0, the `newest` of them, and their weights times (1 + age)^-recency.

        Of equally old ones the smaller rows count, where not all do.
        """
        rows, weights, ages = self.rows, self.weights, self.ages
        kept = weights > 0
        if np.count_nonzero(kept) < len(rows):
            rows, weights, ages = rows[kept], weights[kept], ages[kept]
        if len(rows) > newest:
            chosen = np.sort(np.argsort(ages, kind="stable")[:newest])
            rows, weights, ages = rows[chosen], weights[chosen], ages[chosen]
        if recency:
            weights = weights * (1 + ages.astype(np.float32)) ** np.float32(-recency)
        return rows, weights


def require_rows(rows: NDArray[np.int32], n_items: int) -> None:
    """Raises ReleaseCorrupt for rows that are no items, as a damaged file may name; kernels would read elsewhere."""
    if len(rows) and not (np.min(rows) >= 0 and np.max(rows) < n_items):
        raise ReleaseCorrupt(f"a history or cart names item rows outside the {n_items:,} of the release")
