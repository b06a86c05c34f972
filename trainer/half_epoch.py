"""Half an epoch: every row of one side solved against the other side's table, on all threads.

Rows are cut into chunks of equal cost, whose bounds depend on the data alone, and a row too long for one thread into
pieces of fixed length; sums run over chunks and pieces in their order. So the same data gives the same bits for any
number of threads. Checked by tests/test_half_epoch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.row_solver import solve_rows
from trainer.eigenbasis import Table
from trainer.giant_rows import solve_giant
from trainer.interactions import Csr
from trainer.threads import Threads

_MOST_CHUNKS = 256
"""Pieces of equal cost that a half epoch is cut into: enough that the last one to finish keeps few threads waiting."""
_LEAST_CHUNK = 1 << 15
"""What a chunk costs at least, in entries: below, its buffers take a tenth of the time that solving it takes."""
_GIANT_ENTRIES = 1 << 16
_GIANT_SHARE = 1 / 64
_ROW_COST = 10
"""What a row costs besides its entries, in entries: scales, steps and sums over d coordinates."""


@dataclass(frozen=True)
class Penalty:
    """The part of the objective that is no data; symbols in trainer.options.AlsOptions."""

    unobserved_weight: float
    regularization: float
    regularization_exponent: float

    def of_row(self, n_entries: int, n_others: int) -> float:
        """lambda_row of a row with so many entries, beside so many vectors of the other side."""
        return float(
            self.regularization * (n_entries + self.unobserved_weight * n_others) ** self.regularization_exponent
        )


@dataclass(frozen=True)
class Solved:
    """Sums over the rows of a side: the parts of the objective, and multiply-adds of entries that were spent."""

    observed: float
    unobserved: float
    penalty: float
    multiply_adds: float


class RowNotFinite(Exception):
    """The solution of a row is not finite."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row}")
        self.row = row


def solve_side(
    rows: Csr,
    table: Table,
    penalty: Penalty,
    tolerance: float,
    out: NDArray[np.float32],
    pool: Threads,
    on_progress: Callable[[float], None] | None = None,
    n_others: int | None = None,
) -> Solved:
    """Overwrite out float32 (rows, d), each row solved to within `tolerance` (engine.row_solver).

    `on_progress` is told the share that is done. `n_others` are the vectors of the other side where the table holds
    only some of them, those that the rows ask for, in the eigenbasis of all. Raises RowNotFinite for the first row that
    is not finite.
    """
    n_others = len(table.vectors) if n_others is None else n_others
    giants = giant_rows(rows.indptr)
    bounds = np.unique(np.concatenate((equal_cost_bounds(rows.indptr), giants, giants + 1)))
    sums = np.zeros((len(bounds) - 1, 4))
    failed: list[int] = []
    alone = set(giants.tolist())
    for row in sorted(alone):
        of_row = penalty.of_row(int(rows.indptr[row + 1] - rows.indptr[row]), n_others)
        chunk = int(np.searchsorted(bounds, row))
        if not solve_giant(rows, row, table, of_row, penalty.unobserved_weight, tolerance, out[row], sums[chunk], pool):
            failed.append(row)

    def solve(chunk: int) -> None:
        first, last = int(bounds[chunk]), int(bounds[chunk + 1])
        if first in alone:
            return
        row = solve_rows(
            rows.indptr, rows.indices, rows.values, table.vectors, table.row_scales, table.spectrum,
            penalty.unobserved_weight, penalty.regularization, penalty.regularization_exponent,
            n_others, tolerance, first, last, out[first:last], sums[chunk],
        )  # fmt: skip
        if row >= 0:
            failed.append(int(row))

    pool.each(solve, len(bounds) - 1, on_progress)
    if failed:
        raise RowNotFinite(min(failed))
    return Solved(*sums.sum(axis=0).tolist())


def giant_rows(indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that are long, and a large part of their side: many threads would wait for the one that has such a row."""
    lengths = np.diff(indptr)
    return np.flatnonzero((lengths > _GIANT_ENTRIES) & (lengths > _GIANT_SHARE * lengths.sum()))


def equal_cost_bounds(indptr: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row bounds of chunks of about equal cost: a row costs its entries, and something for itself."""
    if len(indptr) < 2:
        return np.zeros(1, dtype=np.int64)
    cost = indptr[1:] + _ROW_COST * np.arange(1, len(indptr))
    chunks = int(np.clip(cost[-1] // _LEAST_CHUNK, 1, _MOST_CHUNKS))
    targets = np.linspace(0, cost[-1], chunks + 1)[1:-1]
    return np.unique(np.concatenate(([0], np.searchsorted(cost, targets), [len(cost)]))).astype(np.int64)
