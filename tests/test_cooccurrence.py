from __future__ import annotations

import threading

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_contexts import N_ITEMS, contexts_as_lists, contexts_from, listed, random_contexts

from engine.errors import UsageError
from trainer import cooccurrence
from trainer.cooccurrence import UNORDERED, ByItem, Order, count
from trainer.threads import Threads

orders = st.builds(
    Order,
    window=st.sampled_from([None, 1, 2, 9]),
    distance_damping=st.sampled_from([0.0, 0.5, 2.0]),
    backward_weight=st.sampled_from([0.0, 0.3, 1.0]),
)


def counted(contexts, order, *, threads=1, on_progress=None):
    """C as a full matrix."""
    blocks = {}
    with Threads(threads) as pool:
        n_blocks = count(contexts, order, pool, blocks.__setitem__, on_progress)
    assert sorted(blocks) == list(range(n_blocks))
    matrix, next_row = np.zeros((contexts.n_items, contexts.n_items)), 0
    for block in range(n_blocks):
        rows = blocks[block]
        assert rows.first == next_row
        for r in range(len(rows.indptr) - 1):
            entries = slice(rows.indptr[r], rows.indptr[r + 1])
            assert len(set(rows.indices[entries].tolist())) == len(rows.indices[entries])
            assert (rows.counts[entries] > 0).all()
            matrix[next_row, rows.indices[entries]] = rows.counts[entries]
            next_row += 1
    assert next_row == contexts.n_items
    return matrix


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks of little data, as large shops have them."""
    monkeypatch.setattr(cooccurrence, "_BLOCK_PAIRS", 60)


@settings(max_examples=150, deadline=None)
@given(made=contexts_as_lists, order=orders)
def test_counts_are_those_of_the_definition(made, order):
    contexts = contexts_from(made)
    np.testing.assert_allclose(
        counted(contexts, order), reference.cooccurrence(listed(contexts), N_ITEMS, **vars(order)), rtol=1e-12
    )


@settings(max_examples=50, deadline=None)
@given(made=contexts_as_lists, order=orders, randomness=st.randoms(use_true_random=False))
def test_contexts_may_stand_in_any_order(made, order, randomness):
    shuffled = randomness.sample(made, len(made))
    np.testing.assert_allclose(counted(contexts_from(shuffled), order), counted(contexts_from(made), order), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(made=contexts_as_lists, order=orders)
def test_counts_without_an_order_are_symmetric_and_what_came_at_once_has_none(made, order):
    contexts = contexts_from(made)
    plain = counted(contexts, UNORDERED)
    np.testing.assert_array_equal(plain, plain.T)
    at_once = contexts_from([(items, [3] * len(items), weight) for items, _, weight in made])
    np.testing.assert_allclose(counted(at_once, order), plain, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(made=contexts_as_lists, window=st.sampled_from([None, 1, 3]))
def test_counting_only_backwards_in_time_turned_round_is_counting_forwards(made, window):
    order = Order(window=window, distance_damping=1.0, backward_weight=0.0)
    turned = contexts_from([(items, [4 - place for place in places], weight) for items, places, weight in made])
    np.testing.assert_allclose(counted(turned, order), counted(contexts_from(made), order).T, rtol=1e-12)


def test_a_session_gives_the_numbers_that_one_adds_up_by_hand():
    contexts = contexts_from([((0, 1, 2), (0, 1, 3), 1.0), ((0, 1), (0, 0), 0.5)], n_items=4)
    found = counted(contexts, Order(window=2, distance_damping=1.0, backward_weight=0.25))
    expected = [[0, 1.5, 0, 0], [0.25 + 0.5, 0, 0.5, 0], [0, 0.125, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(found, expected)


def test_the_bits_are_the_same_for_any_number_of_threads_and_any_blocks(small_blocks, monkeypatch):
    contexts = random_contexts(300, 40, seed=1)
    order = Order(window=3, distance_damping=0.7, backward_weight=0.4)
    one = counted(contexts, order)
    for threads in (2, 3):
        np.testing.assert_array_equal(counted(contexts, order, threads=threads), one)
    monkeypatch.setattr(cooccurrence, "_BLOCK_PAIRS", 1 << 20)
    np.testing.assert_array_equal(counted(contexts, order), one)


def test_blocks_cost_about_the_same_and_cover_all_rows(small_blocks):
    by_item = ByItem.of(random_contexts(300, 200, seed=2))
    bounds = by_item.blocks()
    assert bounds[0] == 0
    assert bounds[-1] == 200
    costs = np.add.reduceat(by_item.costs, bounds[:-1])
    assert len(costs) > 30
    assert (costs <= 60 + np.maximum.reduceat(by_item.costs, bounds[:-1])).all()
    assert len(by_item.blocks(np.full(200, 600))) > len(bounds)


def test_no_contexts_and_no_items_count_nothing():
    assert not counted(contexts_from([], n_items=3), UNORDERED).any()
    assert counted(contexts_from([], n_items=0), UNORDERED).shape == (0, 0)


def test_a_weight_that_fades_to_nothing_leaves_no_entry():
    contexts = contexts_from([((0, 1), (0, 0), 0.0), ((1, 2), (0, 1), 1e-38)], n_items=3)
    assert np.count_nonzero(counted(contexts, Order(backward_weight=0.0))) == 1


def test_progress_rises_to_the_whole_and_an_interruption_ends_the_work(small_blocks):
    contexts, told = random_contexts(300, 40, seed=3), []
    counted(contexts, UNORDERED, threads=2, on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    taken, gate = [], threading.Event()

    def take(block, rows):
        taken.append(block)
        gate.wait()

    def interrupt(share):
        gate.set()
        raise KeyboardInterrupt

    with Threads(2) as pool, pytest.raises(KeyboardInterrupt):
        count(contexts, UNORDERED, pool, take, interrupt)
    assert len(taken) < len(ByItem.of(contexts).blocks()) - 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 0}, "window is 0; expected 1 or more"),
        ({"distance_damping": -1.0}, "distance_damping is -1.0; expected from 0 to 8"),
        ({"backward_weight": float("nan")}, "backward_weight is nan; expected from 0"),
    ],
)
def test_an_order_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        Order(**wrong)
