"""The most popular items of a release: what strangers get. Held against brute force by tests/test_retrieval.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.evidence import NO_ROWS
from engine.restrictions import Allowed, Rows
from engine.scoring import Found


@dataclass(frozen=True)
class Popular:
    """counts int32 (n,) of each item's users, order int32 (n,) of the rows by them, available bool (n,)."""

    counts: NDArray[np.int32]
    order: NDArray[np.int32]
    available: NDArray[np.bool_]

    def best(self, limit: int, allowed: Allowed) -> Found:
        """The first available rows of the order that are allowed, and their counts."""
        candidates = allowed.candidates()
        return self._first(limit, allowed) if candidates is None else self._best_of(limit, candidates)

    def _best_of(self, limit: int, candidates: Rows) -> Found:
        rows = candidates[np.lexsort((candidates, -self.counts[candidates]))]
        return self._counted(rows[self.available[rows]][:limit])

    def _first(self, limit: int, allowed: Allowed) -> Found:
        taken: list[Rows] = []
        wanted, start, size = limit, 0, limit + len(allowed.excluded) + 64
        while wanted > 0 and start < len(self.order):
            rows = self.order[start : start + size]
            shown = self.available[rows] if allowed.mask is None else self.available[rows] & allowed.mask[rows]
            rows = rows[shown & ~np.isin(rows, allowed.excluded)][:wanted]
            taken.append(rows)
            wanted -= len(rows)
            start, size = start + size, 2 * size
        return self._counted(np.concatenate(taken) if taken else NO_ROWS)

    def _counted(self, rows: Rows) -> Found:
        return rows, self.counts[rows].astype(np.float32)
