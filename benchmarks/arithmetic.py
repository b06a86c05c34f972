"""What a trainer's vectors are worth and what an epoch costs on paper: the objective, operations, bytes, machine rates.

`objective` judges every trainer alike, from its vectors, with float64 sums (tests/test_rivals.py holds it against
tests/reference.py). `epoch_flops` counts the operations of the algorithm that a trainer's source spells out, a multiply
and an add as two; Nearcart, whose steps depend on the row, counts them itself. Memory traffic is counted the same for
all: `gather_bytes`, each entry's vector once a half epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.rivals import CG_STEPS, SUBSPACE
from trainer.interactions import Csr

_BLOCK_ROWS = 16_384


def objective(
    by_user: Csr,
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    unobserved_weight: float,
    regularization: float,
    exponent: float,
    threads: int = 1,
) -> float:
    """The objective of docs/algorithm.md: products and sums in float64, all pairs by trace(X'X Y'Y)."""
    bounds = np.searchsorted(by_user.indptr, np.linspace(0, by_user.n_entries, 8 * threads + 1)[1:-1])
    bounds = np.concatenate([[0], bounds, [by_user.n_rows]])
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(threads, "blas"):
        parts = pool.map(
            lambda first, last: _observed(by_user.indptr, by_user.indices, by_user.values, users, items, first, last),
            bounds[:-1],
            bounds[1:],
        )
        everywhere = unobserved_weight * float(np.sum(_gram(users) * _gram(items)))
        total = sum(parts) + everywhere
    counts = np.diff(by_user.indptr), np.bincount(by_user.indices, minlength=by_user.n_columns)
    for vectors, entries, n_others in ((users, counts[0], len(items)), (items, counts[1], len(users))):
        scale = (entries + unobserved_weight * n_others) ** exponent
        total += regularization * float(scale @ np.einsum("rd,rd->r", vectors, vectors, dtype=np.float64))
    return float(total)


def epoch_flops(solver: str, by_user: Csr, factors: int, multiply_adds: float | None) -> float:
    """Operations of one epoch; `multiply_adds` are those of the row solves where the trainer counts them."""
    users, items = np.diff(by_user.indptr), np.bincount(by_user.indices, minlength=by_user.n_columns)
    d = float(factors)
    gram_matrices = 2 * (len(users) + len(items)) * d * d
    if multiply_adds is not None:
        return 2 * multiply_adds + 2 * gram_matrices  # and as much again for the rotations to the eigenbasis
    count = _ROW_FLOPS[solver]
    return gram_matrices + sum(float(np.sum(count(rows.astype(np.float64), d))) for rows in (users, items))


def gather_bytes(n_entries: int, factors: int) -> int:
    """Bytes of the float32 vectors that an epoch cannot do without: one per entry and half, read once."""
    return 2 * n_entries * factors * 4


def theoretical_bytes(by_user: Csr, factors: int) -> int:
    """Bytes of both CSRs (int64 bounds, int32 columns, float32 values) and of the float32 vectors."""
    rows = by_user.n_rows + by_user.n_columns
    return 2 * by_user.n_entries * 8 + (rows + 2) * 8 + rows * factors * 4


def machine_rates(threads: int, *, quick: bool) -> dict[str, float]:
    """The best of some float32 matrix products (flop/s) and of some copies (bytes read and written a second)."""
    n, n_bytes, runs = (256, 1 << 22, 3) if quick else (2048, 1 << 28, 5)
    generator = np.random.default_rng(0)
    left, right = generator.random((2, n, n), dtype=np.float32)
    out = np.empty_like(left)
    sources = np.zeros((threads, n_bytes // threads), dtype=np.uint8) + np.uint8(1)
    copies = np.zeros_like(sources) + np.uint8(2)
    with threadpool_limits(threads, "blas"), ThreadPoolExecutor(threads) as pool:
        product = min(_seconds(lambda: np.matmul(left, right, out=out)) for _ in range(runs))
        copy = min(_seconds(lambda: list(pool.map(np.copyto, copies, sources))) for _ in range(runs))
    return {"sgemm_flops_per_second": 2.0 * n**3 / product, "copy_bytes_per_second": 2.0 * sources.nbytes / copy}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _gram(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS].astype(np.float64)
        total += block.T @ block
    return total


@njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _observed(indptr, indices, values, users, items, first, last):
    """The sum over the entries of rows first..last of w (t - x'y)^2."""
    total = 0.0
    for row in range(first, last):
        for entry in range(indptr[row], indptr[row + 1]):
            score = 0.0
            for k in range(users.shape[1]):
                score += np.float64(users[row, k]) * np.float64(items[indices[entry], k])
            target = 1.0 if values[entry] > 0 else 0.0
            total += abs(values[entry]) * (target - score) ** 2
    return total


def _implicit_cg(n, d):
    """The residual and each step: a dot and an axpy per entry, and a product with the Gram matrix."""
    return (CG_STEPS + 1) * (4 * n * d + 2 * d * d)


def _implicit_cholesky(n, d):
    """The full square per entry, not its triangle; then posv."""
    return 2 * n * d * d + 2 * n * d + d**3 / 3 + 2 * d * d


def _irspack_cg(n, d):
    return _implicit_cg(n, d) + 2 * n * d


def _irspack_cholesky(n, d):
    """Rank updates of the triangle."""
    return n * d * d + 2 * n * d + d**3 / 3 + 2 * d * d


def _irspack_ialspp(n, d):
    """All predictions once; a block costs its Cholesky, its rows of the Gram matrix, and its predictions again."""
    width = np.minimum(SUBSPACE, d)
    return 2 * n * d + (d / width) * (n * width**2 + width**3 / 3 + 4 * n * width + 2 * width * d)


_ROW_FLOPS = {
    "implicit-cg": _implicit_cg,
    "implicit-cholesky": _implicit_cholesky,
    "irspack-cg": _irspack_cg,
    "irspack-cholesky": _irspack_cholesky,
    "irspack-ialspp": _irspack_ialspp,
}
