"""Search over codes of one or two bits a coordinate: approximate, with scores that are exact.

The arrays are engine.quantized_table's, the kernel engine.quantized_scan's. Kept honest by tests/test_index.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.plan import IndexPlan
from engine.pruned_table import PrunedTable
from engine.quantized_scan import SPREADS, patterns_of, search_codes, search_codes_of_each
from engine.quantized_table import QuantizedTable
from engine.scoring import Found
from engine.stacked import Slices, Stacked
from engine.vector_table import Vectors, table_of

_ALL: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)


class QuantizedSearch:
    """Over vectors (n, d), their exact table and their codes, and the rows that are available, None for all.

    Thread-safe.
    """

    def __init__(
        self,
        vectors: Vectors,
        exact: PrunedTable,
        table: QuantizedTable,
        plan: IndexPlan,
        available: NDArray[np.bool_] | None,
    ) -> None:
        own = table_of(vectors)
        self._arrays = (
            own.codes, own.scales, exact.order, exact.block_norms, table.codes, table.factors, table.signs,
            patterns_of(plan.bits),
        )  # fmt: skip
        self._margin, self._reach = np.float32(plan.deviations * SPREADS[plan.bits]), np.float32(plan.reach)
        self._available = _ALL if available is None else available

    def search(self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int32]) -> Found | None:
        """About the k best available rows for query float32 (d,) that are not excluded; k at least 1.

        As many as there are, up to k. None for a query without a length, or with one that is no number.
        """
        rows, scores = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
        size = search_codes(
            *self._arrays, query, self._margin, self._reach, self._available, excluded, rows, scores
        )  # fmt: skip
        return (rows[:size], scores[:size]) if size >= 0 else None

    def each(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Slices,
    ) -> Stacked:
        """`search` of each of queries float32 (m, d); the size is -1 where it gives None."""
        found = Stacked.empty(len(queries), k)
        search_codes_of_each(
            *self._arrays, queries, self._margin, self._reach, self._available, excluded.values, excluded.starts,
            excluded.stops, found.rows, found.scores, found.sizes,
        )  # fmt: skip
        return found
