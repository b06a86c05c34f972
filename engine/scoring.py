"""Exact scores and their best k: the two kernels that every returned score passes through.

One kernel computes every score, whoever asks, so that a batch equals its singles and a scan equals a re-ranked search
to the last bit. Held against the definition by tests/test_scoring.py.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int64, njit
from numpy.typing import NDArray

from engine.signatures import FASTMATH, float32_in, float32_out, float32_rows_in, int32_in, int64_out

Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Rows and their scores, falling, ties to the smaller row."""


@njit(float32(float32_in, float32_in), nogil=True, cache=True, fastmath=FASTMATH)
def score_row(vector, query):  # type: ignore[no-untyped-def]
    """vector . query in float32, both (d,)."""
    total = np.float32(0)
    for k in range(len(query)):
        total += vector[k] * query[k]
    return total


@njit((float32_rows_in, int32_in, float32_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def score_rows(vectors, rows, query, out):  # type: ignore[no-untyped-def]
    """out[i] = vectors[rows[i]] . query, in float32: vectors (n, d), rows (m,), query (d,), out (m,)."""
    for i in range(len(rows)):
        out[i] = score_row(vectors[rows[i]], query)


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


def best_of_rows(
    vectors: NDArray[np.float32], rows: NDArray[np.int32], query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best of `rows` (ascending) by inner product: rows and exact scores, falling, ties to the smaller row."""
    scores = np.empty(len(rows), dtype=np.float32)
    score_rows(vectors, rows, query, scores)
    best = np.empty(min(k, len(rows)), dtype=np.int64)
    best = best[: top_positions(scores, best)]
    return rows[best], scores[best]


def ordered(vectors: NDArray[np.float32], rows: NDArray[np.int32], query: NDArray[np.float32]) -> Found:
    """Rows in the order of their scores."""
    scores = np.empty(len(rows), dtype=np.float32)
    score_rows(vectors, rows, query, scores)
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]
