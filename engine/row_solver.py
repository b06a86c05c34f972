"""The ridge solve of one row: what ALS training repeats, and what serving folds histories and carts in with.

With the other side's vectors Z in the eigenbasis of their Gram matrix, Z'Z = diag(spectrum), the normal equations of a
row with items S, weights W and targets t (Rendle, Krichene, Zhang, Koren 2021, equations 9 and 10) are

    (D + Z_S' W Z_S) x = Z_S' W t,    D = unobserved_weight * spectrum + lambda_row, diagonal whatever lambda_row is.

A x = b with A = D + Z_S' W Z_S is solved by conjugate gradients (Hestenes and Stiefel 1952) with D as preconditioner,
from zero. They need few steps: D is the exact inverse of the background, and what is left has rank n. The row's part of
the objective is f(x) = sum w t^2 - 2 b'x + x'Ax. Because A - D has no negative eigenvalue,

    f(x) - min f = r' A^(-1) r <= r' D^(-1) r,    r = b - A x,

and the right side is at hand in every step. Stopping where it is at most tolerance f(x) leaves the loss of the row
within that share of its minimum, as far as float32 tells r. With the tolerance EXACT that is its rounding, unless the
row takes all MOST_STEPS. Why no factorization: docs/decisions/0007-conjugate-gradients.md.

`values` carries weight and target at once: v > 0 is weight v with target 1, v < 0 is negative feedback, weight -v with
target 0. Helpers stand first, because a kernel with an explicit signature is compiled where it is defined. Held
against the definition, full matrices in float64, by tests/test_row_solver.py.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float64, int64, njit

from engine.prefetch import LINE_BYTES, prefetch
from engine.signatures import (
    FASTMATH,
    VECTORS_IN,
    float32_in,
    float32_out,
    float32_rows_out,
    float64_out,
    int32_in,
    int64_in,
)

EXACT = 1e-12
"""A tolerance at which what is left is the rounding of float32: r' D^(-1) r <= 1e-12 f."""

MOST_STEPS = 16
"""Steps that a row may take, for each of the min(n, d) dimensions of its problem. Exact arithmetic needs one; float32
loses orthogonality, and rows that are square and nearly without a penalty needed up to ten."""
RESIDENT_FLOATS = 1 << 20
"""Vectors of a row that are gathered once and kept for every step, 4 MiB: a step then takes 12 ns an entry (d = 128),
from the second-level cache or the third, where gathering and converting anew takes 30."""
_BLOCK_FLOATS = 1 << 14
"""A longer row is gathered anew for every step in blocks of this size, and never held whole."""
_AHEAD = 12
"""Entries between asking for a vector and reading it; 8 to 32 are equally good."""


@njit(
    [
        float64(
            int32_in, float32_in, rows_in, float32_in, int64, int64, float32_rows_out, float32_out, float32_out,
        )
        for rows_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def _gather(indices, values, vectors, row_scales, start, stop, gathered, weights, targets):  # type: ignore[no-untyped-def]
    """The entries start <= e < stop: their vectors z / s, weights w s^2 and w s t, s being a row scale or 1.

    Returns sum w t^2.
    """
    d = vectors.shape[1]
    last = len(indices) - 1
    line = LINE_BYTES // vectors.itemsize
    total = 0.0
    for e in range(start, stop):
        ahead = indices[min(e + _AHEAD, last)]
        for k in range(0, d, line):
            prefetch(vectors, ahead, k)
        index, weight = indices[e], abs(values[e])
        scale = row_scales[index] if len(row_scales) else np.float32(1)
        liked = values[e] > 0
        weights[e - start] = weight * scale * scale
        targets[e - start] = weight * scale if liked else np.float32(0)
        total += weight if liked else np.float32(0) * weight  # a weight that is not finite stays seen
        source, target = vectors[index], gathered[e - start]
        for k in range(d):
            target[k] = np.float32(source[k])
    return total


@njit((float32_rows_out, int64, float32_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _add_combination(rows, n, factors, out):  # type: ignore[no-untyped-def]
    """out += rows[:n]' factors, four rows at a time."""
    d = len(out)
    whole = n - n % 4
    for s in range(0, whole, 4):
        a, b, c, e = rows[s], rows[s + 1], rows[s + 2], rows[s + 3]
        fa, fb, fc, fe = factors[s], factors[s + 1], factors[s + 2], factors[s + 3]
        for k in range(d):
            out[k] += fa * a[k] + fb * b[k] + fc * c[k] + fe * e[k]
    for s in range(whole, n):
        a, fa = rows[s], factors[s]
        for k in range(d):
            out[k] += fa * a[k]


@njit(float64(float32_rows_out, int64, float32_in, float32_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _add_product(rows, n, weights, vector, out):  # type: ignore[no-untyped-def]
    """out += R' W R vector for R = rows[:n], four rows read once for both products; returns vector' R' W R vector."""
    d = len(out)
    total = np.float32(0)
    whole = n - n % 4
    for s in range(0, whole, 4):
        a, b, c, e = rows[s], rows[s + 1], rows[s + 2], rows[s + 3]
        fa = fb = fc = fe = np.float32(0)
        for k in range(d):
            fa += a[k] * vector[k]
            fb += b[k] * vector[k]
            fc += c[k] * vector[k]
            fe += e[k] * vector[k]
        wa, wb, wc, we = fa * weights[s], fb * weights[s + 1], fc * weights[s + 2], fe * weights[s + 3]
        total += fa * wa + fb * wb + fc * wc + fe * we
        for k in range(d):
            out[k] += wa * a[k] + wb * b[k] + wc * c[k] + we * e[k]
    for s in range(whole, n):
        a = rows[s]
        fa = np.float32(0)
        for k in range(d):
            fa += a[k] * vector[k]
        wa = fa * weights[s]
        total += fa * wa
        for k in range(d):
            out[k] += wa * a[k]
    return np.float64(total)


@njit(
    [
        float64(int32_in, float32_in, rows_in, float32_in, int64, int64, float32_in, boolean, float32_out)
        for rows_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def add_entries(  # type: ignore[no-untyped-def]
    indices, values, vectors, row_scales, start, stop, vector, of_targets, out
):
    """What the entries start <= e < stop, Z_e being their vectors, add to a row's right side or to a product.

    of_targets: out += Z_e' W t, returns sum w t^2.
    Otherwise: out += Z_e' W Z_e vector, returns vector' Z_e' W Z_e vector.
    vector and out float32 (d,); the rest as in solve_rows. Nothing longer than a block is held.
    """
    d = len(out)
    block = max(_BLOCK_FLOATS // d, 16)
    gathered = np.empty((min(block, stop - start), d), dtype=np.float32)
    weights, targets = np.empty(len(gathered), dtype=np.float32), np.empty(len(gathered), dtype=np.float32)
    total = 0.0
    for first in range(start, stop, block):
        size = min(block, stop - first)
        of_block = _gather(indices, values, vectors, row_scales, first, first + size, gathered, weights, targets)
        if of_targets:
            _add_combination(gathered, size, targets, out)
            total += of_block
        else:
            total += _add_product(gathered, size, weights, vector, out)
    return total


@njit(
    [
        int64(
            int64_in, int32_in, float32_in, rows_in, float32_in, float32_in,
            float64, float64, float64, int64, float64, int64, int64, float32_rows_out, float64_out,
        )
        for rows_in in VECTORS_IN
    ],
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def solve_rows(  # type: ignore[no-untyped-def]
    indptr, indices, values, vectors, row_scales, spectrum,
    unobserved_weight, regularization, regularization_exponent, n_others, tolerance, first, last, out, sums,
):  # fmt: skip
    """Solve rows first <= r < last, each to within the share `tolerance` of its minimal loss.

    indptr int64 (rows + 1,), indices int32 and values float32 (entries,): the rows' items, weights and targets.
    vectors (n_others, d) and spectrum float32 (d,): the other side in its Gram's eigenbasis; float32 with empty
    row_scales, or int16 or int8 with row_scales float32 (n_others,), where vector r is row_scales[r] * vectors[r].
    n_others int: all vectors of the other side, which lambda_row counts: it differs from len(vectors) only in a shard.
    out float32 (last - first, d): overwritten; a row without entries becomes exactly zero.
    sums float64 (4,): increased by the rows' parts of the objective, sum w (t - x'z)^2 over their entries,
    a0 sum (x'z)^2 over all vectors and lambda_row |x|^2, and by the multiply-adds of entries with vectors.
    Returns -1, or the first row whose solution is not finite.
    """
    d = vectors.shape[1]
    resident = max(RESIDENT_FLOATS // d, 16)
    longest = 0
    for row in range(first, last):
        n = indptr[row + 1] - indptr[row]
        if n <= resident:
            longest = max(longest, n)
    gathered = np.empty((longest, d), dtype=np.float32)
    weights, targets = np.empty(longest, dtype=np.float32), np.empty(longest, dtype=np.float32)
    work = np.empty((5, d), dtype=np.float32)
    background, inverse, residual, direction, product = work[0], work[1], work[2], work[3], work[4]
    a0 = np.float32(unobserved_weight)

    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        n = stop - start
        x = out[row - first]
        x[:] = np.float32(0)
        if n == 0:
            continue
        size = n + unobserved_weight * n_others
        penalty = regularization * (size if regularization_exponent == 1.0 else size**regularization_exponent)
        floor = np.float32(penalty)
        residual[:] = np.float32(0)
        if n <= resident:
            loss = _gather(indices, values, vectors, row_scales, start, stop, gathered, weights, targets)
            _add_combination(gathered, n, targets, residual)
        else:
            loss = add_entries(indices, values, vectors, row_scales, start, stop, spectrum, True, residual)
        squared = curvature = np.float32(0)
        for k in range(d):
            background[k] = a0 * max(spectrum[k], np.float32(0)) + floor
            inverse[k] = np.float32(1) / background[k]
            direction[k] = inverse[k] * residual[k]
            product[k] = residual[k]
            squared += direction[k] * residual[k]
        curvature = squared
        # One at a time: numba asks x - x == 0, and of a sum `reassoc` lets the compiler cancel the terms.
        if not (np.isfinite(squared) and np.isfinite(loss)):
            return row
        steps = 0
        most = MOST_STEPS * min(n, d) + 8
        # The loss is a difference of sums and may round to just below zero: there is nothing left to gain then.
        while squared > tolerance * max(loss, 0.0) and squared > 0 and steps < most:
            if n <= resident:
                spread = _add_product(gathered, n, weights, direction, product)
            else:
                spread = add_entries(indices, values, vectors, row_scales, start, stop, direction, False, product)
            length = np.float32(squared / (curvature + spread))
            loss -= np.float64(length) * np.float64(squared)
            before = squared
            squared = np.float32(0)
            for k in range(d):
                x[k] += length * direction[k]
                residual[k] -= length * product[k]
                squared += residual[k] * residual[k] * inverse[k]
            ratio = squared / before
            curvature = np.float32(0)
            for k in range(d):
                direction[k] = inverse[k] * residual[k] + ratio * direction[k]
                product[k] = background[k] * direction[k]
                curvature += product[k] * direction[k]
            steps += 1
        energy = norm = 0.0
        for k in range(d):
            square = np.float64(x[k]) * np.float64(x[k])
            energy += np.float64(background[k]) * square
            norm += square
        if not (np.isfinite(energy) and np.isfinite(norm)):
            return row
        sums[0] += loss - energy
        sums[1] += energy - penalty * norm
        sums[2] += penalty * norm
        sums[3] += np.float64(n) * d * (1 + 2 * steps)
    return np.int64(-1)
