"""The ridge solve of one row: what ALS training repeats, and what serving folds histories and carts in with.

With the other side's vectors Z in the eigenbasis of their Gram matrix, Z'Z = diag(spectrum), the normal equations of a
row with items S, weights W and targets t (Rendle, Krichene, Zhang, Koren 2021, equations 9 and 10) are

    (D + Z_S' W Z_S) x = Z_S' W t,    D = unobserved_weight * spectrum + lambda_row, diagonal whatever lambda_row is.

Put G = W^(1/2) Z_S D^(-1/2), n x d, and x = D^(-1/2) v. Then A v = b with A = I + G'G, b = G' W^(1/2) t, and conjugate
gradients (Hestenes and Stiefel 1952) need few steps: D is the exact inverse of the background, the rest has rank n. The
row's part of the objective is f(v) = sum w t^2 - 2 b'v + v'Av. Because no eigenvalue of A is below 1,

    f(v) - min f = r' A^(-1) r <= |r|^2,    r = b - A v,

so that stopping at |r|^2 <= tolerance f(v) leaves the loss of the row within that share of its minimum. With the
tolerance EXACT that is the rounding of float32. Why no factorization: docs/decisions/0007-conjugate-gradients.md.

`values` carries weight and target at once: v > 0 is weight v with target 1, v < 0 is negative feedback, weight -v with
target 0. Helpers stand first, because a kernel with an explicit signature is compiled where it is defined. Held
against the definition, full matrices in float64, by tests/test_row_solver.py.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, int64, njit

from engine.prefetch import LINE_BYTES, prefetch
from engine.signatures import (
    FASTMATH,
    float32_in,
    float32_out,
    float32_rows_in,
    float32_rows_out,
    float64_out,
    int16_rows_in,
    int32_in,
    int64_in,
)

EXACT = 1e-12
"""A tolerance at which what is left is the rounding of float32: |r| <= 1e-6 sqrt(f)."""

_RESIDENT_FLOATS = 1 << 17
"""Rows of G that are gathered once and kept for every step: half of a second-level cache of 1 MiB."""
_BLOCK_FLOATS = 1 << 14
"""A longer row is gathered anew for every step in blocks of this size, and never held whole."""
_AHEAD = 12
"""Entries between asking for a vector and reading it; 8 to 32 are equally good."""


@njit(
    [
        (int32_in, float32_in, rows_in, float32_in, float32_in, int64, int64, float32_rows_out, float32_out)
        for rows_in in (float32_rows_in, int16_rows_in)
    ],
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def _gather(indices, values, vectors, row_scales, scale, start, stop, gathered, targets):  # type: ignore[no-untyped-def]
    """Rows of G and elements of W^(1/2) t for the entries start <= e < stop."""
    d = len(scale)
    last = len(indices) - 1
    line = LINE_BYTES // vectors.itemsize
    for e in range(start, stop):
        ahead = indices[min(e + _AHEAD, last)]
        for k in range(0, d, line):
            prefetch(vectors, ahead, k)
        root = np.sqrt(abs(values[e]))
        targets[e - start] = root if values[e] > 0 else np.float32(0)
        if len(row_scales):
            root *= row_scales[indices[e]]
        source = vectors[indices[e]]
        target = gathered[e - start]
        for k in range(d):
            target[k] = np.float32(source[k]) * scale[k] * root


@njit(float32(float32_rows_out, int64, float32_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _add_combination(rows, n, factors, out):  # type: ignore[no-untyped-def]
    """out += rows[:n]' factors, four rows at a time; returns |factors|^2."""
    d = len(out)
    total = np.float32(0)
    whole = n - n % 4
    for s in range(0, whole, 4):
        a, b, c, e = rows[s], rows[s + 1], rows[s + 2], rows[s + 3]
        fa, fb, fc, fe = factors[s], factors[s + 1], factors[s + 2], factors[s + 3]
        total += fa * fa + fb * fb + fc * fc + fe * fe
        for k in range(d):
            out[k] += fa * a[k] + fb * b[k] + fc * c[k] + fe * e[k]
    for s in range(whole, n):
        a, fa = rows[s], factors[s]
        total += fa * fa
        for k in range(d):
            out[k] += fa * a[k]
    return total


@njit(float32(float32_rows_out, int64, float32_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _add_product(rows, n, vector, out):  # type: ignore[no-untyped-def]
    """out += rows[:n]' rows[:n] vector, four rows read once for both products; returns |rows[:n] vector|^2."""
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
        total += fa * fa + fb * fb + fc * fc + fe * fe
        for k in range(d):
            out[k] += fa * a[k] + fb * b[k] + fc * c[k] + fe * e[k]
    for s in range(whole, n):
        a = rows[s]
        fa = np.float32(0)
        for k in range(d):
            fa += a[k] * vector[k]
        total += fa * fa
        for k in range(d):
            out[k] += fa * a[k]
    return total


@njit((float32_in, float64, float64, float32_out), nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")
def _set_scale(spectrum, unobserved_weight, penalty, scale):  # type: ignore[no-untyped-def]
    """scale = D^(-1/2)."""
    a0, floor = np.float32(unobserved_weight), np.float32(penalty)
    for k in range(len(scale)):
        scale[k] = np.float32(1) / np.sqrt(a0 * max(spectrum[k], np.float32(0)) + floor)


@njit(
    [
        float64(
            int32_in, float32_in, rows_in, float32_in, float32_in, int64, int64, float32_in, boolean, float32_out,
        )
        for rows_in in (float32_rows_in, int16_rows_in)
    ],
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def add_entries(  # type: ignore[no-untyped-def]
    indices, values, vectors, row_scales, scale, start, stop, vector, of_targets, out
):
    """What the entries start <= e < stop, G_e being their rows of G, add to a row's right side or to a product.

    of_targets: out += G_e' W^(1/2) t, returns |W^(1/2) t|^2. Otherwise: out += G_e' G_e vector, returns |G_e vector|^2.
    scale, vector and out float32 (d,); the rest as in solve_rows. Nothing longer than a block is held.
    """
    block = max(_BLOCK_FLOATS // len(scale), 16)
    gathered = np.empty((min(block, stop - start), len(scale)), dtype=np.float32)
    targets = np.empty(len(gathered), dtype=np.float32)
    total = 0.0
    for first in range(start, stop, block):
        size = min(block, stop - first)
        _gather(indices, values, vectors, row_scales, scale, first, first + size, gathered, targets)
        if of_targets:
            total += _add_combination(gathered, size, targets, out)
        else:
            total += _add_product(gathered, size, vector, out)
    return total


@njit(
    [
        int64(
            int64_in, int32_in, float32_in, rows_in, float32_in, float32_in,
            float64, float64, float64, int64, float64, int64, int64, float32_rows_out, float64_out,
        )
        for rows_in in (float32_rows_in, int16_rows_in)
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
    row_scales, or int16 with row_scales float32 (n_others,), where vector r is row_scales[r] * vectors[r].
    n_others int: all vectors of the other side, which lambda_row counts: it differs from len(vectors) only in a shard.
    out float32 (last - first, d): overwritten; a row without entries becomes exactly zero.
    sums float64 (4,): increased by the rows' parts of the objective, sum w (t - x'z)^2 over their entries,
    a0 sum (x'z)^2 over all vectors and lambda_row |x|^2, and by the multiply-adds of entries with vectors.
    Returns -1, or the first row whose solution is not finite.
    """
    d = vectors.shape[1]
    resident = max(_RESIDENT_FLOATS // d, 16)
    longest = 0
    for row in range(first, last):
        n = indptr[row + 1] - indptr[row]
        if n <= resident:
            longest = max(longest, n)
    gathered = np.empty((longest, d), dtype=np.float32)
    targets = np.empty(longest, dtype=np.float32)
    work = np.empty((5, d), dtype=np.float32)
    scale, solution, residual, direction, product = work[0], work[1], work[2], work[3], work[4]

    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        n = stop - start
        x = out[row - first]
        x[:] = np.float32(0)
        if n == 0:
            continue
        penalty = regularization * (n + unobserved_weight * n_others) ** regularization_exponent
        _set_scale(spectrum, unobserved_weight, penalty, scale)
        residual[:] = np.float32(0)
        if n <= resident:
            _gather(indices, values, vectors, row_scales, scale, start, stop, gathered, targets)
            loss = np.float64(_add_combination(gathered, n, targets, residual))
        else:
            loss = add_entries(indices, values, vectors, row_scales, scale, start, stop, scale, True, residual)
        squared = np.float32(0)
        for k in range(d):
            solution[k] = np.float32(0)
            direction[k] = product[k] = residual[k]
            squared += residual[k] * residual[k]
        if not np.isfinite(squared):
            return row
        curvature = np.float64(squared)
        steps = 0
        most = 4 * min(n, d) + 8
        while squared > tolerance * loss and steps < most:
            if n <= resident:
                curvature += _add_product(gathered, n, direction, product)
            else:
                curvature += add_entries(
                    indices, values, vectors, row_scales, scale, start, stop, direction, False, product
                )
            length = np.float32(squared / curvature)
            loss -= np.float64(length) * np.float64(squared)
            before = squared
            squared = np.float32(0)
            for k in range(d):
                solution[k] += length * direction[k]
                residual[k] -= length * product[k]
                squared += residual[k] * residual[k]
            ratio = squared / before
            own = np.float32(0)
            for k in range(d):
                direction[k] = product[k] = residual[k] + ratio * direction[k]
                own += direction[k] * direction[k]
            curvature = np.float64(own)
            steps += 1
        background = norm = 0.0
        for k in range(d):
            x[k] = solution[k] * scale[k]
            background += np.float64(solution[k]) * np.float64(solution[k])
            norm += np.float64(x[k]) * np.float64(x[k])
        if not np.isfinite(background + norm):
            return row
        sums[0] += loss - background
        sums[1] += background - penalty * norm
        sums[2] += penalty * norm
        sums[3] += np.float64(n) * d * (1 + 2 * steps)
    return np.int64(-1)
