"""Some of the entries of interactions, as interactions of their own.

Without users and items that have no entry left; rows are numbered anew by the rules of trainer.interactions. Which
entries, the caller says; commands cut events instead (trainer.splits). Checked by
tests/test_parts_of_entries.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.ids import IdTable, StringTable
from trainer.cleaning import Report
from trainer.interactions import Baskets, Csr, Interactions, dense_ranks


def part_of_entries(
    interactions: Interactions, kept: NDArray[np.bool_], item_ranks: NDArray[np.int64], report: Report
) -> Interactions:
    """The entries where `kept`, bool (entries,) in the order of `by_user`, which must not all be false.

    `item_ranks` int64 (n_items,) is the order of the items' ids by bytes. Values, counts, quantities, times and prices
    stay; baskets lose the items of other entries, but keep their time, and are gone where fewer than two are left.
    """
    by_user = interactions.by_user
    entries = np.flatnonzero(kept)
    users = np.repeat(np.arange(by_user.n_rows), np.diff(by_user.indptr))[entries]
    items = by_user.indices[entries]
    user_sizes = np.bincount(users, minlength=by_user.n_rows)
    item_sizes = np.bincount(items, minlength=by_user.n_columns)
    user_rows = np.flatnonzero(user_sizes)
    item_rows = np.lexsort((item_ranks, -item_sizes))[: np.count_nonzero(item_sizes)]
    new_users, new_items = _inverse(user_rows, by_user.n_rows), _inverse(item_rows, by_user.n_columns)
    order = np.lexsort((new_items[items], users))
    entries = entries[order]
    indptr = np.append(0, np.cumsum(user_sizes[user_rows])).astype(np.int64)
    ordered = Csr(indptr, new_items[items[order]], by_user.values[entries], n_columns=len(item_rows))
    return Interactions(
        user_ids=IdTable.over(_strings(interactions.user_ids.strings, user_rows)),
        item_ids=IdTable.over(_strings(interactions.item_ids.strings, item_rows)),
        by_user=ordered,
        by_item=ordered.transposed(),
        counts=interactions.counts[entries],
        quantities=interactions.quantities[entries],
        last_times=interactions.last_times[entries],
        baskets=_baskets(interactions, kept, new_users, new_items),
        prices=None if interactions.prices is None else interactions.prices[item_rows],
        report=report,
    )


def _baskets(
    interactions: Interactions, kept: NDArray[np.bool_], new_users: NDArray[np.int32], new_items: NDArray[np.int32]
) -> Baskets | None:
    baskets, by_user = interactions.baskets, interactions.by_user
    if baskets is None:
        return None
    # Entries rise by user, then item: the place of a basket's item among them is found by halving.
    places = np.repeat(np.arange(by_user.n_rows), np.diff(by_user.indptr)) * by_user.n_columns + by_user.indices
    basket_of = np.repeat(np.arange(len(baskets)), np.diff(baskets.indptr))
    wanted = baskets.user_rows.astype(np.int64)[basket_of] * by_user.n_columns + baskets.indices
    stays = kept[np.searchsorted(places, wanted)]
    sizes = np.bincount(basket_of[stays], minlength=len(baskets))
    stays &= sizes[basket_of] > 1
    rows = new_items[baskets.indices[stays]]
    order = np.lexsort((rows, basket_of[stays]))
    left = sizes > 1
    indptr = np.append(0, np.cumsum(sizes[left])).astype(np.int64)
    owners = new_users[baskets.user_rows[left]]
    return Baskets(
        indptr, rows[order], owners, baskets.seconds[left], dense_ranks(indptr, baskets.places[stays][order])
    )


def _inverse(rows: NDArray[np.int64], n: int) -> NDArray[np.int32]:
    """New rows by old ones, -1 where there is none."""
    new = np.full(n, -1, dtype=np.int32)
    new[rows] = np.arange(len(rows), dtype=np.int32)
    return new


def _strings(table: StringTable, rows: NDArray[np.int64]) -> StringTable:
    lengths = np.diff(table.offsets)[rows]
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    places = np.arange(offsets[-1]) + np.repeat(table.offsets[rows] - offsets[:-1], lengths)
    return StringTable(table.data[places], offsets)
