"""A random rotation that costs d log d: it spreads what a vector has over all coordinates, evenly.

In the eigenbasis items lean on few coordinates, and codes of few bits describe such vectors badly. Random signs and
Hadamard transforms alternate, on the first and on the last 2^m coordinates in turn where d is no power of two (N. Ailon
and B. Chazelle, "The fast Johnson-Lindenstrauss transform and approximate nearest neighbors", SIAM J. Comput. 39(1),
2009). The matrix is orthogonal: products stay as they are. Held against its properties by tests/test_rotation.py.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from engine.signatures import FASTMATH, float32_in, float32_out, float32_rows_in

ROUNDS = 4


def random_signs(coordinates: int, seed: int = 0) -> NDArray[np.float32]:
    """A rotation: 1 or -1, float32 (ROUNDS, coordinates)."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.float32), (ROUNDS, coordinates))


@njit(types.void(float32_out, float32_in), nogil=True, cache=True, fastmath=FASTMATH)
def _multiply(vector, factors):  # type: ignore[no-untyped-def]
    for k in range(len(vector)):
        vector[k] *= factors[k]


@njit(types.void(float32_out, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _step(source, target):  # type: ignore[no-untyped-def]
    """One of the m steps for a length of 2^m, all alike: sums and differences of the halves, interleaved."""
    half = len(source) // 2
    for k in range(half):
        one, other = source[k], source[k + half]
        target[2 * k] = one + other
        target[2 * k + 1] = one - other


@njit(types.void(float32_out, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def _transform(vector, scratch):  # type: ignore[no-untyped-def]
    """Hadamard's transform of a vector whose length is a power of two, orthonormal (M. C. Pease, "An adaptation of the
    fast Fourier transform for parallel processing", J. ACM 15(2), 1968)."""
    source, target = vector, scratch
    stride = 1
    while stride < len(vector):
        _step(source, target)
        source, target = target, source
        stride *= 2
    scale = np.float32(1 / np.sqrt(len(vector)))
    for k in range(len(vector)):
        vector[k] = source[k] * scale


@njit(types.void(float32_out, float32_rows_in, float32_out), nogil=True, cache=True, fastmath=FASTMATH)
def rotate(vector, signs, scratch):  # type: ignore[no-untyped-def]
    """Rotate vector float32 (d,), in place; d at least 1, signs float32 (ROUNDS, d), scratch float32 (d,)."""
    length = 1
    while 2 * length <= len(vector):
        length *= 2
    for turn in range(len(signs)):
        _multiply(vector, signs[turn])
        first = 0 if turn % 2 == 0 else len(vector) - length
        _transform(vector[first : first + length], scratch[:length])
