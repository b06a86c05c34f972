"""Sparse rows, item -> items, of which only the strongest entries stay: what item-item models learn.

Rows are cut where their strength is known, on the threads that made them, and joined in their order. Entries that are
equally strong fall to the smaller column. Checked by tests/test_sparse_rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import int64, njit
from numpy.typing import NDArray

from engine.signatures import float32_in, float32_out, int32_in, int32_out, int64_in, int64_out
from trainer.interactions import Csr


@dataclass(frozen=True)
class Rows:
    """Some rows in a row: `sizes` int64 (rows,), `indices` int32 (entries,) rising within a row, `values` float32."""

    sizes: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]


@njit(int64(int64_in, int32_in, float32_in, int64, int64_out, int32_out, float32_out), nogil=True, cache=True)
def _keep_strongest(indptr, indices, values, most, sizes, out_indices, out_values):  # type: ignore[no-untyped-def]
    """Write the `most` entries of each row with the largest |value|, zeros never, ties to the smaller column.

    indptr int64 (rows + 1,), indices int32 and values float32 (entries,), columns in any order, each once in its row.
    sizes int64 (rows,); out_indices and out_values long enough: rows follow each other, columns rise. Returns how many
    entries are written.
    """
    written = 0
    for r in range(len(sizes)):
        start, stop = indptr[r], indptr[r + 1]
        strengths = np.abs(values[start:stop])
        threshold = np.float32(0)
        n = stop - start
        if n > most:
            threshold = np.partition(strengths, n - most)[n - most]
        stronger = np.count_nonzero(strengths > threshold)
        tied = np.empty(0, dtype=np.int32)
        if threshold > 0:
            tied = np.sort(indices[start:stop][strengths == threshold])[: most - stronger]
        size = 0
        for e in range(start, stop):
            strength = strengths[e - start]
            if strength > threshold or (strength == threshold and len(tied) and indices[e] <= tied[-1]):
                out_indices[written + size] = indices[e]
                out_values[written + size] = values[e]
                size += 1
        columns = out_indices[written : written + size]
        order = np.argsort(columns)
        out_indices[written : written + size] = columns[order]
        out_values[written : written + size] = out_values[written : written + size][order]
        sizes[r] = size
        written += size
    return np.int64(written)


def keep_strongest(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], values: NDArray[np.float32], most: int
) -> Rows:
    """The `most` entries of each row with the largest |value|, zeros never, ties to the smaller column.

    `indptr` int64 (rows + 1,), `indices` int32 and `values` float32 (entries,), each column once in its row.
    """
    room = int(np.minimum(np.diff(indptr), most).sum())
    sizes = np.empty(len(indptr) - 1, dtype=np.int64)
    kept, kept_values = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
    written = _keep_strongest(indptr, indices, values, most, sizes, kept, kept_values)
    return Rows(sizes, kept[:written], kept_values[:written])


def joined(parts: Sequence[Rows], n_columns: int) -> Csr:
    """Rows one after the other."""
    sizes = np.concatenate([np.zeros(1, dtype=np.int64), *(part.sizes for part in parts)])
    indices = np.concatenate([np.empty(0, dtype=np.int32), *(part.indices for part in parts)])
    values = np.concatenate([np.empty(0, dtype=np.float32), *(part.values for part in parts)])
    return Csr(np.cumsum(sizes), indices, values, n_columns=n_columns)
