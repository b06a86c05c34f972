"""Small made-up interactions, without files."""

from __future__ import annotations

import numpy as np

from engine.ids import IdTable
from trainer.cleaning import Report
from trainer.interactions import Csr, Interactions


def interactions_of(matrix: np.ndarray) -> Interactions:
    """From a full matrix of values, users by items: 0 is no entry, below 0 negative feedback."""
    n_users, n_items = matrix.shape
    users, items = np.nonzero(matrix)
    indptr = np.concatenate(([0], np.cumsum((matrix != 0).sum(axis=1)))).astype(np.int64)
    by_user = Csr(indptr, items.astype(np.int32), matrix[users, items].astype(np.float32), n_columns=n_items)
    return Interactions(
        user_ids=IdTable.of([f"user {row}" for row in range(n_users)]),
        item_ids=IdTable.of([f"item {row}" for row in range(n_items)]),
        by_user=by_user,
        by_item=by_user.transposed(),
        counts=np.ones(len(items), dtype=np.int32),
        quantities=np.ones(len(items), dtype=np.float32),
        last_times=np.full(len(items), np.nan),
        baskets=None,
        prices=None,
        report=Report(len(items), len(items), ()),
    )


def random_matrix(n_users: int, n_items: int, seed: int, *, density: float = 0.25, negative: float = 0.0) -> np.ndarray:
    """Random weights, some rows and columns empty."""
    generator = np.random.default_rng(seed)
    matrix = generator.uniform(0.3, 2.0, (n_users, n_items)) * (generator.random((n_users, n_items)) < density)
    matrix[generator.random((n_users, n_items)) < negative] *= -1
    matrix[0] = 0
    matrix[:, -1] = 0
    return matrix
