"""The kernels of a sparse memory: sums of rows of (item, weight), and the best k of what they touch.

A query is a weighted bag of rows; score_j = sum_r q_r M[r, j], in float32, in the order of the bag. Sums go into one
scratch array of the catalogue's length, in which -inf says that nothing has touched an item; what was touched is
listed, so that only that is looked at and wiped. Held against the definition by tests/test_sparse_scan.py.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit, types

from engine.scoring import holds, insert, score_row
from engine.signatures import (
    FASTMATH,
    VECTORS_IN,
    booleans_in,
    float32_in,
    float32_out,
    int32_in,
    int32_out,
    int64_in,
)

UNTOUCHED = np.float32(-np.inf)


@njit(
    int64(int64_in, int32_in, float32_in, int32_in, float32_in, float32_out, int32_out, int64),
    nogil=True, cache=True,
)  # fmt: skip
def add_rows(indptr, items, weights, rows, row_weights, scores, touched, n_touched):  # type: ignore[no-untyped-def]
    """scores[j] += row_weights[i] weights[e] for every entry e, of item j, of every row rows[i] of a memory.

    indptr int64 (r + 1,), items int32 and weights float32 (entries,); rows int32 and row_weights float32 (m,).
    touched int32 (n_items,) lists the items of scores float32 (n_items,) that are not UNTOUCHED, n_touched of them
    before; returns how many after.
    """
    for i in range(len(rows)):
        weight = row_weights[i]
        for entry in range(indptr[rows[i]], indptr[rows[i] + 1]):
            item = items[entry]
            if scores[item] == UNTOUCHED:
                touched[n_touched] = item
                n_touched += 1
                scores[item] = weight * weights[entry]
            else:
                scores[item] += weight * weights[entry]
    return n_touched


@njit(
    [types.void(codes_in, float32_in, float32_in, int32_in, float32_out) for codes_in in VECTORS_IN],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def add_products(codes, scales, query, touched, scores):  # type: ignore[no-untyped-def]
    """scores[j] += score of row j for query, as engine.scoring.score_row computes it, for each j of touched."""
    for i in range(len(touched)):
        row = touched[i]
        scores[row] += score_row(codes, scales, row, query)


@njit(
    int64(float32_out, int32_in, booleans_in, int32_in, types.boolean, int32_out, float32_out),
    nogil=True, cache=True,
)  # fmt: skip
def take_best(scores, touched, allowed, excluded, is_all, rows, best):  # type: ignore[no-untyped-def]
    """Write the len(rows) best items and their scores, falling, ties to the smaller row; returns how many.

    rows int32 and best float32 have a place at least. Of those that are touched, allowed bool (n_items,), empty for
    all, and not among excluded int32, which ascend; with is_all, of the others too, whose scores are 0. Leaves scores
    UNTOUCHED everywhere.
    """
    k, size = len(rows), np.int64(0)
    for i in range(len(touched)):
        item = touched[i]
        if size == k and scores[item] < best[k - 1]:
            continue
        if (len(allowed) and not allowed[item]) or holds(excluded, item):
            continue
        size = insert(item, scores[item], size, rows, best)
    if is_all:
        for item in range(len(scores)):
            if size == k and (best[k - 1] > 0 or (best[k - 1] == 0 and rows[k - 1] < item)):
                break
            if scores[item] != UNTOUCHED or (len(allowed) and not allowed[item]) or holds(excluded, item):
                continue
            size = insert(item, np.float32(0), size, rows, best)
    for i in range(len(touched)):
        scores[touched[i]] = UNTOUCHED
    return size
