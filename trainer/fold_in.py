"""Vectors of users from their histories, for items that are still in training: what is measured between epochs.

Serving does the same with one row at a time and a release's items (engine.encoders). Checked by tests/test_fold_in.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.row_solver import EXACT
from trainer.eigenbasis import gram, rotated
from trainer.half_epoch import Penalty, solve_side
from trainer.interactions import Csr
from trainer.threads import Threads

Vectors = NDArray[np.float32]


def fold_in(histories: Csr, item_vectors: Vectors, penalty: Penalty, threads: int) -> tuple[Vectors, Vectors]:
    """Users float32 (rows of histories, d), and the items in the basis of these users, a copy.

    Exact, as the last half epoch of a training. Raises trainer.half_epoch.RowNotFinite.
    """
    items = item_vectors.copy()
    users = np.empty((histories.n_rows, items.shape[1]), dtype=np.float32)
    with threadpool_limits(1, "blas"), Threads(threads) as pool:
        solve_side(histories, rotated(items, gram(items, pool), pool), penalty, EXACT, users, pool)
    return users, items
