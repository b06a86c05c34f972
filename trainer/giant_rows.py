"""A row so long that one thread would keep the others waiting: solved by all of them together.

The same conjugate gradients as engine.row_solver.solve_rows, with the row cut into pieces of fixed length whose sums
are added in their order, so that the same data gives the same bits for any number of threads. tests/test_giant_rows.py
holds it against solve_rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.row_solver import MOST_STEPS, add_entries
from trainer.eigenbasis import Table
from trainer.interactions import Csr
from trainer.threads import Threads

_PIECE_ENTRIES = 1 << 14


def solve_giant(
    rows: Csr,
    row: int,
    table: Table,
    penalty: float,
    unobserved_weight: float,
    tolerance: float,
    out: NDArray[np.float32],
    sums: NDArray[np.float64],
    pool: Threads,
) -> bool:
    """Solve one row into out float32 (d,); `penalty` is its lambda_row, the rest as in engine.row_solver.solve_rows.

    Returns whether the solution is finite.
    """
    d = len(out)
    first, last = int(rows.indptr[row]), int(rows.indptr[row + 1])
    background = np.float32(unobserved_weight) * np.maximum(table.spectrum, np.float32(0)) + np.float32(penalty)
    inverse = np.float32(1) / background

    def over_pieces(vector: NDArray[np.float32], *, of_targets: bool) -> tuple[NDArray[np.float32], float]:
        starts = range(first, last, _PIECE_ENTRIES)
        parts, sums_of_parts = np.zeros((len(starts), d), dtype=np.float32), np.zeros(len(starts))

        def piece(number: int) -> None:
            start = starts[number]
            entries = (rows.indices, rows.values, table.vectors, table.row_scales)
            stop = min(start + _PIECE_ENTRIES, last)
            sums_of_parts[number] = add_entries(*entries, start, stop, vector, of_targets, parts[number])

        pool.each(piece, len(starts))
        return parts.sum(axis=0, dtype=np.float64).astype(np.float32), float(sums_of_parts.sum())

    residual, loss = over_pieces(background, of_targets=True)
    out[:] = 0
    direction = inverse * residual
    squared = _dot(residual, direction)
    steps = 0
    while np.isfinite(squared + loss) and squared > max(tolerance * loss, 0.0) and steps < MOST_STEPS * d + 8:
        product, spread = over_pieces(direction, of_targets=False)
        product += background * direction
        length = np.float32(squared / (_dot(background * direction, direction) + spread))
        loss -= float(length) * squared
        out += length * direction
        residual -= length * product
        before, squared = squared, _dot(residual, inverse * residual)
        direction = inverse * residual + np.float32(squared / before) * direction
        steps += 1
    energy, norm = _dot(background * out, out), _dot(out, out)
    sums += loss - energy, energy - penalty * norm, penalty * norm, (last - first) * d * (1 + 2 * steps)
    return bool(np.isfinite(squared + loss + norm))


def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one.astype(np.float64) @ other)
