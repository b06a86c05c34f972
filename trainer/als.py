"""Implicit ALS: item and user vectors that minimize the objective of Rendle, Krichene, Zhang and Koren (2021).

    sum over observed (u, i) of w_ui (t_ui - x_u'y_i)^2  +  a0 * sum over all (u, i) of (x_u'y_i)^2
      + sum_u lambda (n_u + a0 |I|)^nu |x_u|^2  +  sum_i lambda (n_i + a0 |U|)^nu |y_i|^2

("Revisiting the Performance of iALS on Item Recommendation Benchmarks", equation 6; Hu, Koren and Volinsky 2008 without
nu.) Each half of an epoch rotates the fixed side into the eigenbasis of its Gram matrix, where every row's background
is diagonal, and solves the other side's rows exactly. Symbols and derivation: docs/algorithm.md.

The same seed gives the same bits for any number of threads: rows are independent, sums run over chunks whose bounds
depend on the data alone, and BLAS is held to one thread. Held against tests/reference.py by tests/test_als.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.encoders import RidgeEncoder
from engine.row_solver import add_gram, solve_rows
from trainer.errors import TrainingDiverged
from trainer.interactions import Csr, Interactions
from trainer.options import AlsOptions

SOLVERS: Mapping[str, Callable[..., int]] = {"exact": solve_rows}
"""Row solvers by name; each has the signature of engine.row_solver.solve_rows."""

_CHUNKS = 256
"""Pieces of equal cost that a half epoch is cut into: enough that the last one to finish keeps few threads waiting."""
_GRAM_ROWS = 16_384
_ROTATION_ROWS = 8_192


@dataclass(frozen=True)
class Embeddings:
    """What ALS learns, in the final eigenbasis of the items.

    user_vectors float32 (n_users, d), item_vectors float32 (n_items, d), and spectrum float32 (d,), the falling
    diagonal of item_vectors' Gram matrix. losses holds the objective after each epoch, in float64.
    """

    user_vectors: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    spectrum: NDArray[np.float32]
    unobserved_weight: float
    options: AlsOptions
    losses: tuple[float, ...]

    def encoder(self) -> RidgeEncoder:
        """Folds histories and carts in, exactly as the last half epoch solved the users."""
        return RidgeEncoder(
            self.item_vectors,
            self.spectrum,
            self.unobserved_weight,
            self.options.regularization,
            self.options.regularization_exponent,
        )


@dataclass(frozen=True)
class TrainingProgress:
    """How far training is: `done` of 1.0, epochs finished, and the objective after the last of them."""

    done: float
    epoch: int
    epochs: int
    loss: float | None
    seconds: float


def train_als(
    interactions: Interactions,
    options: AlsOptions = AlsOptions(),  # noqa: B008 - frozen
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Embeddings:
    """Learn vectors from interactions; where no unobserved weight is given, it follows their density.

    Raises TrainingDiverged, naming the first row that is not finite.
    """
    run = _Run(interactions, options, on_progress)
    with threadpool_limits(1, "blas"), run.pool:
        try:
            return run.train()
        except BaseException:
            run.pool.shutdown(wait=True, cancel_futures=True)
            raise


def resolved_threads(threads: int) -> int:
    """The number of threads that `threads` means; 0 means every processor this process may use."""
    if threads:
        return threads
    # Where the system can bind a process to processors (Linux), a container's share is smaller than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Run:
    """The state of one training, dropped with it."""

    def __init__(
        self, interactions: Interactions, options: AlsOptions, on_progress: Callable[[TrainingProgress], None] | None
    ) -> None:
        self.interactions = interactions
        self.options = options
        self._unobserved_weight = options.unobserved_weight_for(
            interactions.n_users, interactions.n_items, interactions.n_entries
        )
        self.pool = ThreadPoolExecutor(resolved_threads(options.threads), thread_name_prefix="als")
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._halves = 2 * options.epochs + 1
        self._half = 0
        self._losses: list[float] = []

    def train(self) -> Embeddings:
        options, by_user, by_item = self.options, self.interactions.by_user, self.interactions.by_item
        generator = np.random.default_rng(options.seed)
        users = np.zeros((by_user.n_rows, options.factors), dtype=np.float32)
        items = generator.standard_normal((by_item.n_rows, options.factors), dtype=np.float32)
        items *= np.float32(options.init_scale / np.sqrt(options.factors))
        gram = self._gram(items)
        for _ in range(options.epochs):
            spectrum = self._to_eigenbasis(items, gram)
            _, user_penalty = self._solve("user", by_user, items, spectrum, users)
            spectrum = self._to_eigenbasis(users, self._gram(users))
            observed, item_penalty = self._solve("item", by_item, users, spectrum, items)
            gram = self._gram(items)
            everywhere = self._unobserved_weight * float(spectrum.astype(np.float64) @ np.diag(gram))
            loss = observed + user_penalty + item_penalty + everywhere
            if not np.isfinite(loss):
                raise TrainingDiverged(self._advice(f"the loss is {loss}"))
            self._losses.append(loss)
            self._report(0.0)
        spectrum = self._to_eigenbasis(items, gram)
        self._solve("user", by_user, items, spectrum, users)
        return Embeddings(users, items, spectrum, self._unobserved_weight, options, tuple(self._losses))

    def _gram(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """vectors'vectors in float64, lower triangle, summed over fixed blocks in their order."""
        d = vectors.shape[1]

        def block(start: int) -> NDArray[np.float64]:
            out = np.zeros((d, d))
            add_gram(vectors[start : start + _GRAM_ROWS], out)
            return out

        total = np.zeros((d, d))
        for part in self.pool.map(block, range(0, len(vectors), _GRAM_ROWS)):
            total += part
        return total

    def _to_eigenbasis(self, vectors: NDArray[np.float32], gram: NDArray[np.float64]) -> NDArray[np.float32]:
        """Rotate vectors in place to the eigenvectors of their Gram matrix, largest first; returns the eigenvalues."""
        if not np.isfinite(gram).all():
            raise TrainingDiverged(self._advice("the Gram matrix is not finite"))
        eigenvalues, eigenvectors = np.linalg.eigh(gram)
        rotation = np.ascontiguousarray(eigenvectors[:, ::-1], dtype=np.float32)

        def rotate(start: int) -> None:
            rows = vectors[start : start + _ROTATION_ROWS]
            rows[:] = rows @ rotation

        list(self.pool.map(rotate, range(0, len(vectors), _ROTATION_ROWS)))
        spectrum: NDArray[np.float32] = np.maximum(eigenvalues[::-1], 0.0).astype(np.float32)
        return spectrum

    def _solve(
        self,
        side: str,
        rows: Csr,
        others: NDArray[np.float32],
        spectrum: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> tuple[float, float]:
        """Solve every row of one side into out; returns its observed loss and its penalty."""
        options, solver = self.options, SOLVERS[self.options.solver]
        bounds = _equal_cost_bounds(rows.indptr, options.factors)
        sums = np.zeros((len(bounds) - 1, 2))

        def solve(chunk: int) -> int:
            first, last = int(bounds[chunk]), int(bounds[chunk + 1])
            return solver(
                rows.indptr, rows.indices, rows.values, others, spectrum,
                self._unobserved_weight, options.regularization, options.regularization_exponent,
                len(others), first, last, out[first:last], sums[chunk],
            )  # fmt: skip

        futures = [self.pool.submit(solve, chunk) for chunk in range(len(bounds) - 1)]
        failed = [row for row in self._watched(futures) if row >= 0]
        if failed:
            ids = self.interactions.user_ids if side == "user" else self.interactions.item_ids
            raise TrainingDiverged(self._advice(f"the vector of {side} {ids[min(failed)]!r} is not finite"))
        self._half += 1
        observed, penalty = sums.sum(axis=0)
        return float(observed), float(penalty)

    def _watched(self, futures: list[Future[int]]) -> Iterator[int]:
        for finished, future in enumerate(as_completed(futures), start=1):
            yield future.result()
            self._report(finished / len(futures))

    def _report(self, share_of_half: float) -> None:
        if self._on_progress is not None:
            self._on_progress(
                TrainingProgress(
                    done=min(1.0, (self._half + share_of_half) / self._halves),
                    epoch=len(self._losses),
                    epochs=self.options.epochs,
                    loss=self._losses[-1] if self._losses else None,
                    seconds=time.monotonic() - self._started,
                )
            )

    def _advice(self, found: str) -> str:
        weights = np.abs(self.interactions.by_user.values)
        return (
            f"training diverged in epoch {len(self._losses) + 1}: {found}. The largest event weight is "
            f"{weights.max(initial=0):g} and the regularization {self.options.regularization:g}: "
            "weights should be of the order of 1; lower them, or raise --regularization"
        )


def _equal_cost_bounds(indptr: NDArray[np.int64], factors: int) -> NDArray[np.int64]:
    """Row bounds of at most _CHUNKS chunks of about equal cost, by the operations of the exact solve."""
    n = np.diff(indptr).astype(np.float64)
    small = np.minimum(n, factors)
    cost = np.cumsum(small**2 * np.maximum(n, factors) + small**3 / 3 + factors)
    if not len(cost):
        return np.zeros(1, dtype=np.int64)
    targets = np.linspace(0.0, cost[-1], _CHUNKS + 1)[1:-1]
    return np.unique(np.concatenate(([0], np.searchsorted(cost, targets), [len(n)]))).astype(np.int64)
