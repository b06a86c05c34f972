"""Exact scores and their best k: the kernels that every returned score passes through.

One kernel computes every score, whoever asks, so that a batch equals its singles and a scan equals a re-ranked search
to the last bit. What it computes from codes and scales is the formula that bounds count with (docs/algorithm.md, "Exact
scores and ties"). Held against the definition by tests/test_scoring.py.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int64, njit, types
from numpy.typing import NDArray

from engine.signatures import FASTMATH, VECTORS_IN, float32_in, float32_out, int32_in, int32_out, int64_out
from engine.vector_table import Vectors, table_of

Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Rows and their scores, falling, ties to the smaller row."""


@njit(
    [float32(codes_in, float32_in, int64, float32_in) for codes_in in VECTORS_IN],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def score_row(codes, scales, row, query):  # type: ignore[no-untyped-def]
    """scales[row] * (codes[row] . query) in float32; without the scale where there are none, of float32 codes.

    codes (n, d) and scales of an engine.vector_table.VectorTable, query float32 (d,).
    """
    vector = codes[row]
    total = np.float32(0)
    for k in range(len(query)):
        total += np.float32(vector[k]) * query[k]
    return scales[row] * total if len(scales) else total


@njit(
    [(codes_in, float32_in, int32_in, float32_in, float32_out) for codes_in in VECTORS_IN],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def score_rows(codes, scales, rows, query, out):  # type: ignore[no-untyped-def]
    """out[i] = score of rows[i]: codes, scales and query as in score_row, rows int32 (m,), out float32 (m,)."""
    for i in range(len(rows)):
        out[i] = score_row(codes, scales, rows[i], query)


@njit(int64(float32_in, int64_out), nogil=True, cache=True)
def top_positions(scores, out):  # type: ignore[no-untyped-def]
    """Write the positions of the len(out) largest scores, falling, ties to the smaller position; returns how many.

    Scores of -inf and NaN are never chosen. Insertion into a sorted list: after the first few rows few scores enter.
    """
    k = len(out)
    size = 0
    if k == 0:
        return np.int64(0)
    for position in range(len(scores)):
        score = scores[position]
        if not score > -np.inf or (size == k and not score > scores[out[k - 1]]):
            continue
        place = size if size < k else k - 1
        while place > 0 and score > scores[out[place - 1]]:
            out[place] = out[place - 1]
            place -= 1
        out[place] = position
        size = min(size + 1, k)
    return np.int64(size)


@njit(types.boolean(int32_in, int64), nogil=True, cache=True)
def holds(rows, row):  # type: ignore[no-untyped-def]
    """Whether `row` is among `rows`, which ascend."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low < len(rows) and rows[low] == row


@njit(int64(int64, float32, int64, int32_out, float32_out), nogil=True, cache=True)
def insert(row, score, size, rows, scores):  # type: ignore[no-untyped-def]
    """Put a row in its place among the `size` best, by falling score and then row; returns the new size.

    -inf and NaN are no scores.
    """
    k = len(rows)
    if not score > -np.inf:
        return size
    if size == k and not (score > scores[k - 1] or (score == scores[k - 1] and row < rows[k - 1])):
        return size
    place = size if size < k else k - 1
    while place > 0 and (score > scores[place - 1] or (score == scores[place - 1] and row < rows[place - 1])):
        scores[place] = scores[place - 1]
        rows[place] = rows[place - 1]
        place -= 1
    scores[place] = score
    rows[place] = row
    return min(size + 1, k)


def best_of_rows(
    vectors: Vectors, rows: NDArray[np.int32], query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best of `rows` (ascending) by inner product: rows and exact scores, falling, ties to the smaller row."""
    scores = _scored(vectors, rows, query)
    best = np.empty(min(k, len(rows)), dtype=np.int64)
    best = best[: top_positions(scores, best)]
    return rows[best], scores[best]


def ordered(vectors: Vectors, rows: NDArray[np.int32], query: NDArray[np.float32]) -> Found:
    """Rows in the order of their scores."""
    scores = _scored(vectors, rows, query)
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def _scored(vectors: Vectors, rows: NDArray[np.int32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    table, scores = table_of(vectors), np.empty(len(rows), dtype=np.float32)
    score_rows(table.codes, table.scales, rows, query, scores)
    return scores
