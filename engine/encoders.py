"""Query encoders: what turns a history or a cart into the vector that the index is asked with.

An encoder and an item memory make one part of a recommender. `RidgeEncoder` is the exact row solve of ALS training, by
the same kernel, so a user's stored history encodes to the user's stored vector. `BagEncoder` is for sparse memories.
Checked by tests/test_encoders.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.evidence import Evidence, require_rows
from engine.kinds import ByKind, Kind
from engine.row_solver import EXACT, solve_rows
from engine.sparse_memory import Bag, Rows, SparseMemory
from engine.vector_table import Vectors, table_of


@dataclass(frozen=True)
class RidgeEncoder:
    """item_vectors (n_items, d) in the eigenbasis of their Gram matrix, with diagonal spectrum float32 (d,)."""

    item_vectors: Vectors
    spectrum: NDArray[np.float32]
    unobserved_weight: float
    regularization: float
    regularization_exponent: float

    def encode(self, rows: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The query float32 (d,) of items `rows` with weights `values` (below 0: negative feedback); no rows give 0.

        Raises ReleaseCorrupt for rows that are no items and for a result that is not finite: histories are mapped from
        files that may be damaged, and the kernel does not look.
        """
        out = np.empty((1, self.item_vectors.shape[1]), dtype=np.float32)
        self.encode_rows(np.array((0, len(rows)), dtype=np.int64), rows, values, 0, out)
        query: NDArray[np.float32] = out[0]
        return query

    def encode_rows(
        self,
        indptr: NDArray[np.int64],
        rows: NDArray[np.int32],
        values: NDArray[np.float32],
        first: int,
        out: NDArray[np.float32],
    ) -> None:
        """`encode` of the histories from `first` on, as many as out float32 (m, d) has rows, which it overwrites.

        History i has the items `rows` and `values` from indptr[i] to indptr[i + 1]. Raises ReleaseCorrupt.
        """
        last = first + len(out)
        require_rows(rows[indptr[first] : indptr[last]], len(self.item_vectors))
        table = table_of(self.item_vectors)
        failed = solve_rows(
            indptr, rows, values, table.codes, table.scales, self.spectrum,
            self.unobserved_weight, self.regularization, self.regularization_exponent,
            len(table), EXACT, first, last, out, np.zeros(4),
        )  # fmt: skip
        if failed >= 0:
            raise ReleaseCorrupt("the fold-in of these items is not finite: vectors or weights are damaged")

    def shares(
        self, rows: NDArray[np.int32], values: NDArray[np.float32], of_rows: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """What each item of a history or cart gives to the scores of the items `of_rows`, float64 (k, m).

        Item s of the rows S gives item j the share w_s t_s y_j' A^(-1) y_s, A being the row's matrix (Hu, Koren and
        Volinsky 2008, section 5); shares add up to the score of j, within rounding. With D diagonal and W = diag(w) the
        inverse needs m dimensions only (Sherman, Morrison and Woodbury):

            Y_J A^(-1) Y_S' W  =  Y_J D^(-1) Y_S' (W^(-1) + Y_S D^(-1) Y_S')^(-1).

        Of more items than factors A itself, d x d, is the smaller matrix. Negative feedback has target 0 and gives
        nothing itself: it lowers what the others give.
        """
        require_rows(rows, len(self.item_vectors))
        history, targets = self.item_vectors[rows].astype(np.float64), (values > 0).astype(np.float64)
        size = len(rows) + self.unobserved_weight * len(self.item_vectors)
        penalty = self.regularization * size**self.regularization_exponent
        background = self.unobserved_weight * np.maximum(self.spectrum.astype(np.float64), 0.0) + penalty
        weights, of_items = np.abs(values).astype(np.float64), self.item_vectors[of_rows].astype(np.float64)
        if len(rows) > history.shape[1]:
            matrix = np.diag(background) + (history.T * weights) @ history
            given: NDArray[np.float64] = of_items @ np.linalg.solve(matrix, history.T * (weights * targets))
            return given
        scaled = history / background
        inner = history @ scaled.T
        inner[np.diag_indices(len(rows))] += 1 / weights
        products = of_items @ scaled.T
        shares: NDArray[np.float64] = np.linalg.solve(inner, products.T).T * targets
        return shares


@dataclass(frozen=True)
class BagEncoder:
    """Evidence as a weighted bag of items, for a memory whose rows are items: w (1 + age)^-recency, where w is above 0.

    Negative feedback gives nothing. Of longer evidence the `newest` items count, so that a query's cost is bounded.
    """

    recency: ByKind
    newest: int

    def encode(self, evidence: Evidence, kind: Kind) -> Bag:
        """The bag of evidence, whose rows are items of the release."""
        return Bag(*evidence.weighed(self.newest, self.recency.of(kind)))

    def shares(self, evidence: Evidence, kind: Kind, memory: SparseMemory, of_rows: Rows) -> NDArray[np.float64]:
        """What each item of the evidence gives to the scores of the items `of_rows`, float64 (k, m)."""
        bag = self.encode(evidence, kind)
        shares = np.zeros((len(of_rows), len(evidence.rows)))
        columns = np.searchsorted(evidence.rows, bag.rows)
        for column, row, weight in zip(columns.tolist(), bag.rows.tolist(), bag.weights.tolist(), strict=True):
            shares[:, column] = weight * memory.weights_of(row, of_rows)
        return shares
