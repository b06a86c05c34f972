"""Search by pruning: one query by one scan, many by products of matrices; exact.

The arrays are engine.pruned_table's, the kernels engine.pruned_scan's. Scores are computed by engine.scoring.score_row,
and have the bits of engine.scoring.score_rows. Kept honest by tests/test_index.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.pruned_scan import BLOCK, search_each, search_one, take_products
from engine.pruned_table import PrunedTable, rounding, underflow
from engine.scoring import Found
from engine.stacked import Slices, Stacked
from engine.vector_table import Vectors, table_of

_MOST_ROWS = 512
"""Of the rows that are multiplied at a time. The first are BLOCK, since all of them are scored, then twice as many."""
_MOST_PRODUCTS = 1 << 18
"""Products of one block with some of the queries: 1 MiB, as much as the second-level cache holds."""
_ALL: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)


class PrunedSearch:
    """Over vectors (n, d) and their table. Thread-safe."""

    def __init__(self, vectors: Vectors, table: PrunedTable) -> None:
        self._vectors, self._table = table_of(vectors), table
        self._arrays = tuple(table.arrays().values())
        d = vectors.shape[1]
        self._rounding, self._underflow = rounding(d), np.float32(underflow(d))

    def one(
        self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int32], allowed: NDArray[np.bool_] | None
    ) -> Found:
        """The k best rows for query float32 (d,) that are allowed bool (n,), None for all, and not excluded int32.

        What is excluded ascends. k is at least 1.
        """
        rows, scores = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
        size = self.go_on(query, rows, scores, 0, excluded, allowed)
        return rows[:size], scores[:size]

    def go_on(
        self,
        query: NDArray[np.float32],
        rows: NDArray[np.int32],
        scores: NDArray[np.float32],
        size: int,
        excluded: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None,
    ) -> int:
        """The same into rows int32 (k,) and scores float32 (k,), which hold `size` rows already; returns how many then.

        Those are not allowed here. They have scores of any origin, falling, ties to the smaller row.
        """
        mask = _ALL if allowed is None else allowed
        found = search_one(
            self._vectors.codes, self._vectors.scales, *self._arrays, query, self._underflow, mask, excluded,
            rows, scores, size,
        )  # fmt: skip
        return int(found)

    def each(
        self, queries: NDArray[np.float32], k: int, excluded: Slices, allowed: NDArray[np.bool_] | None
    ) -> Stacked:
        """`one` of each of queries float32 (m, d)."""
        found = Stacked.empty(len(queries), k)
        search_each(
            self._vectors.codes, self._vectors.scales, *self._arrays, queries, self._underflow,
            _ALL if allowed is None else allowed, excluded.values, excluded.starts, excluded.stops,
            found.rows, found.scores, found.sizes,
        )  # fmt: skip
        return found

    def many(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int32]],
        allowed: NDArray[np.bool_] | None,
    ) -> list[Found]:
        """The same for each of queries float32 (m, d), by products with blocks of rows."""
        order, norms = self._table.order, self._table.block_norms[:, 0]
        mask = _ALL if allowed is None else allowed
        starts = np.zeros(len(queries) + 1, dtype=np.int64)
        np.cumsum([len(rows) for rows in excluded], out=starts[1:])
        left_out = np.concatenate(excluded).astype(np.int32)
        rows = np.empty((len(queries), k), dtype=np.int32)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        sizes = np.zeros(len(queries), dtype=np.int64)
        lengths = np.sqrt(np.einsum("md,md->m", queries, queries, dtype=np.float64)) * 1.000001
        going = np.arange(len(queries))
        first, size = 0, BLOCK
        while first < len(order):
            norm = float(norms[first // BLOCK])
            going = going[~(scores[going, -1] > lengths[going] * norm + self._underflow)]
            if not len(going):
                break
            block_rows = order[first : first + size]
            block = self._vectors[block_rows]
            margins = (lengths * norm * 2 * self._rounding + 2 * self._underflow).astype(np.float32)
            step = max(1, _MOST_PRODUCTS // len(block_rows))
            for start in range(0, len(going), step):
                chosen = going[start : start + step]
                products = queries[chosen] @ block.T
                take_products(
                    products, block_rows, self._vectors.codes, self._vectors.scales, queries, chosen, margins, mask,
                    left_out, starts, rows, scores, sizes,
                )  # fmt: skip
            first, size = first + size, min(2 * size, _MOST_ROWS)
        return [(rows[i, :size], scores[i, :size]) for i, size in enumerate(sizes.tolist())]
