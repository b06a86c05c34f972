"""Tables of vectors in the eigenbasis of their Gram matrix: what a row solve reads.

A table is rotated, and rounded to 16 bits with one scale a row, when its side becomes the fixed one of a half epoch:
half the bytes to gather, at an error of 1.5e-5 of a row's largest coordinate. Sums run over fixed blocks in their
order, with BLAS held to one thread by the caller, so that the same vectors give the same bits for any number of
threads. Held against its definition by tests/test_eigenbasis.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.vector_table import NO_SCALES, pack_rows
from trainer.scratch import Empty
from trainer.threads import Threads

_GRAM_ROWS = 1024
"""Rows whose products are summed in float32; blocks of them in float64."""
GRAM_BLOCKS = 32
"""At most so many sums over blocks of rows are held at a time."""
ROTATION_FLOATS = 1 << 18
"""Rows rotated at a time, in elements: 1 MiB of scratch."""
_LARGEST = np.float32(np.iinfo(np.int16).max)


@dataclass(frozen=True)
class Table:
    """One side, ready to be gathered from, as engine.row_solver.solve_rows takes it.

    `vectors` float32 (n, d) with empty `row_scales`, or int16 with `row_scales` float32 (n,): vector r is then
    row_scales[r] * vectors[r]. `spectrum` float32 (d,) is the falling diagonal of their Gram matrix, `rotation` float32
    (d, d) what brought them here.
    """

    vectors: NDArray[Any]
    row_scales: NDArray[np.float32]
    spectrum: NDArray[np.float32]
    rotation: NDArray[np.float32]


def gram(vectors: NDArray[np.float32], pool: Threads) -> NDArray[np.float64]:
    """vectors'vectors, float64 (d, d)."""
    d = vectors.shape[1]
    parts = np.zeros((gram_blocks(len(vectors)), d, d))

    def add_block(block: int) -> None:
        for start in range(block * _GRAM_ROWS, len(vectors), len(parts) * _GRAM_ROWS):
            rows = vectors[start : start + _GRAM_ROWS]
            parts[block] += rows.T @ rows

    pool.each(add_block, len(parts))
    total: NDArray[np.float64] = parts.sum(axis=0)
    return total


def gram_blocks(n_rows: int) -> int:
    """How many sums `gram` holds at a time."""
    return min(-(-n_rows // (4 * _GRAM_ROWS)), GRAM_BLOCKS)


def standing(vectors: NDArray[np.float32], spectrum: NDArray[np.float32]) -> Table:
    """A table of float32 vectors that stand in their eigenbasis already, as those of a release: nothing is rotated."""
    return Table(vectors, NO_SCALES, spectrum, np.eye(vectors.shape[1], dtype=np.float32))


def rotated(vectors: NDArray[np.float32], gram_matrix: NDArray[np.float64], pool: Threads) -> Table:
    """A table of float32 vectors, rotated in place to the eigenvectors of their Gram matrix, the largest first."""
    rotation, spectrum = _eigenbasis(gram_matrix)
    rotate(vectors, rotation, pool)
    return Table(vectors, NO_SCALES, spectrum, rotation)


def packed(
    vectors: NDArray[np.float32], gram_matrix: NDArray[np.float64], pool: Threads, empty: Empty = np.empty
) -> Table:
    """The same in 16 bits, in a table of `empty`; the vectors themselves stay as they are."""
    rotation, spectrum = _eigenbasis(gram_matrix)
    table = Table(empty(vectors.shape, np.int16), np.empty(len(vectors), dtype=np.float32), spectrum, rotation)

    def block(start: int, stop: int) -> None:
        pack_rows(vectors[start:stop] @ rotation, _LARGEST, table.vectors[start:stop], table.row_scales[start:stop])

    _over_blocks(block, vectors, pool)
    return table


def rotate(vectors: NDArray[np.float32], rotation: NDArray[np.float32], pool: Threads) -> None:
    """vectors = vectors rotation, in place."""

    def block(start: int, stop: int) -> None:
        vectors[start:stop] = vectors[start:stop] @ rotation

    _over_blocks(block, vectors, pool)


def _over_blocks(work: Callable[[int, int], None], vectors: NDArray[np.float32], pool: Threads) -> None:
    size = max(1, ROTATION_FLOATS // vectors.shape[1])
    pool.each(lambda block: work(block * size, (block + 1) * size), -(-len(vectors) // size))


def _eigenbasis(gram_matrix: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eigenvectors by column and eigenvalues, the largest first."""
    eigenvalues, eigenvectors = np.linalg.eigh(gram_matrix)
    rotation = np.ascontiguousarray(eigenvectors[:, ::-1], dtype=np.float32)
    return rotation, np.maximum(eigenvalues[::-1], 0.0).astype(np.float32)
