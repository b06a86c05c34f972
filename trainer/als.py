"""Implicit ALS: item and user vectors that minimize the objective of Rendle, Krichene, Zhang and Koren (2021).

    sum over observed (u, i) of w_ui (t_ui - x_u'y_i)^2  +  a0 * sum over all (u, i) of (x_u'y_i)^2
      + sum_u lambda (n_u + a0 |I|)^nu |x_u|^2  +  sum_i lambda (n_i + a0 |U|)^nu |y_i|^2

("Revisiting the Performance of iALS on Item Recommendation Benchmarks", equation 6; Hu, Koren and Volinsky 2008 without
nu.) Each half of an epoch takes the fixed side to the eigenbasis of its Gram matrix (trainer.eigenbasis), where every
row's background is diagonal, and solves all rows of the other side (trainer.half_epoch). Rows start from nothing, so
item vectors alone are the state between epochs: the last ones and, for momentum (trainer.momentum), those before.
Symbols and derivation: docs/algorithm.md.

The same seed gives the same bits for any number of threads. Held against tests/reference.py by tests/test_als.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.configuration import require_valid
from engine.encoders import RidgeEncoder
from engine.row_solver import EXACT
from trainer.checkpoint import Checkpoint, Saved
from trainer.eigenbasis import Table, gram, packed, rotate, rotated
from trainer.errors import TrainingDiverged
from trainer.half_epoch import Penalty, RowNotFinite, Solved, solve_side
from trainer.interactions import Interactions
from trainer.memory import require_memory
from trainer.momentum import extrapolate, share_of_last_step
from trainer.options import AlsOptions
from trainer.scratch import empty_in
from trainer.threads import Threads

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """What ALS learns, in the final eigenbasis of the items.

    user_vectors float32 (n_users, d), item_vectors float32 (n_items, d), and spectrum float32 (d,), the falling
    diagonal of item_vectors' Gram matrix. losses holds the objective after each epoch, in float64.
    """

    user_vectors: Vectors
    item_vectors: Vectors
    spectrum: Vectors
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
class Epoch:
    """One epoch that is done: the parts of the objective, in float64, and the vectors that have it."""

    epoch: int
    """The first is 1."""
    observed: float
    unobserved: float
    penalty: float
    seconds: float
    """Of this epoch alone."""
    multiply_adds: float
    """Of entries with vectors, in both halves."""
    item_vectors: Vectors
    """Float32 (n_items, d), to be left as they are."""
    _users: Vectors
    _rotation: Vectors

    @property
    def loss(self) -> float:
        """The objective: the sum of its parts."""
        return self.observed + self.unobserved + self.penalty

    @property
    def n_users(self) -> int:
        """Rows of users."""
        return len(self._users)

    @property
    def user_vectors(self) -> Vectors:
        """The users that the items were solved for, in their basis: float32 (n_users, d), made when asked for."""
        return self._users @ self._rotation


@dataclass(frozen=True)
class TrainingProgress:
    """How far training is: `done` of 1.0, the last finished epoch, and seconds since the start."""

    done: float
    epochs: int
    last: Epoch | None
    seconds: float


OnEpoch = Callable[[Epoch], Vectors | None]
"""Called after each epoch; item vectors that it returns end the training, and are what was learned."""


def train(
    interactions: Interactions,
    options: AlsOptions = AlsOptions(),  # noqa: B008 - frozen
    *,
    initial_items: Vectors | None = None,
    checkpoint: Checkpoint | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    on_epoch: OnEpoch | None = None,
) -> Embeddings:
    """Learn vectors from interactions; where no unobserved weight is given, it follows their density.

    initial_items float32 (n_items, d) start the training in place of random vectors. With a checkpoint, training goes
    on from the epoch that it holds, and saves each one after `on_epoch`; the result has the same bits as without.

    Raises TrainingDiverged, naming the first row that is not finite; MemoryShort before it starts; CheckpointMismatch
    for a checkpoint of other data or options.
    """
    require_valid(options)
    require_memory(interactions, options)
    run = _Run(interactions, options, on_progress)
    with threadpool_limits(1, "blas"), run.pool:
        try:
            return run.train(initial_items, checkpoint, on_epoch)
        except BaseException:
            run.pool.shutdown(wait=True, cancel_futures=True)
            raise


def random_items(n_items: int, options: AlsOptions) -> Vectors:
    """What training starts from where nothing else is given: normal, float32 (n_items, d), by the seed."""
    items = np.random.default_rng(options.seed).standard_normal((n_items, options.factors), dtype=np.float32)
    items *= np.float32(options.init_scale / np.sqrt(options.factors))
    return items


class _Run:
    """The state of one training, dropped with it."""

    def __init__(
        self, interactions: Interactions, options: AlsOptions, on_progress: Callable[[TrainingProgress], None] | None
    ) -> None:
        self.interactions = interactions
        self.options = options
        self._penalty = Penalty(
            options.unobserved_weight_for(interactions.n_users, interactions.n_items, interactions.n_entries),
            options.regularization,
            options.regularization_exponent,
        )
        self.pool = Threads(options.threads)
        self._empty = empty_in(options.scratch)
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._half = 0
        self._halves = 0
        self._losses: list[float] = []
        self._last: Epoch | None = None

    def train(
        self, initial_items: Vectors | None, checkpoint: Checkpoint | None, on_epoch: OnEpoch | None
    ) -> Embeddings:
        shape = (self.interactions.n_items, self.options.factors)
        if initial_items is not None and initial_items.shape != shape:
            raise ValueError(f"initial_items has the shape {initial_items.shape}; expected {shape}")

        def first() -> Vectors:
            if initial_items is None:
                return random_items(shape[0], self.options)
            return initial_items.astype(np.float32, order="C")

        saved = None
        if checkpoint is not None:
            # Nothing holds the first vectors while those of the file are read: trainer.memory counts them once.
            checkpoint.bind(self.interactions, self.options, self._penalty.unobserved_weight, first())
            saved = checkpoint.load()
        if saved is None:
            items = first()
            before = items.copy() if self.options.momentum > 0 else None
        else:
            items, before, self._losses = saved.item_vectors, saved.items_before, list(saved.losses)
        self._halves = 2 * (self.options.epochs - len(self._losses)) + 1
        users = self._empty((self.interactions.n_users, self.options.factors), np.float32)
        for epoch in range(len(self._losses) + 1, self.options.epochs + 1):
            items, before = self._epoch(epoch, users, items, before)
            chosen = on_epoch(self._last) if on_epoch is not None and self._last is not None else None
            if chosen is not None:
                items = chosen.copy()
                self._halves = self._half + 1
                break
            # After the hook, whose state goes along: whoever goes on need not measure this epoch again.
            if checkpoint is not None:
                checkpoint.save(Saved(items, before, tuple(self._losses)))
            self._report(0.0)
        table = rotated(items, self._gram(items), self.pool)
        self._solve("user", table, EXACT, users)
        losses = tuple(self._losses)
        return Embeddings(users, items, table.spectrum, self._penalty.unobserved_weight, self.options, losses)

    def _epoch(
        self, epoch: int, users: Vectors, items: Vectors, before: Vectors | None
    ) -> tuple[Vectors, Vectors | None]:
        """Solve users, then items; returns the items, and with momentum those before, in the same basis.

        Overwrites all arrays. `before` is where momentum starts from; without momentum there is none.
        """
        started = time.monotonic()
        is_last = epoch == self.options.epochs
        tolerance = EXACT if is_last else max(self.options.tolerance, EXACT)
        fixed = items
        if before is not None:
            extrapolate(before, items, share_of_last_step(self._losses, self.options.momentum), self.pool)
            fixed = before
        item_table = self._table(fixed, is_last)
        by_user = self._solve("user", item_table, tolerance, users)
        user_table = self._table(users, is_last)
        by_item = self._solve("item", user_table, tolerance, fixed)
        if before is not None:
            rotate(items, item_table.rotation @ user_table.rotation, self.pool)
        self._last = Epoch(
            epoch=epoch,
            observed=by_item.observed,
            unobserved=by_item.unobserved,
            penalty=by_user.penalty + by_item.penalty,
            seconds=time.monotonic() - started,
            multiply_adds=by_user.multiply_adds + by_item.multiply_adds,
            item_vectors=fixed,
            _users=users,
            _rotation=np.eye(users.shape[1], dtype=np.float32) if is_last else user_table.rotation,
        )
        if not np.isfinite(self._last.loss):
            raise TrainingDiverged(self._advice(f"the loss is {self._last.loss}"))
        self._losses.append(self._last.loss)
        return fixed, None if before is None else items

    def _table(self, vectors: Vectors, is_last: bool) -> Table:
        """In 16 bits; in the last epoch the vectors themselves, rotated in place."""
        matrix = self._gram(vectors)
        return rotated(vectors, matrix, self.pool) if is_last else packed(vectors, matrix, self.pool, self._empty)

    def _gram(self, vectors: Vectors) -> NDArray[np.float64]:
        matrix = gram(vectors, self.pool)
        if not np.isfinite(matrix).all():
            raise TrainingDiverged(self._advice("the Gram matrix is not finite"))
        return matrix

    def _solve(self, side: str, table: Table, tolerance: float, out: Vectors) -> Solved:
        rows = self.interactions.by_user if side == "user" else self.interactions.by_item
        try:
            solved = solve_side(rows, table, self._penalty, tolerance, out, self.pool, self._report)
        except RowNotFinite as error:
            ids = self.interactions.user_ids if side == "user" else self.interactions.item_ids
            raise TrainingDiverged(self._advice(f"the vector of {side} {ids[error.row]!r} is not finite")) from None
        self._half += 1
        return solved

    def _report(self, share_of_half: float) -> None:
        if self._on_progress is not None:
            done = min(1.0, (self._half + share_of_half) / self._halves)
            seconds = time.monotonic() - self._started
            self._on_progress(TrainingProgress(done, self.options.epochs, self._last, seconds))

    def _advice(self, found: str) -> str:
        weights = np.abs(self.interactions.by_user.values)
        epoch = len(self._losses) + 1
        where = f"epoch {epoch}" if epoch <= self.options.epochs else "the last solve of the users"
        cause = (
            f"the largest event weight is {weights.max(initial=0):g} and the regularization "
            f"{self.options.regularization:g}: weights should be of the order of 1; lower them, or raise "
            "--regularization"
        )
        if self.options.regularization == 0:
            cause = "without regularization some vectors have no single solution: raise --regularization"
        return f"training diverged in {where}: {found}; {cause}"
