"""Vectors of users from their histories: for items still in training, between epochs, and for items that came later.

Serving does the same with one row at a time and a release's items (engine.encoders). Checked by tests/test_fold_in.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.row_solver import EXACT
from trainer.eigenbasis import Table, gram, rotated
from trainer.half_epoch import Penalty, solve_side
from trainer.interactions import Csr
from trainer.threads import Threads

Vectors = NDArray[np.float32]


def fold_in(histories: Csr, item_vectors: Vectors, penalty: Penalty, threads: int) -> tuple[Vectors, Table]:
    """Users float32 (rows of histories, d), and the items in the basis of these users, a copy with its spectrum.

    Exact, as the last half epoch of a training. Raises trainer.half_epoch.RowNotFinite.
    """
    items = item_vectors.copy()
    users = np.empty((histories.n_rows, items.shape[1]), dtype=np.float32)
    with threadpool_limits(1, "blas"), Threads(threads) as pool:
        table = rotated(items, gram(items, pool), pool)
        solve_side(histories, table, penalty, EXACT, users, pool)
    return users, table
