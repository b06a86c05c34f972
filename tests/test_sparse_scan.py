"""Sums of rows and their best items against the definition; once more with the JIT off."""

from __future__ import annotations

import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st
from made_recommender import made_memory

from engine.sparse_scan import UNTOUCHED, add_products, add_rows, take_best
from engine.vector_table import NO_SCALES

N_ITEMS = 40
NOTHING = np.empty(0, dtype=np.int32)
ALL = np.empty(0, dtype=bool)
small = st.integers(0, 1000)


def summed(memory, rows, weights):
    """Scratch after adding, and the items it touches."""
    scores, touched = np.full(N_ITEMS, UNTOUCHED, dtype=np.float32), np.empty(N_ITEMS, dtype=np.int32)
    size = add_rows(memory.indptr, memory.items, memory.weights, rows, weights, scores, touched, 0)
    return scores, touched[:size]


def drawn(seed):
    """A memory and a bag, whose rows may repeat."""
    generator = np.random.default_rng(seed)
    memory = made_memory(15, N_ITEMS, 9, seed)
    rows = generator.integers(0, 15, generator.integers(0, 6)).astype(np.int32)
    return memory, rows, generator.integers(-2, 4, len(rows)).astype(np.float32)


@given(small)
def test_sums_are_those_of_the_weighted_rows_and_only_what_a_row_names_is_touched(seed):
    memory, rows, weights = drawn(seed)
    scores, touched = summed(memory, rows, weights)
    expected, named = np.zeros(N_ITEMS), set()
    for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
        for item, entry in zip(*memory.row(row), strict=True):
            expected[item] += weight * entry
            named.add(int(item))
    assert sorted(touched.tolist()) == sorted(named)
    np.testing.assert_array_equal(scores[sorted(named)], expected[sorted(named)])
    others = np.setdiff1d(np.arange(N_ITEMS), sorted(named))
    assert (scores[others] == UNTOUCHED).all()


@given(small, st.integers(1, 50), st.booleans(), st.booleans())
def test_the_best_are_those_of_a_stable_sort_of_what_may_come_back_and_the_scratch_is_left_as_it_was(
    seed, k, is_all, is_masked
):
    generator = np.random.default_rng(seed)
    scores, touched = summed(*drawn(seed))
    allowed = generator.random(N_ITEMS) < 0.7 if is_masked else ALL
    excluded = np.sort(generator.choice(N_ITEMS, 5, replace=False)).astype(np.int32)
    expected = np.where(scores == UNTOUCHED, 0.0 if is_all else -np.inf, scores)
    expected[excluded] = -np.inf
    if is_masked:
        expected[~allowed] = -np.inf
    rows, best = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
    size = take_best(scores, touched, allowed, excluded, is_all, rows, best)
    assert rows[:size].tolist() == reference.best_rows(expected, k)
    np.testing.assert_array_equal(best[:size], expected[rows[:size]])
    assert (scores == UNTOUCHED).all()


def test_products_are_added_to_what_is_touched_alone():
    generator = np.random.default_rng(0)
    vectors = generator.integers(-3, 4, size=(N_ITEMS, 6)).astype(np.float32)
    query = generator.integers(-3, 4, size=6).astype(np.float32)
    scores, touched = summed(*drawn(7))
    before = scores.copy()
    add_products(vectors, NO_SCALES, query, touched, scores)
    assert len(touched)
    np.testing.assert_array_equal(scores[touched], before[touched] + (vectors @ query)[touched])
    others = np.setdiff1d(np.arange(N_ITEMS), touched)
    assert (scores[others] == UNTOUCHED).all()
