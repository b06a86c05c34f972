"""Vectors for what grew: new items from the users who have them, and all users once more.

The objective of training, over the users and entries of a release and of later events together, with the vectors of
the trained items held where they are:

1. users with new entries of items that have vectors, unknown users among them, are solved against those items;
2. the new items are solved against all users (|U| and their Gram matrix are those of all, old and new), then the users
   who have them against all items, and so on, PASSES times: new items are bought with each other, too;
3. all items are taken to the eigenbasis of their Gram matrix and all users solved from their whole histories, exactly.

Steps 1 and 2 are half epochs of some rows, step 3 is what training ends with: a stored history folds in to the stored
vector. Held against the definition in float64 by tests/test_grown_vectors.py; how many passes, and what they are worth:
docs/decisions/0011-items-without-a-training.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.ids import IdTable
from engine.row_solver import EXACT
from engine.vector_table import VectorTable, table_of
from trainer.eigenbasis import Table, gram, rotate, rotated, standing
from trainer.errors import TrainingDiverged
from trainer.fold_in import fold_in
from trainer.growth import Growth, among_first
from trainer.half_epoch import Penalty, RowNotFinite, solve_side
from trainer.interactions import Csr
from trainer.threads import Threads

Vectors = NDArray[np.float32]

PASSES = 5
"""Of one, two, three, five and nine the first that finds as many new items as more do (benchmarks/new_items.py)."""


@dataclass(frozen=True)
class Trained:
    """Vectors of a release, (users, d) and float32 (items, d) in the eigenbasis of the items, and its penalty."""

    user_vectors: Vectors | VectorTable
    item_vectors: Vectors
    spectrum: Vectors
    penalty: Penalty


def grown_vectors(
    growth: Growth,
    trained: Trained,
    user_ids: IdTable,
    item_ids: IdTable,
    threads: int,
    on_step: Callable[[str], None] = lambda _: None,
    passes: int = PASSES,
) -> tuple[Vectors, Table]:
    """Users float32 (all users, d), and the items, old and new, in the basis of these users, with their spectrum.

    `user_ids` and `item_ids` are those of all, for TrainingDiverged, which names the first that is not finite.
    """
    items = trained.item_vectors
    if len(growth.touched):
        items = _passes(growth, trained, user_ids, item_ids, threads, on_step, passes)
    everybody = np.arange(growth.by_user.n_rows)
    on_step(f"solving {len(everybody):,} users against {len(items):,} items")
    return _users(growth, everybody, items, trained.penalty, user_ids, threads)


def _passes(
    growth: Growth,
    trained: Trained,
    user_ids: IdTable,
    item_ids: IdTable,
    threads: int,
    on_step: Callable[[str], None],
    passes: int,
) -> Vectors:
    """All items, in the basis of the trained ones."""
    items, touched = trained.item_vectors, growth.touched
    with threadpool_limits(1, "blas"), Threads(threads) as pool:
        on_step(f"solving {len(growth.changed):,} users with new entries of items that were trained")
        users, of_others = _known_by_now(growth, trained, user_ids, pool)
        for number in range(1, passes + 1):
            on_step(f"pass {number} of {passes}: {growth.by_new_item.n_rows:,} new items, {len(touched):,} users")
            new_items = _new_items(growth, users, of_others, trained.penalty, item_ids, pool)
            items = np.concatenate([trained.item_vectors, new_items])
            if number < passes:
                users, table = _users(growth, touched, items, trained.penalty, user_ids, threads)
                rotate(users, np.ascontiguousarray(table.rotation.T), pool)
    return items


def _known_by_now(
    growth: Growth, trained: Trained, user_ids: IdTable, pool: Threads
) -> tuple[Vectors, NDArray[np.float64]]:
    """The touched users from their entries with items that have vectors, and the Gram matrix of all the others.

    In the basis of the release's items; zero where there are no such entries.
    """
    users = np.zeros((growth.by_user.n_rows, trained.item_vectors.shape[1]), dtype=np.float32)
    start = 0
    for block in table_of(trained.user_vectors).blocks():
        users[start : start + len(block)] = block
        start += len(block)
    rows = among_first(growth.by_user.selected(growth.changed), len(trained.item_vectors))
    changed = np.empty((len(growth.changed), users.shape[1]), dtype=np.float32)
    with _naming("user", user_ids, growth.changed):
        solve_side(rows, standing(trained.item_vectors, trained.spectrum), trained.penalty, EXACT, changed, pool)
    users[growth.changed] = changed
    del changed  # before the next table
    touched = users[growth.touched]
    users[growth.touched] = 0
    return touched, gram(users, pool)


def _new_items(
    growth: Growth,
    users: Vectors,
    of_others: NDArray[np.float64],
    penalty: Penalty,
    item_ids: IdTable,
    pool: Threads,
) -> Vectors:
    """The new items against the users who have them, which are rotated in place, and the Gram matrix of the others."""
    rows = growth.by_new_item
    rows = Csr(rows.indptr, np.searchsorted(growth.touched, rows.indices).astype(np.int32), rows.values, len(users))
    table = rotated(users, of_others + gram(users, pool), pool)
    items = np.empty((rows.n_rows, users.shape[1]), dtype=np.float32)
    with _naming("item", item_ids, np.arange(len(item_ids) - rows.n_rows, len(item_ids))):
        solve_side(rows, table, penalty, EXACT, items, pool, n_others=growth.by_user.n_rows)
    rotate(items, np.ascontiguousarray(table.rotation.T), pool)
    return items


def _users(
    growth: Growth, which: NDArray[np.int64], items: Vectors, penalty: Penalty, user_ids: IdTable, threads: int
) -> tuple[Vectors, Table]:
    """Some users, rising, from their whole histories, and the items in their basis."""
    everybody = len(which) == growth.by_user.n_rows
    with _naming("user", user_ids, which):
        return fold_in(growth.by_user if everybody else growth.by_user.selected(which), items, penalty, threads)


@contextmanager
def _naming(side: str, ids: IdTable, rows: NDArray[np.int64]) -> Iterator[None]:
    """Says whose vector is not finite; `rows` are those of the ids that are solved."""
    try:
        yield
    except RowNotFinite as error:
        raise TrainingDiverged(
            f"the vector of {side} {ids[int(rows[error.row])]!r}, folded in from the events, is not finite: event "
            "weights should be of the order of 1; train again with lower ones, or a larger --regularization"
        ) from None
