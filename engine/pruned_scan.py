"""The kernels of exact search that prunes: what a row's score can be at most, from few bytes, before it is computed.

Rows stand by falling norm (engine.pruned_table). For a query q a row y is skipped only if an upper bound of its float32
score is below the k-th best score so far, t. Three bounds, from cheap to dear, each with the errors of rounding
(docs/algorithm.md, "Exact search that prunes"):

1. |q| |y|, and |q_h| |y_h| + |q_t| |y_t| of head and tail (Cauchy-Schwarz), with the largest norms that are left: a
   block for which one of them is too low ends the scan;
2. s c'q_h + |q| e + |q_t| |y_t|: the head's coordinates from their 8-bit codes c with scale s, an error e that holds
   what rounding took from the row, and Cauchy-Schwarz for the tail, for 64 rows at once;
3. the same with the tail's coordinates from their codes too, a segment of them at a time, and Cauchy-Schwarz for those
   that are left.

What is left is scored by engine.scoring, so the answer is that of a scan of all rows, ties by the smaller row included.
Many queries at once come with their products with a block of rows, from BLAS, in place of bounds 2 and 3.
Held against brute force by tests/test_pruned_scan.py.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int64, njit, types

from engine.scoring import score_row
from engine.signatures import (
    FASTMATH,
    float32_in,
    float32_out,
    float32_rows_in,
    float32_rows_out,
    int32_in,
    int32_out,
    int64_in,
    int64_out,
)

BLOCK = 64
"""Rows whose heads lie together, coordinate by coordinate."""
SEGMENT = 64
"""Coordinates of the tail that are added between two looks at the bound."""
HEAD_STEP = 8
"""The head has a multiple of so many coordinates: so many are added to all 64 sums at a time."""

_codes_rows_in = types.Array(types.int8, 2, "C", readonly=True)
_codes_blocks_in = types.Array(types.int8, 3, "C", readonly=True)
_booleans_in = types.Array(boolean, 1, "C", readonly=True)


@njit(types.void(_codes_rows_in, float32_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _add_heads(codes, query, sums):  # type: ignore[no-untyped-def]
    """sums[i] = sum_k codes[k, i] query[k] for the 64 rows of a block; codes (head, 64)."""
    sums[:] = np.float32(0)
    for k in range(0, len(query), 8):
        c0, c1, c2, c3 = codes[k], codes[k + 1], codes[k + 2], codes[k + 3]
        c4, c5, c6, c7 = codes[k + 4], codes[k + 5], codes[k + 6], codes[k + 7]
        q0, q1, q2, q3 = query[k], query[k + 1], query[k + 2], query[k + 3]
        q4, q5, q6, q7 = query[k + 4], query[k + 5], query[k + 6], query[k + 7]
        for i in range(64):
            sums[i] += (
                np.float32(c0[i]) * q0 + np.float32(c1[i]) * q1 + np.float32(c2[i]) * q2 + np.float32(c3[i]) * q3
                + np.float32(c4[i]) * q4 + np.float32(c5[i]) * q5 + np.float32(c6[i]) * q6 + np.float32(c7[i]) * q7
            )  # fmt: skip


@njit(
    int64(float32_out, float32_in, float32_in, float32_in, float32, float32, float32, float32_out),
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def _bound(sums, scales, errors, tails, length, tail_length, least, bounds):  # type: ignore[no-untyped-def]
    """sums become scaled, bounds what the 64 scores are at most; returns how many are not below `least`."""
    left = np.int64(0)
    for i in range(64):
        scaled = sums[i] * scales[i]
        sums[i] = scaled
        bounds[i] = scaled + errors[i] * length + tails[i] * tail_length
        left += not bounds[i] < least
    return left


@njit(float32(types.Array(types.int8, 1, "C", readonly=True), float32_in), nogil=True, cache=True, fastmath=FASTMATH)
def _product(codes, query):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(len(query)):
        total += np.float32(codes[k]) * query[k]
    return total


@njit(boolean(int32_in, int64), nogil=True, cache=True)
def _holds(rows, row):  # type: ignore[no-untyped-def]
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
def _insert(row, score, size, rows, scores):  # type: ignore[no-untyped-def]
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


@njit(
    int64(
        float32_rows_in, int32_in, float32_rows_in, _codes_blocks_in, float32_rows_in, float32_rows_in,
        float32_rows_in, _codes_rows_in, float32_in, float32_rows_in, float32_in, float32_in, float32, float32,
        _booleans_in, int32_in, int32_out, float32_out,
    ),
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def search_one(  # type: ignore[no-untyped-def]
    vectors, order, block_norms, head_codes, head_scales, head_errors, tail_norms, tail_codes, tail_scales, rest_norms,
    errors, query, confidence, underflow, allowed, excluded, rows, scores,
):  # fmt: skip
    """The len(rows) best rows for query float32 (d,): written to rows int32 and scores float32; returns how many.

    vectors float32 (n, d), then the arrays of engine.pruned_table.PrunedTable. confidence 1: exact; less: the share of
    |q_t| |y_t| that a tail counts for, and some rows are missed. underflow: at least what scores lose to denormal
    numbers. allowed bool (n,), or empty for all; excluded int32, ascending.
    """
    d, head, k = len(query), head_codes.shape[1], len(rows)
    head_query = np.zeros(head, dtype=np.float32)
    head_query[: min(head, d)] = query[:head]
    tail_query = query[min(head, d) :]
    # Norms in float64: squares of float32 overflow and vanish. They are rounded up.
    of_head, of_tail = 0.0, 0.0
    for j in range(head):
        of_head += np.float64(head_query[j]) * np.float64(head_query[j])
    segments = rest_norms.shape[1]
    rest_lengths = np.zeros(segments, dtype=np.float32)
    for j in range(len(tail_query) - 1, -1, -1):
        of_tail += np.float64(tail_query[j]) * np.float64(tail_query[j])
        if j % 64 == 0 and j > 0:
            rest_lengths[j // 64 - 1] = np.float32(np.sqrt(of_tail) * 1.000001) * confidence
    length = np.float32(np.sqrt(of_head + of_tail) * 1.000001)
    head_length = np.float32(np.sqrt(of_head) * 1.000001)
    tail_length = np.float32(np.sqrt(of_tail) * 1.000001) * confidence
    sums, bounds = np.empty(64, dtype=np.float32), np.empty(64, dtype=np.float32)
    size = np.int64(0)
    least = np.float32(-np.inf)
    for block in range(len(block_norms)):
        norms = block_norms[block]
        if norms[0] * length < least or norms[1] * head_length + norms[2] * tail_length < least:
            break
        _add_heads(head_codes[block], head_query, sums)
        left = _bound(
            sums, head_scales[block], head_errors[block], tail_norms[block], length, tail_length, least, bounds
        )
        if not left:
            continue
        for i in range(min(64, len(order) - block * 64)):
            place = block * 64 + i
            if bounds[i] < least:
                continue
            row = order[place]
            if len(allowed) and not allowed[row]:
                continue
            bound = highest = sums[i] + errors[place] * length
            for segment in range(segments):
                codes = tail_codes[place, segment * 64 : (segment + 1) * 64]
                bound += tail_scales[place] * _product(codes, tail_query[segment * 64 : (segment + 1) * 64])
                highest = bound + rest_norms[place, segment] * rest_lengths[segment]
                if highest < least:
                    break
            if highest < least:
                continue
            if _holds(excluded, row):
                continue
            size = _insert(row, score_row(vectors[row], query), size, rows, scores)
            if size == k:
                least = scores[k - 1] - underflow
    return size


@njit(
    types.void(
        float32_rows_in, int32_in, float32_rows_in, float32_rows_in, int64_in, float32_in, _booleans_in, int32_in,
        int64_in, types.Array(types.int32, 2, "C"), float32_rows_out, int64_out,
    ),
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def take_products(  # type: ignore[no-untyped-def]
    products, block_rows, vectors, queries, chosen, margins, allowed, excluded, starts, rows, scores, sizes
):  # fmt: skip
    """Put those rows of a block among the best of some queries whose products, as BLAS computes them, are high enough.

    products float32 (c, b) of queries[chosen] with the vectors of block_rows int32 (b,); queries float32 (m, d), chosen
    int64 (c,); margins float32 (m,): how far a product may be from its score. excluded int32: of query q those from
    starts[q] to starts[q + 1]. allowed as in search_one. rows int32 (m, k), scores float32 (m, k), sizes int64 (m,):
    the best so far, overwritten.
    """
    k = rows.shape[1]
    for i in range(len(chosen)):
        q = chosen[i]
        of_query = products[i]
        excluded_here = excluded[starts[q] : starts[q + 1]]
        least = scores[q, k - 1] - margins[q] if sizes[q] == k else np.float32(-np.inf)
        for start in range(0, len(of_query), 64):
            stop = min(start + 64, len(of_query))
            left = 0
            for j in range(start, stop):
                left += not of_query[j] < least
            if not left:
                continue
            for j in range(start, stop):
                if of_query[j] < least:
                    continue
                row = block_rows[j]
                if (len(allowed) and not allowed[row]) or _holds(excluded_here, row):
                    continue
                sizes[q] = _insert(row, score_row(vectors[row], queries[q]), sizes[q], rows[q], scores[q])
                if sizes[q] == k:
                    least = scores[q, k - 1] - margins[q]
