"""benchmarks/made_sets.py: the made set is what its name and its numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import made_sets
from benchmarks.made_sets import interactions_of, made_set

SHAPE = (4_000, 2_000, 60_000)


@pytest.fixture(scope="module")
def by_user():
    return made_set(*SHAPE, seed=5)


def test_the_set_has_exactly_the_asked_number_of_distinct_pairs(by_user):
    n_users, n_items, n_entries = SHAPE
    assert (by_user.n_rows, by_user.n_columns, by_user.n_entries) == SHAPE
    users = np.repeat(np.arange(n_users), np.diff(by_user.indptr))
    pairs = users * n_items + by_user.indices
    assert len(np.unique(pairs)) == n_entries
    assert (np.diff(pairs) > 0).all()


def test_every_user_and_every_item_has_an_entry(by_user):
    assert np.diff(by_user.indptr).min() >= 1
    assert np.bincount(by_user.indices, minlength=by_user.n_columns).min() >= 1


def test_the_same_seed_gives_the_same_set_and_another_seed_another(by_user):
    again, other = made_set(*SHAPE, seed=5), made_set(*SHAPE, seed=6)
    assert np.array_equal(again.indptr, by_user.indptr)
    assert np.array_equal(again.indices, by_user.indices)
    assert not np.array_equal(other.indices, by_user.indices)


def test_both_sides_have_heavy_tails_and_items_fall_with_their_users(by_user):
    users, items = np.diff(by_user.indptr), np.bincount(by_user.indices)
    assert (np.diff(items) <= 0).all()
    for counts in (users, np.sort(items)):
        top = np.sort(counts)[-len(counts) // 100 :]
        assert top.sum() > 0.05 * counts.sum()
        assert counts.max() > 8 * np.median(counts)


def test_the_entries_have_structure_beyond_activity_and_popularity(monkeypatch):
    def strongest(share):
        """The largest singular value of what is left when activity and popularity are taken out."""
        monkeypatch.setattr(made_sets, "_OWN_SHARE", share)
        drawn = made_set(2_000, 400, 60_000, seed=5)
        full = np.zeros((drawn.n_rows, drawn.n_columns))
        full[np.repeat(np.arange(drawn.n_rows), np.diff(drawn.indptr)), drawn.indices] = 1
        expected = np.outer(full.sum(axis=1), full.sum(axis=0)) / full.sum()
        return np.linalg.norm((full - expected) / np.sqrt(expected), ord=2)

    assert strongest(made_sets._OWN_SHARE) > 1.5 * strongest(0.0)


def test_a_shape_that_cannot_hold_the_entries_is_refused():
    with pytest.raises(ValueError, match="expected from 30 to 50"):
        made_set(20, 10, 51, seed=0)


def test_interactions_of_a_set_hold_its_entries_both_ways(by_user):
    interactions = interactions_of(by_user)
    assert (interactions.n_users, interactions.n_items, interactions.n_entries) == SHAPE
    assert np.array_equal(interactions.by_item.transposed().indices, by_user.indices)
    assert len(interactions.counts) == len(interactions.quantities) == len(interactions.last_times) == SHAPE[2]
