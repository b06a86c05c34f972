"""Histories that grow, against dictionaries: what is added, what stays, and what is left out for which reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import growth
from trainer.growth import NewEntries, Support, among_first, grow, grown_ages
from trainer.interactions import Csr

NOTHING_LEFT_OUT = dict.fromkeys(growth.REASONS, 0)


def csr_of(rows, n_columns):
    """From a dictionary of columns and values for each row."""
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    entries = [(column, row[column]) for row in rows for column in sorted(row)]
    columns, values = zip(*entries, strict=True) if entries else ((), ())
    return Csr(indptr, np.array(columns, dtype=np.int32), np.array(values, dtype=np.float32), n_columns=n_columns)


def rows_of(csr):
    return [dict(zip(*(each.tolist() for each in csr.row(row)), strict=True)) for row in range(csr.n_rows)]


def new_of(entries, user_rows, item_rows, *, silent_users=(), silent_items=()):
    """New entries (user, item, value) in rows of the events; what is silent is known and has a vector of zeros."""
    users, items, values = zip(*entries, strict=True) if entries else ((), (), ())
    user_rows, item_rows = np.array(user_rows, dtype=np.int32), np.array(item_rows, dtype=np.int32)
    return NewEntries(
        users=np.array(users, dtype=np.int32),
        items=np.array(items, dtype=np.int32),
        values=np.array(values, dtype=np.float32),
        user_rows=user_rows,
        item_rows=item_rows,
        user_tells=(user_rows >= 0) & ~np.isin(np.arange(len(user_rows)), silent_users),
        item_tells=(item_rows >= 0) & ~np.isin(np.arange(len(item_rows)), silent_items),
    )


HISTORIES = csr_of([{0: 1.0, 2: 2.0}, {}, {1: -0.5}], 3)


def test_new_users_and_items_come_behind_those_of_the_release():
    # Events: users 0 (new), 1 (row 2); items 0 (row 2), 1 (new), 2 (new).
    new = new_of([(0, 0, 1), (0, 2, 3), (1, 1, 4), (1, 2, 5)], [-1, 2], [2, -1, -1])
    grown = grow(HISTORIES, new, Support())
    assert grown.user_rows.tolist() == [3, 2]
    assert grown.item_rows.tolist() == [2, 3, 4]
    assert rows_of(grown.by_user) == [{0: 1, 2: 2}, {}, {1: -0.5, 3: 4, 4: 5}, {2: 1, 4: 3}]
    assert rows_of(grown.by_new_item) == [{2: 4}, {2: 5, 3: 3}]
    assert grown.changed.tolist() == [3]
    assert grown.left_out == NOTHING_LEFT_OUT
    assert (grown.by_user.n_columns, grown.by_new_item.n_columns) == (5, 4)


def test_what_came_since_is_newer_than_all_that_a_user_had():
    # Events: users 0 (new), 1 (row 2), 2 (row 0); items 0 (row 2), 1 (new), 2 (new). User 1 took item 2 first.
    entries = [(0, 0, 1), (0, 2, 3), (1, 1, 4), (1, 2, 5), (2, 2, 1)]
    new = new_of(entries, [-1, 2, 0], [2, -1, -1])
    grown = grow(HISTORIES, new, Support())
    old_ages, new_ages = np.array([7, 65_535, 3], dtype=np.uint16), np.array([0, 0, 0, 1, 70_000])
    ages = grown_ages(HISTORIES, old_ages, new, new_ages, grown)
    assert ages.dtype == np.uint16
    as_rows = Csr(grown.by_user.indptr, grown.by_user.indices, ages.astype(np.float32), n_columns=5)
    assert rows_of(as_rows) == [{0: 65_535, 2: 65_535, 4: 65_535}, {}, {1: 5, 3: 0, 4: 1}, {2: 0, 4: 0}]


def test_an_item_that_nobody_with_a_vector_likes_is_left_out_and_so_is_who_has_nothing_else():
    # User 0 is new and likes only new items; user 1 is known and dislikes item 1.
    new = new_of([(0, 0, 1), (0, 1, 1), (1, 1, -1)], [-1, 0], [-1, -1])
    grown = grow(HISTORIES, new, Support())
    assert grown.item_rows.tolist() == [-1, -1]
    assert grown.user_rows.tolist() == [-1, 0]
    assert grown.left_out == {**NOTHING_LEFT_OUT, "items_without_evidence": 2, "users_without_items": 1}
    assert not grown.is_kept.any()
    assert rows_of(grown.by_user) == rows_of(HISTORIES)


def test_an_unknown_user_who_likes_a_known_item_is_evidence():
    new = new_of([(0, 0, 1), (0, 1, 1)], [-1], [1, -1])
    grown = grow(HISTORIES, new, Support())
    assert grown.item_rows.tolist() == [1, 3]
    assert rows_of(grown.by_new_item) == [{3: 1}]


@pytest.mark.parametrize(("value", "silent_items"), [(-1, ()), (1, (0,))])
def test_a_dislike_or_an_item_whose_vector_is_zero_is_none(value, silent_items):
    new = new_of([(0, 0, value), (0, 1, 1)], [-1], [1, -1], silent_items=silent_items)
    grown = grow(HISTORIES, new, Support())
    assert grown.item_rows.tolist() == [1, -1]
    assert grown.user_rows.tolist() == [3]


def test_a_known_user_without_a_vector_is_no_evidence_until_he_likes_something():
    silent = new_of([(0, 1, 1)], [2], [1, -1], silent_users=(0,))
    assert grow(HISTORIES, silent, Support()).item_rows.tolist() == [1, -1]
    speaks = new_of([(0, 0, 1), (0, 1, 1)], [2], [0, -1], silent_users=(0,))
    assert grow(HISTORIES, speaks, Support()).item_rows.tolist() == [0, 3]


def test_support_counts_new_users_and_items_only_and_is_asked_until_all_have_it():
    # Item 2 (new) has users 0 and 1; user 1 (new) has items 1 and 2, of which item 1 (new) has him alone.
    entries = [(0, 2, 1), (1, 1, 1), (1, 2, 1), (2, 0, 1)]
    new = new_of(entries, [0, -1, 1], [1, -1, -1])
    grown = grow(HISTORIES, new, Support(min_user_items=2, min_item_users=2))
    # Item 1 goes, then user 1, who has one item left, then item 2; users and items of the release need nothing.
    assert grown.left_out == {**NOTHING_LEFT_OUT, "items_with_few_users": 2, "users_with_few_items": 1}
    assert grown.is_kept.tolist() == [False, False, False, True]
    assert rows_of(grown.by_user) == [{0: 1, 2: 2}, {1: 1}, {1: -0.5}]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_merging_is_that_of_dictionaries_however_many_users_are_merged_at_a_time(data):
    n_old, n_new, n_items, n_more = (data.draw(st.integers(0, 6)) for _ in range(4))
    value = st.floats(0.5, 2, width=32)
    old = [
        data.draw(st.dictionaries(st.integers(0, max(0, n_items - 1)), value)) if n_items else {} for _ in range(n_old)
    ]
    n_columns = n_items + n_more
    pairs = st.tuples(st.integers(0, max(0, n_old + n_new - 1)), st.integers(0, max(0, n_columns - 1)))
    chosen = sorted(data.draw(st.sets(pairs))) if n_old + n_new and n_columns else []
    entries = [(u, i, 1.5) for u, i in chosen if u >= n_old or i not in old[u]]
    users = [row if row < n_old else -1 for row in range(n_old + n_new)]
    items = [row if row < n_items else -1 for row in range(n_columns)]
    new = new_of(entries, users, items)
    before, growth._MERGED_USERS = growth._MERGED_USERS, data.draw(st.integers(1, 4))
    try:
        grown = grow(csr_of(old, n_items), new, Support())
    finally:
        growth._MERGED_USERS = before
    expected = [dict(row) for row in old] + [{} for _ in range(grown.by_user.n_rows - n_old)]
    for (user, item, weight), kept in zip(entries, grown.is_kept.tolist(), strict=True):
        assert kept == (grown.user_rows[user] >= 0 and grown.item_rows[item] >= 0)
        if kept:
            expected[grown.user_rows[user]][int(grown.item_rows[item])] = weight
    assert rows_of(grown.by_user) == expected
    for row in range(grown.by_user.n_rows):
        assert (np.diff(grown.by_user.row(row)[0]) > 0).all()
    turned = grown.by_user.transposed()
    assert rows_of(grown.by_new_item) == rows_of(turned)[n_items:]


def test_the_entries_of_the_first_columns_alone():
    rows = csr_of([{0: 1.0, 3: 2.0}, {}, {2: 3.0, 3: 4.0}], 4)
    assert rows_of(among_first(rows, 3)) == [{0: 1}, {}, {2: 3}]
