"""Histories that grew: entries since a release beside those it holds, rows of users and items kept, new ones behind.

What the release has already stays: rows, entries and their values. Of the events since, a pair of user and item that it
does not have becomes an entry; one that it has may be the same events once more, and is left as it is. Arrays alone:
files are read, vectors solved and releases written elsewhere (trainer.new_items). Checked by tests/test_growth.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.evidence import OLDEST
from trainer.interactions import Csr

_MERGED_USERS = 1 << 16
"""Users whose entries are merged at a time."""

ITEMS_WITH_FEW_USERS = "items_with_few_users"
ITEMS_WITHOUT_EVIDENCE = "items_without_evidence"
USERS_WITH_FEW_ITEMS = "users_with_few_items"
USERS_WITHOUT_ITEMS = "users_without_items"
REASONS = (ITEMS_WITH_FEW_USERS, ITEMS_WITHOUT_EVIDENCE, USERS_WITH_FEW_ITEMS, USERS_WITHOUT_ITEMS)
"""Why new users and items are left out; without evidence: nobody who likes the item has a vector, or gets one."""


@dataclass(frozen=True)
class NewEntries:
    """Entries that a release does not have, in the rows of the events: int32 (entries,), values float32.

    `user_rows` int32 (users of the events,) and `item_rows` are the rows in the release, -1 where it has none;
    `user_tells` and `item_tells` bool say which of them have a vector there that is not zero.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    values: NDArray[np.float32]
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    user_tells: NDArray[np.bool_]
    item_tells: NDArray[np.bool_]


@dataclass(frozen=True)
class Support:
    """What a new user or item must have, as in training: least numbers of entries."""

    min_user_items: int = 1
    min_item_users: int = 1


@dataclass(frozen=True)
class Growth:
    """What the events add.

    user_rows and item_rows int32: rows of the events to rows of the grown release, new ones behind those of the
    release in the order of the events, -1 where left out. by_user: all entries. by_new_item: those of the new items, a
    row each. changed and touched int64: the users, new ones included, with a new entry of an item that the release has,
    and with one of a new item. is_kept bool: which of the new entries are part of it. left_out: how many new users and
    items are not, by reason.
    """

    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    by_user: Csr
    by_new_item: Csr
    changed: NDArray[np.int64]
    touched: NDArray[np.int64]
    is_kept: NDArray[np.bool_]
    left_out: Mapping[str, int]


def grow(histories: Csr, new: NewEntries, support: Support, passes: int = 1) -> Growth:
    """Add new entries to the histories of a release, users by items; `passes` are those that give vectors to items."""
    is_kept_user, is_kept_item, left_out = _kept(new, support, passes)
    user_rows = _numbered(new.user_rows, is_kept_user, histories.n_rows)
    item_rows = _numbered(new.item_rows, is_kept_item, histories.n_columns)
    is_kept = is_kept_user[new.users] & is_kept_item[new.items]
    users, items, values = user_rows[new.users[is_kept]], item_rows[new.items[is_kept]], new.values[is_kept]
    n_users = max(histories.n_rows, int(user_rows.max(initial=-1)) + 1)
    n_items = max(histories.n_columns, int(item_rows.max(initial=-1)) + 1)
    of_new = np.flatnonzero(items >= histories.n_columns)
    of_new = of_new[np.lexsort((users[of_new], items[of_new]))]
    sizes = np.bincount(items[of_new] - histories.n_columns, minlength=n_items - histories.n_columns)
    starts = np.append(0, np.cumsum(sizes)).astype(np.int64)
    return Growth(
        user_rows=user_rows,
        item_rows=item_rows,
        by_user=_merged(histories, users, items, values, n_users, n_items),
        by_new_item=Csr(starts, users[of_new], values[of_new], n_columns=n_users),
        changed=np.unique(users[items < histories.n_columns]).astype(np.int64),
        touched=np.unique(users[of_new]).astype(np.int64),
        is_kept=is_kept,
        left_out=left_out,
    )


def grown_ages(
    histories: Csr, ages: NDArray[np.uint16], new: NewEntries, new_ages: NDArray[np.int32], growth: Growth
) -> NDArray[np.uint16]:
    """How old each entry of the grown histories is (engine.evidence): what a user has got since is newer than all else.

    ages: of the histories' entries; new_ages int32, in the order of the new entries: among the events.
    """
    users, items = growth.user_rows[new.users[growth.is_kept]], growth.item_rows[new.items[growth.is_kept]]
    since = new_ages[growth.is_kept]
    moments = np.zeros(growth.by_user.n_rows, dtype=np.int64)
    np.maximum.at(moments, users, since + 1)
    older = ages + np.repeat(moments[: histories.n_rows], np.diff(histories.indptr))
    # Whole numbers up to 65,535 are exact in float32, so ages are merged as values are.
    before = Csr(histories.indptr, histories.indices, np.minimum(older, OLDEST).astype(np.float32), histories.n_columns)
    sizes = growth.by_user.n_rows, growth.by_user.n_columns
    merged = _merged(before, users, items, np.minimum(since, OLDEST).astype(np.float32), *sizes)
    return merged.values.astype(np.uint16)


def _kept(
    new: NewEntries, support: Support, passes: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], dict[str, int]]:
    """Which users and items of the events stay, and how many do not, by reason; those of the release always stay.

    A new item needs a user who likes it and has a vector, or who likes an item that has one or gets one in so many
    passes of trainer.grown_vectors: without, its own would be zero. What is left out may take the support of others
    away, so the rules are asked until all of them hold.
    """
    users, items, liked = new.users, new.items, new.values > 0
    is_kept_user = np.ones(len(new.user_rows), dtype=np.bool_)
    is_kept_item = np.ones(len(new.item_rows), dtype=np.bool_)

    def left() -> NDArray[np.bool_]:
        return is_kept_user[users] & is_kept_item[items]

    def drop(is_kept: NDArray[np.bool_], is_dropped: NDArray[np.bool_]) -> int:
        is_dropped &= is_kept
        is_kept[is_dropped] = False
        return int(np.count_nonzero(is_dropped))

    def few_users(least: int) -> NDArray[np.bool_]:
        return (new.item_rows < 0) & (np.bincount(items[left()], minlength=len(is_kept_item)) < least)

    def few_items(least: int) -> NDArray[np.bool_]:
        return (new.user_rows < 0) & (np.bincount(users[left()], minlength=len(is_kept_user)) < least)

    def without_evidence() -> NDArray[np.bool_]:
        user_tells, item_tells, told = new.user_tells.copy(), new.item_tells.copy(), liked & left()
        user_tells[users[told & item_tells[items]]] = True
        for _ in range(passes):
            item_tells[items[told & user_tells[users]]] = True
            user_tells[users[told & item_tells[items]]] = True
        return (new.item_rows < 0) & ~item_tells

    left_out = dict.fromkeys(REASONS, 0)
    while True:
        before = sum(left_out.values())
        left_out[ITEMS_WITH_FEW_USERS] += drop(is_kept_item, few_users(support.min_item_users))
        left_out[ITEMS_WITHOUT_EVIDENCE] += drop(is_kept_item, without_evidence())
        left_out[USERS_WITHOUT_ITEMS] += drop(is_kept_user, few_items(1))
        left_out[USERS_WITH_FEW_ITEMS] += drop(is_kept_user, few_items(support.min_user_items))
        if sum(left_out.values()) == before:
            return is_kept_user, is_kept_item, left_out


def among_first(rows: Csr, n_columns: int) -> Csr:
    """The entries of the first columns alone."""
    kept = rows.indices < n_columns
    sums = np.append(0, np.cumsum(kept))
    return Csr(sums[rows.indptr].astype(np.int64), rows.indices[kept], rows.values[kept], n_columns=n_columns)


def _numbered(rows: NDArray[np.int32], is_kept: NDArray[np.bool_], first: int) -> NDArray[np.int32]:
    """Rows of the release, and those of what is new and kept from `first` on; -1 for the others."""
    numbered = rows.copy()
    is_added = (rows < 0) & is_kept
    numbered[is_added] = np.arange(first, first + np.count_nonzero(is_added))
    return numbered


def _merged(
    histories: Csr,
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
    n_rows: int,
    n_columns: int,
) -> Csr:
    """Both, by user and then item; a block of users at a time, so that nothing else grows with the histories."""
    order = np.lexsort((items, users))
    users, items, values = users[order], items[order], values[order]
    sizes = np.bincount(users, minlength=n_rows)
    sizes[: histories.n_rows] += np.diff(histories.indptr)
    indptr = np.append(0, np.cumsum(sizes)).astype(np.int64)
    merged = Csr(indptr, np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32), n_columns=n_columns)
    for first in range(0, n_rows, _MERGED_USERS):
        last = min(first + _MERGED_USERS, n_rows)
        old_bounds = histories.indptr[np.minimum((first, last), histories.n_rows)]
        old = slice(*old_bounds.tolist())
        new = slice(*np.searchsorted(users, (first, last)).tolist())
        old_rows = np.arange(first, min(last, histories.n_rows))
        old_users = np.repeat(old_rows, np.diff(histories.indptr[first : len(old_rows) + first + 1]))
        both = np.concatenate([histories.indices[old], items[new]])
        # Two runs that rise: a stable sort merges them in one pass.
        place = np.argsort(np.concatenate([old_users, users[new]]) * n_columns + both, kind="stable")
        here = slice(*indptr[[first, last]].tolist())
        merged.indices[here] = both[place]
        merged.values[here] = np.concatenate([histories.values[old], values[new]])[place]
    return merged
