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
from numba import float32, float64, int64, njit, types

from engine.byte_products import ROWS, STEP_COORDINATES, UNROLLED, add_products
from engine.scoring import holds, insert, score_row
from engine.signatures import (
    FASTMATH,
    VECTORS_IN,
    booleans_in,
    bytes_blocks_in,
    float32_in,
    float32_out,
    float32_rows_in,
    float32_rows_out,
    float64_out,
    int8_in,
    int8_out,
    int8_rows_in,
    int32_in,
    int32_out,
    int32_rows_out,
    int64_in,
    int64_out,
)

BLOCK = ROWS
"""Rows whose heads lie together, four coordinates of one after four of another."""
SEGMENT = 64
"""Coordinates of the tail that are added between two looks at the bound."""
HEAD_STEP = STEP_COORDINATES * UNROLLED
"""The head has a multiple of so many coordinates."""
_MOST = 127 * 128
"""A query's largest coordinate, in 15 bits: two bytes, of which the lower one is from -64 to 63."""


@njit(int64(float32_in, int8_out, int8_out, float64_out), nogil=True, cache=True, fastmath=FASTMATH)
def _split(query, high, low, about):  # type: ignore[no-untyped-def]
    """Write a query as scale (128 high + low) with high and low in bytes, and a remainder.

    about float64 (2,): the scale, a float32, and the norm of the remainder. Returns the sum of 128 high + low.
    """
    largest = np.float32(0)
    for k in range(len(query)):
        largest = max(largest, abs(query[k]))
    scale = np.float64(np.float32(largest / np.float32(_MOST)))
    total, lost = np.int64(0), 0.0
    for k in range(len(query)):
        whole = np.int64(0)
        if scale > 0:
            whole = np.int64(min(max(np.rint(np.float64(query[k]) / scale), -_MOST), _MOST))
        above = (whole + 64) >> 7
        high[k], low[k] = above, whole - 128 * above
        total += whole
        left = np.float64(query[k]) - scale * np.float64(whole)
        lost += left * left
    about[0], about[1] = scale, np.sqrt(lost)
    return total


@njit(
    int64(
        int32_rows_out, int64, float64, float32, float32_out, float32_in, float32_in, float32_in, float32, float32,
        float32, float32_out,
    ),
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def _bound(  # type: ignore[no-untyped-def]
    products, total, query_scale, lost, sums, scales, errors, tails, length, tail_length, least, bounds
):  # fmt: skip
    """sums become the products with the heads and what the query's remainder can add, bounds what the scores can be.

    products int32 (2, 64): of the codes plus 128 with high and low. Returns how many bounds are not below `least`.
    """
    left = np.int64(0)
    for i in range(BLOCK):
        whole = np.int32(128) * products[0, i] + products[1, i] - np.int32(128 * total)
        scaled = np.float32(np.float64(whole) * (np.float64(scales[i]) * query_scale)) + lost
        sums[i] = scaled
        bounds[i] = scaled + errors[i] * length + tails[i] * tail_length
        left += not bounds[i] < least
    return left


@njit(float32(int8_in, float32_in), nogil=True, cache=True, fastmath=FASTMATH)
def _product(codes, query):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(len(query)):
        total += np.float32(codes[k]) * query[k]
    return total


@njit(
    [
        int64(
            codes_in, float32_in, int32_in, float32_rows_in, bytes_blocks_in, float32_rows_in, float32_rows_in,
            float32_rows_in, int8_rows_in, float32_in, float32_rows_in, float32_in, float32_in, float32,
            booleans_in, int32_in, int32_out, float32_out, int64,
        )
        for codes_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def search_one(  # type: ignore[no-untyped-def]
    codes, scales, order, block_norms, head_codes, head_scales, head_errors, tail_norms, tail_codes, tail_scales,
    rest_norms, errors, query, underflow, allowed, excluded, rows, scores, size,
):  # fmt: skip
    """The len(rows) best rows for query float32 (d,): written to rows int32 and scores float32; returns how many.

    `size` of them are there already, in their order, and compete with what is found: rows that are not allowed here.
    codes (n, d) and scales of an engine.vector_table.VectorTable, then the arrays of engine.pruned_table.PrunedTable.
    underflow: at least what scores lose to denormal numbers. allowed bool (n,), or empty for all; excluded int32,
    ascending.
    """
    d, head, k = len(query), STEP_COORDINATES * head_codes.shape[1], len(rows)
    head_query = np.zeros(head, dtype=np.float32)
    head_query[: min(head, d)] = query[:head]
    tail_query = query[min(head, d) :]
    high, low, about = np.empty(head, dtype=np.int8), np.empty(head, dtype=np.int8), np.empty(2)
    total = _split(head_query, high, low, about)
    high_words, low_words = high.view(np.int32), low.view(np.int32)
    # Norms in float64: squares of float32 overflow and vanish. They are rounded up.
    of_head, of_tail = 0.0, 0.0
    for j in range(head):
        of_head += np.float64(head_query[j]) * np.float64(head_query[j])
    segments = rest_norms.shape[1]
    rest_lengths = np.zeros(segments, dtype=np.float32)
    for j in range(len(tail_query) - 1, -1, -1):
        of_tail += np.float64(tail_query[j]) * np.float64(tail_query[j])
        if j % SEGMENT == 0 and j > 0:
            rest_lengths[j // SEGMENT - 1] = np.float32(np.sqrt(of_tail) * 1.000001)
    length = np.float32(np.sqrt(of_head + of_tail) * 1.000001)
    head_length = np.float32(np.sqrt(of_head) * 1.000001)
    tail_length = np.float32(np.sqrt(of_tail) * 1.000001)
    products = np.empty((2, BLOCK), dtype=np.int32)
    sums, bounds = np.empty(BLOCK, dtype=np.float32), np.empty(BLOCK, dtype=np.float32)
    least = scores[k - 1] - underflow if size == k else np.float32(-np.inf)
    for block in range(len(block_norms)):
        norms = block_norms[block]
        if norms[0] * length < least or norms[1] * head_length + norms[2] * tail_length < least:
            break
        products[:] = 0
        heads = head_codes[block]
        for step in range(0, len(high_words), UNROLLED):
            add_products(heads, step, high_words, low_words, products)
        lost = np.float32(about[1] * norms[1] * 1.000001)
        left = _bound(
            products, total, about[0], lost, sums, head_scales[block], head_errors[block], tail_norms[block], length,
            tail_length, least, bounds,
        )  # fmt: skip
        if not left:
            continue
        for i in range(min(BLOCK, len(order) - block * BLOCK)):
            place = block * BLOCK + i
            if bounds[i] < least:
                continue
            row = order[place]
            if len(allowed) and not allowed[row]:
                continue
            bound = highest = sums[i] + errors[place] * length
            for segment in range(segments):
                first, last = segment * SEGMENT, (segment + 1) * SEGMENT
                bound += tail_scales[place] * _product(tail_codes[place, first:last], tail_query[first:last])
                highest = bound + rest_norms[place, segment] * rest_lengths[segment]
                if highest < least:
                    break
            if highest < least:
                continue
            if holds(excluded, row):
                continue
            size = insert(row, score_row(codes, scales, row, query), size, rows, scores)
            if size == k:
                least = scores[k - 1] - underflow
    return size


@njit(
    [
        types.void(
            codes_in, float32_in, int32_in, float32_rows_in, bytes_blocks_in, float32_rows_in, float32_rows_in,
            float32_rows_in, int8_rows_in, float32_in, float32_rows_in, float32_in, float32_rows_in, float32,
            booleans_in, int32_in, int64_in, int64_in, int32_rows_out, float32_rows_out, int64_out,
        )
        for codes_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def search_each(  # type: ignore[no-untyped-def]
    codes, scales, order, block_norms, head_codes, head_scales, head_errors, tail_norms, tail_codes, tail_scales,
    rest_norms, errors, queries, underflow, allowed, excluded, starts, stops, rows, scores, sizes,
):  # fmt: skip
    """search_one for each of queries float32 (m, d): excluded int32, of query i those from starts[i] to stops[i].

    Written to rows int32 (m, k), scores float32 (m, k) and sizes int64 (m,).
    """
    for i in range(len(queries)):
        sizes[i] = search_one(
            codes, scales, order, block_norms, head_codes, head_scales, head_errors, tail_norms, tail_codes,
            tail_scales, rest_norms, errors, queries[i], underflow, allowed, excluded[starts[i] : stops[i]], rows[i],
            scores[i], 0,
        )  # fmt: skip


@njit(
    [
        types.void(
            float32_rows_in, int32_in, codes_in, float32_in, float32_rows_in, int64_in, float32_in, booleans_in,
            int32_in, int64_in, int32_rows_out, float32_rows_out, int64_out,
        )
        for codes_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def take_products(  # type: ignore[no-untyped-def]
    products, block_rows, codes, scales, queries, chosen, margins, allowed, excluded, starts, rows, scores, sizes
):  # fmt: skip
    """Put those rows of a block among the best of some queries whose products, as BLAS computes them, are high enough.

    products float32 (c, b) of queries[chosen] with the vectors of block_rows int32 (b,); codes and scales as in
    search_one; queries float32 (m, d), chosen int64 (c,); margins float32 (m,): how far a product may be from its
    score. excluded int32: of query q those from starts[q] to starts[q + 1]. allowed as in search_one. rows int32
    (m, k), scores float32 (m, k), sizes int64 (m,): the best so far, overwritten.
    """
    k = rows.shape[1]
    for i in range(len(chosen)):
        q = chosen[i]
        of_query = products[i]
        excluded_here = excluded[starts[q] : starts[q + 1]]
        least = scores[q, k - 1] - margins[q] if sizes[q] == k else np.float32(-np.inf)
        for start in range(0, len(of_query), BLOCK):
            stop = min(start + BLOCK, len(of_query))
            left = 0
            for j in range(start, stop):
                left += not of_query[j] < least
            if not left:
                continue
            for j in range(start, stop):
                if of_query[j] < least:
                    continue
                row = block_rows[j]
                if (len(allowed) and not allowed[row]) or holds(excluded_here, row):
                    continue
                sizes[q] = insert(row, score_row(codes, scales, row, queries[q]), sizes[q], rows[q], scores[q])
                if sizes[q] == k:
                    least = scores[q, k - 1] - margins[q]
