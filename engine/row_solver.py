"""The exact ridge solve of one row: what ALS training repeats, and what serving folds histories and carts in with.

With the other side's vectors Z in the eigenbasis of their Gram matrix, Z'Z = diag(spectrum), the normal equations of a
row with items S, weights W and targets t (Rendle, Krichene, Zhang, Koren 2021, equations 9 and 10) are

    (D + Z_S' W Z_S) x = Z_S' W t,    D = unobserved_weight * spectrum + lambda_row, diagonal whatever lambda_row is.

Put G = W^(1/2) Z_S D^(-1/2), n x d. Both systems below are I + (symmetric, no negative eigenvalue), so Cholesky cannot
fail on finite input, and both give the same x:

    primal, d x d:   (I + G'G) v = G' W^(1/2) t,    x = D^(-1/2) v
    dual,   n x n:   (I + GG') u = W^(1/2) t,       x = D^(-1/2) G' u          (Woodbury's push-through identity)

The smaller one is solved. `values` carries weight and target at once: v > 0 is weight v with target 1, v < 0 is
negative feedback, weight -v with target 0. Another solver takes the signature of `solve_rows` and is named in
trainer.als.SOLVERS. Helpers stand first, because a kernel with an explicit signature is compiled where it is defined.
Held against the definition, full matrices in float64, by tests/test_row_solver.py.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, int64, njit

from engine.signatures import (
    FASTMATH,
    float32_in,
    float32_out,
    float32_rows_in,
    float32_rows_out,
    float64_out,
    float64_rows_out,
    int32_in,
    int64_in,
)

BLOCK = 64
"""Rows gathered at a time for a Gram product: 64 x 128 floats stay in the first-level cache of current processors."""


@njit(
    (int32_in, float32_in, float32_rows_in, float32_in, int64, int64, float32_rows_out, float32_out),
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def _gather(indices, values, vectors, scale, start, stop, gathered, roots):  # type: ignore[no-untyped-def]
    """Rows of G for the entries start <= e < stop, and the roots of their weights."""
    for e in range(start, stop):
        root = np.sqrt(abs(values[e]))
        roots[e - start] = root
        source = vectors[indices[e]]
        target = gathered[e - start]
        for k in range(len(scale)):
            target[k] = source[k] * scale[k] * root


@njit((float32_rows_in, float32_rows_out), nogil=True, cache=True, fastmath=FASTMATH)
def _add_gram(rows, out):  # type: ignore[no-untyped-def]
    """Add rows'rows to the lower triangle of out, four columns by four rows at a time; may spill above the diagonal."""
    n, d = rows.shape
    for s in range(0, n - n % 4, 4):
        a, b, c, e = rows[s], rows[s + 1], rows[s + 2], rows[s + 3]
        for i in range(0, d - d % 4, 4):
            a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
            b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
            c0, c1, c2, c3 = c[i], c[i + 1], c[i + 2], c[i + 3]
            e0, e1, e2, e3 = e[i], e[i + 1], e[i + 2], e[i + 3]
            o0, o1, o2, o3 = out[i], out[i + 1], out[i + 2], out[i + 3]
            for j in range(i + 4):
                o0[j] += a0 * a[j] + b0 * b[j] + c0 * c[j] + e0 * e[j]
                o1[j] += a1 * a[j] + b1 * b[j] + c1 * c[j] + e1 * e[j]
                o2[j] += a2 * a[j] + b2 * b[j] + c2 * c[j] + e2 * e[j]
                o3[j] += a3 * a[j] + b3 * b[j] + c3 * c[j] + e3 * e[j]
        for i in range(d - d % 4, d):
            for j in range(i + 1):
                out[i, j] += a[i] * a[j] + b[i] * b[j] + c[i] * c[j] + e[i] * e[j]
    for s in range(n - n % 4, n):
        a = rows[s]
        for i in range(d):
            for j in range(i + 1):
                out[i, j] += a[i] * a[j]


@njit((float32_rows_in, float32_rows_out), nogil=True, cache=True, fastmath=FASTMATH)
def _identity_plus_rows(rows, out):  # type: ignore[no-untyped-def]
    """The lower triangle of I + rows rows', four dot products at a time."""
    n, d = rows.shape
    for i in range(n):
        a = rows[i]
        whole = (i + 1) - (i + 1) % 4
        for j in range(0, whole, 4):
            b, c, e, f = rows[j], rows[j + 1], rows[j + 2], rows[j + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for k in range(d):
                s0 += a[k] * b[k]
                s1 += a[k] * c[k]
                s2 += a[k] * e[k]
                s3 += a[k] * f[k]
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = s0, s1, s2, s3
        for j in range(whole, i + 1):
            b = rows[j]
            s0 = np.float32(0)
            for k in range(d):
                s0 += a[k] * b[k]
            out[i, j] = s0
        out[i, i] += np.float32(1)


@njit(boolean(float32_rows_out), nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")
def _cholesky(matrix):  # type: ignore[no-untyped-def]
    """Overwrite the lower triangle with its Cholesky factor, from the left; False where a pivot is not positive."""
    n = matrix.shape[0]
    for j in range(n):
        pivot_row = matrix[j]
        pivot = pivot_row[j]
        for k in range(j):
            pivot -= pivot_row[k] * pivot_row[k]
        if not pivot > 0:
            return False
        root = np.sqrt(pivot)
        pivot_row[j] = root
        inverse = np.float32(1) / root
        whole = (n - j - 1) - (n - j - 1) % 4
        for i in range(j + 1, j + 1 + whole, 4):
            a, b, c, e = matrix[i], matrix[i + 1], matrix[i + 2], matrix[i + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for k in range(j):
                s0 += a[k] * pivot_row[k]
                s1 += b[k] * pivot_row[k]
                s2 += c[k] * pivot_row[k]
                s3 += e[k] * pivot_row[k]
            a[j] = (a[j] - s0) * inverse
            b[j] = (b[j] - s1) * inverse
            c[j] = (c[j] - s2) * inverse
            e[j] = (e[j] - s3) * inverse
        for i in range(j + 1 + whole, n):
            a = matrix[i]
            s0 = np.float32(0)
            for k in range(j):
                s0 += a[k] * pivot_row[k]
            a[j] = (a[j] - s0) * inverse
    return True


@njit((float32_rows_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")
def _substitute(factor, vector):  # type: ignore[no-untyped-def]
    """Overwrite vector with the solution of factor factor' x = vector."""
    n = len(vector)
    for i in range(n):
        row = factor[i]
        total = np.float32(0)
        for k in range(i):
            total += row[k] * vector[k]
        vector[i] = (vector[i] - total) / row[i]
    for i in range(n - 1, -1, -1):
        row = factor[i]
        vector[i] /= row[i]
        value = vector[i]
        for k in range(i):
            vector[k] -= value * row[k]


@njit((float32_out, float32, float32_in), nogil=True, cache=True, fastmath=FASTMATH)
def _add_scaled(target, factor, source):  # type: ignore[no-untyped-def]
    """target += factor * source."""
    for k in range(len(target)):
        target[k] += factor * source[k]


@njit(
    float64(int32_in, float32_in, float32_rows_in, float32_in, int64, int64),
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def _observed_loss(indices, values, vectors, x, start, stop):  # type: ignore[no-untyped-def]
    """sum w (t - x'z)^2 over the entries start <= e < stop."""
    loss = 0.0
    for e in range(start, stop):
        z = vectors[indices[e]]
        prediction = np.float32(0)
        for k in range(len(x)):
            prediction += x[k] * z[k]
        target = np.float32(1) if values[e] > 0 else np.float32(0)
        residual = np.float64(target - prediction)
        loss += np.float64(abs(values[e])) * residual * residual
    return loss


@njit(
    int64(
        int64_in, int32_in, float32_in, float32_rows_in, float32_in,
        float64, float64, float64, int64, int64, int64, float32_rows_out, float64_out,
    ),
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def solve_rows(  # type: ignore[no-untyped-def]
    indptr, indices, values, vectors, spectrum,
    unobserved_weight, regularization, regularization_exponent, n_others, first, last, out, sums,
):  # fmt: skip
    """Solve rows first <= r < last exactly.

    indptr int64 (rows + 1,), indices int32 and values float32 (entries,): the rows' items, weights and targets.
    vectors float32 (n_others, d) and spectrum float32 (d,): the other side in its Gram's eigenbasis.
    n_others int: all vectors of the other side, which lambda_row counts: it differs from len(vectors) only in a shard.
    out float32 (last - first, d): overwritten; a row without entries becomes exactly zero.
    sums float64 (2,): increased by the rows' observed loss, sum w (t - x'z)^2, and penalty, sum lambda_row |x|^2.
    Returns -1, or the first row whose solution is not finite.
    """
    d = vectors.shape[1]
    longest = 0
    for row in range(first, last):
        longest = max(longest, indptr[row + 1] - indptr[row])
    dual_limit = min(longest, d)
    gathered = np.empty((max(BLOCK, dual_limit), d), dtype=np.float32)
    system = np.empty(d * d, dtype=np.float32)
    scale = np.empty(d, dtype=np.float32)
    roots = np.empty(max(BLOCK, dual_limit), dtype=np.float32)
    solution = np.empty(d, dtype=np.float32)

    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        n = stop - start
        x = out[row - first]
        x[:] = np.float32(0)
        if n == 0:
            continue
        penalty = regularization * (n + unobserved_weight * n_others) ** regularization_exponent
        for k in range(d):
            scale[k] = np.float32(1.0 / np.sqrt(unobserved_weight * max(np.float64(spectrum[k]), 0.0) + penalty))
        if n <= d:
            _gather(indices, values, vectors, scale, start, stop, gathered, roots)
            matrix = system[: n * n].reshape((n, n))
            _identity_plus_rows(gathered[:n], matrix)
            if not _cholesky(matrix):
                return row
            for s in range(n):
                solution[s] = roots[s] if values[start + s] > 0 else np.float32(0)
            _substitute(matrix, solution[:n])
            for s in range(n):
                _add_scaled(x, solution[s], gathered[s])
        else:
            matrix = system.reshape((d, d))
            matrix[:] = np.float32(0)
            for k in range(d):
                matrix[k, k] = np.float32(1)
            for block in range(start, stop, BLOCK):
                size = min(BLOCK, stop - block)
                _gather(indices, values, vectors, scale, block, block + size, gathered, roots)
                _add_gram(gathered[:size], matrix)
                for s in range(size):
                    if values[block + s] > 0:
                        _add_scaled(x, roots[s], gathered[s])
            if not _cholesky(matrix):
                return row
            _substitute(matrix, x)
        norm = 0.0
        for k in range(d):
            x[k] *= scale[k]
            norm += np.float64(x[k]) * np.float64(x[k])
        if not np.isfinite(norm):
            return row
        sums[1] += penalty * norm
        sums[0] += _observed_loss(indices, values, vectors, x, start, stop)
    return np.int64(-1)


@njit((float32_rows_in, float64_rows_out), nogil=True, cache=True, fastmath=FASTMATH)
def add_gram(vectors, out):  # type: ignore[no-untyped-def]
    """Add the lower triangle of vectors'vectors to out float64 (d, d): float32 products, float64 over blocks of rows.

    The order of summation depends on nothing but the number of rows, so the same rows give the same bits.
    """
    n, d = vectors.shape
    partial = np.zeros((d, d), dtype=np.float32)
    for block in range(0, n, 4 * BLOCK):
        _add_gram(vectors[block : min(block + 4 * BLOCK, n)], partial)
        for i in range(d):
            for j in range(i + 1):
                out[i, j] += partial[i, j]
                partial[i, j] = np.float32(0)
