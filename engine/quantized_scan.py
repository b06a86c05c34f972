"""The kernels of approximate search over codes of one or two bits a coordinate.

A row y, rotated at random (engine.rotation), is nearly normal in every coordinate, so levels that are best for a normal
number (J. Max, "Quantizing for minimum distortion", IRE Trans. Inform. Theory 6(1), 1960) describe it: r holds the
level of each coordinate. For a query q of length 1

    q'y  is about  f q'r    with f = |y|^2 / (r'y),

without bias over the rotation, and with a deviation of f s, s the same number for all rows but for some percent (J.
Gao and C. Long, "RaBitQ", SIGMOD 2024, theorem 3.2, for one bit; here q keeps 6 bits of each sum of its coordinates).
Rows stand by falling norm. One is scored, exactly, unless f (q'r + deviations * s) is below the k-th best score so far;
a norm with reach |y| below it ends the scan. Both let some of the best rows go: how many is measured
(engine.choice). Held against the definitions by tests/test_quantized_scan.py.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int64, njit, types
from numpy.typing import NDArray

from engine.rotation import rotate
from engine.scoring import holds, insert, score_row
from engine.signatures import (
    FASTMATH,
    VECTORS_IN,
    booleans_in,
    bytes_blocks_in,
    bytes_blocks_out,
    bytes_rows_out,
    float32_in,
    float32_out,
    float32_rows_in,
    float32_rows_out,
    float64_in,
    float64_out,
    int32_in,
    int32_out,
    int32_rows_out,
    int64_in,
    int64_out,
)
from engine.table_lookups import ENTRIES, MOST_ENTRY, ROWS, lowest_bit, passing_rows

LEVELS = {1: (-1.0, 1.0), 2: (-1.5104, -0.4528, 0.4528, 1.5104)}
"""By the number of bits, of a standard normal number."""
SPREADS = {1: 0.6028, 2: 0.3220}
"""s: the root of E r^2 - (E x r)^2, for x normal and r its level."""
GROUP_BITS = 4


def patterns_of(bits: int) -> NDArray[np.float32]:
    """The levels that a code of four bits stands for, float32 (coordinates of a group, 16)."""
    levels = np.array(LEVELS[bits], dtype=np.float32)
    codes = np.arange(ENTRIES)
    return np.stack([levels[codes >> (bits * j) & (len(levels) - 1)] for j in range(GROUP_BITS // bits)])


@njit(
    types.void(float32_rows_in, float64_in, float32_rows_in, float32_in, bytes_blocks_out, float32_rows_out),
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def quantize_rows(vectors, norms, signs, levels, codes, factors):  # type: ignore[no-untyped-def]
    """Write the codes of vectors float32 (m, d) and their f: norms float64 (m,).

    codes uint8 (blocks, groups / 2, 64), as engine.table_lookups wants them, and factors float32 (blocks, 64): both
    must hold zeros, which rows without a length keep and bits are added to.
    """
    d, coordinates = vectors.shape[1], signs.shape[1]
    bits = 1 if len(levels) == 2 else 2
    wide = np.sqrt(np.float64(coordinates))
    rotated, scratch = np.empty(coordinates, dtype=np.float32), np.empty(coordinates, dtype=np.float32)
    for i in range(len(vectors)):
        if norms[i] == 0:
            continue
        rotated[:] = 0
        vector = vectors[i]
        for k in range(d):
            rotated[k] = np.float32(np.float64(vector[k]) / norms[i] * wide)
        rotate(rotated, signs, scratch)
        block, row = i // ROWS, i % ROWS
        lane = 2 * (row % (ROWS // 2)) + row // (ROWS // 2)
        product = 0.0
        for k in range(coordinates):
            code = np.int64(0)
            for level in range(1, len(levels)):
                code += rotated[k] >= (levels[level - 1] + levels[level]) / np.float32(2)
            product += np.float64(rotated[k]) * np.float64(levels[code])
            place = k * bits
            codes[block, place // 8, lane] |= np.uint8(code << (place % 8))
        factors[block, row] = np.float32(norms[i] * wide / product)


@njit(float32(float32_in, float32_rows_in, bytes_rows_out, float64_out), nogil=True, cache=True, fastmath=FASTMATH)
def fill_tables(query, patterns, tables, about):  # type: ignore[no-untyped-def]
    """Write tables uint8 (groups, 16) for which about[0] * sum + about[1] is nearly query'r; returns about[0].

    query float32 (coordinates,), rotated; patterns float32 (coordinates of a group, 16); about float64 (2,).
    """
    size = len(patterns)
    highest = patterns[0, ENTRIES - 1]  # every coordinate at its highest level, since levels rise
    most, total = np.float32(0), 0.0
    for group in range(len(tables)):
        length = np.float32(0)
        for j in range(size):
            length += abs(query[group * size + j])
        most = max(most, length)
        total += np.float64(length)
    step = np.float32(2) * most * highest / np.float32(MOST_ENTRY)
    inverse = np.float32(1) / step if step > 0 else np.float32(0)
    entries = np.empty(ENTRIES, dtype=np.float32)
    for group in range(len(tables)):
        length = np.float32(0)
        for j in range(size):
            length += abs(query[group * size + j])
        entries[:] = length * highest * inverse + np.float32(0.5)
        for j in range(size):
            coordinate = query[group * size + j] * inverse
            pattern = patterns[j]
            for c in range(ENTRIES):
                entries[c] += coordinate * pattern[c]
        table = tables[group]
        for c in range(ENTRIES):
            table[c] = np.uint8(np.int32(entries[c]))
    about[0], about[1] = step, -total * highest
    return step


@njit(
    [
        int64(
            codes_in, float32_in, int32_in, float32_rows_in, bytes_blocks_in, float32_rows_in, float32_rows_in,
            float32_rows_in, float32_in, float32, float32, booleans_in, int32_in, int32_out, float32_out,
        )
        for codes_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def search_codes(  # type: ignore[no-untyped-def]
    vectors, scales, order, block_norms, codes, factors, signs, patterns, query, margin, reach, allowed, excluded,
    rows, scores,
):  # fmt: skip
    """About the len(rows) best rows for query float32 (d,): written to rows int32 and scores float32; returns how many.

    -1 where the query has no length, or it is no number. vectors (n, d) and scales: the codes and scales of an
    engine.vector_table.VectorTable; order int32 (n,) and block_norms float32 (blocks, 3) of
    engine.pruned_table.PrunedTable; codes and so on of engine.quantized_table.QuantizedTable;
    margin: deviations * s; allowed bool (n,), or empty for all; excluded int32, ascending.
    """
    squares = 0.0
    for k in range(len(query)):
        squares += np.float64(query[k]) * np.float64(query[k])
    length = np.sqrt(squares)
    if not (length > 0 and length < np.inf):
        return np.int64(-1)
    coordinates = signs.shape[1]
    rotated, scratch = np.zeros(coordinates, dtype=np.float32), np.empty(coordinates, dtype=np.float32)
    for k in range(len(query)):
        rotated[k] = np.float32(np.float64(query[k]) / length)
    rotate(rotated, signs, scratch)
    tables, about = np.empty((coordinates // len(patterns), ENTRIES), dtype=np.uint8), np.empty(2)
    step = fill_tables(rotated, patterns, tables, about)
    offset = np.float32(about[1]) + margin
    k, size = len(rows), np.int64(0)
    least = np.float32(-np.inf)
    for block in range(len(block_norms)):
        if block_norms[block, 0] * reach < least:
            break
        passing = passing_rows(codes[block], tables, factors[block], step, offset, least)
        while passing:
            place = block * ROWS + lowest_bit(passing)
            passing &= passing - np.uint64(1)
            if place >= len(order):
                break
            row = order[place]
            if (len(allowed) and not allowed[row]) or holds(excluded, row):
                continue
            size = insert(row, score_row(vectors, scales, row, query), size, rows, scores)
            if size == k:
                least = np.float32(np.float64(scores[k - 1]) / length)
    return size


@njit(
    [
        types.void(
            codes_in, float32_in, int32_in, float32_rows_in, bytes_blocks_in, float32_rows_in, float32_rows_in,
            float32_rows_in, float32_rows_in, float32, float32, booleans_in, int32_in, int64_in, int64_in,
            int32_rows_out, float32_rows_out, int64_out,
        )
        for codes_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH,
)  # fmt: skip
def search_codes_of_each(  # type: ignore[no-untyped-def]
    vectors, scales, order, block_norms, codes, factors, signs, patterns, queries, margin, reach, allowed, excluded,
    starts, stops, rows, scores, sizes,
):  # fmt: skip
    """search_codes for each of queries float32 (m, d): excluded int32, of query i those from starts[i] to stops[i].

    Written to rows int32 (m, k), scores float32 (m, k) and sizes int64 (m,), which may be -1.
    """
    for i in range(len(queries)):
        sizes[i] = search_codes(
            vectors, scales, order, block_norms, codes, factors, signs, patterns, queries[i], margin, reach, allowed,
            excluded[starts[i] : stops[i]], rows[i], scores[i],
        )  # fmt: skip
