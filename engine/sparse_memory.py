"""A memory of rows of (item, weight), to which a query is a weighted bag: score_j = sum_r q_r M[r, j].

Where rows are items, they hold each item's strongest neighbours with signed weights; where they are sessions of the
past, what was taken in them. A release holds the arrays, which servers map. The kernels are engine.sparse_scan's.
Kept honest by tests/test_sparse_memory.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.stored_arrays import Read, StoredArrays

Rows = NDArray[np.int32]


class Bag(NamedTuple):
    """Rows of a memory, int32 (m,), and what they weigh in a query, float32 (m,)."""

    rows: Rows
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class SparseMemory(StoredArrays):
    """Row r has the items items[indptr[r]:indptr[r + 1]], rising, and their weights.

    indptr int64 (rows + 1,), items int32 and weights float32 (entries,).
    """

    indptr: NDArray[np.int64]
    items: Rows
    weights: NDArray[np.float32]

    @classmethod
    def read(cls, read: Read, n_rows: int, n_entries: int, n_items: int) -> SparseMemory:
        """The memory that `read` finds. Raises what `read` does; ReleaseCorrupt where kernels would read elsewhere."""
        memory = cls(
            indptr=read("indptr", np.int64, (n_rows + 1,)),
            items=read("items", np.int32, (n_entries,)),
            weights=read("weights", np.float32, (n_entries,)),
        )
        memory.require_sound(n_items)
        return memory

    @property
    def n_rows(self) -> int:
        """Rows, those without an entry included."""
        return len(self.indptr) - 1

    @property
    def n_entries(self) -> int:
        """Entries of all rows."""
        return len(self.items)

    def require_sound(self, n_items: int) -> None:
        """Raises ReleaseCorrupt unless starts rise from 0 to the entries and items are rows of the catalogue."""
        starts_fit = self.indptr[0] == 0 and self.indptr[-1] == self.n_entries and (np.diff(self.indptr) >= 0).all()
        items_fit = not self.n_entries or (self.items.min() >= 0 and self.items.max() < n_items)
        if not np.isfinite(self.weights).all():
            raise ReleaseCorrupt("a sparse memory holds weights that are no numbers: publish again, or roll back")
        if not (starts_fit and items_fit):
            raise ReleaseCorrupt(
                f"a sparse memory names items outside the {n_items:,} of the release, or rows outside its entries: "
                "copy the release again, or roll back"
            )

    def row(self, row: int) -> tuple[Rows, NDArray[np.float32]]:
        """Items and weights of one row."""
        entries = slice(self.indptr[row], self.indptr[row + 1])
        return self.items[entries], self.weights[entries]

    def weights_of(self, row: int, items: Rows) -> NDArray[np.float64]:
        """The weight of each of `items` in one row, 0 where it has none."""
        known, weights = self.row(row)
        if not len(known):
            return np.zeros(len(items))
        places = np.minimum(np.searchsorted(known, items), len(known) - 1)
        return np.where(known[places] == items, weights[places], 0.0).astype(np.float64)
