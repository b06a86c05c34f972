"""A row so long that one thread would keep the others waiting: solved by all of them together.

The same conjugate gradients as engine.row_solver.solve_rows, with the row cut into pieces of fixed length whose sums
are added in their order, so that the same data gives the same bits for any number of threads. tests/test_giant_rows.py
holds it against solve_rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.row_solver import add_entries
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
    scale = (np.float32(1) / np.sqrt(background)).astype(np.float32)

    def over_pieces(vector: NDArray[np.float32], *, of_targets: bool) -> tuple[NDArray[np.float32], float]:
        def piece(start: int) -> tuple[NDArray[np.float32], float]:
            part = np.zeros(d, dtype=np.float32)
            stop = min(start + _PIECE_ENTRIES, last)
            entries = (rows.indices, rows.values, table.vectors, table.row_scales, scale, start, stop)
            return part, add_entries(*entries, vector, of_targets, part)

        total, squared = np.zeros(d), 0.0
        for part, of_part in pool.map(piece, range(first, last, _PIECE_ENTRIES)):
            total += part
            squared += of_part
        return total.astype(np.float32), squared

    residual, loss = over_pieces(scale, of_targets=True)
    solution = np.zeros(d, dtype=np.float32)
    direction = residual.copy()
    before = _squared(residual)
    steps = 0
    while np.isfinite(before) and before > tolerance * loss and steps < 4 * d + 8:
        product, curvature = over_pieces(direction, of_targets=False)
        length = np.float32(before / (curvature + _squared(direction)))
        loss -= float(length) * before
        solution += length * direction
        residual -= length * (product + direction)
        after = _squared(residual)
        direction = residual + np.float32(after / before) * direction
        before = after
        steps += 1
    out[:] = solution * scale
    norm = _squared(out)
    sums[0] += loss - _squared(solution)
    sums[1] += _squared(solution) - penalty * norm
    sums[2] += penalty * norm
    sums[3] += (last - first) * d * (1 + 2 * steps)
    return bool(np.isfinite(before) and np.isfinite(norm))


def _squared(vector: NDArray[np.float32]) -> float:
    return float(vector.astype(np.float64) @ vector)
