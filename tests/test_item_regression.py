from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_contexts import N_ITEMS, contexts_as_lists, contexts_from, full, listed, random_contexts

from engine.errors import UsageError
from trainer import cooccurrence, item_regression, regression_systems
from trainer.errors import TrainingDiverged
from trainer.item_neighbours import NeighbourSettings, item_neighbours
from trainer.item_regression import RegressionSettings
from trainer.threads import Threads


def regressed(contexts, rules, threads=1, on_progress=None):
    with Threads(threads) as pool:
        return item_regression.item_regression(contexts, rules, pool, on_progress)


def by_definition(contexts, rules, candidates_of):
    """B, sources by targets, from least squares of the contexts themselves."""
    rows = reference.design(listed(contexts), contexts.n_items)
    weights = (rows**2).sum(axis=0)
    mean = weights[weights > 0].mean() if weights.any() else 0.0
    nu = rules.regularization_exponent
    penalties = np.array([rules.regularization * mean ** (1 - nu) * n**nu if n > 0 else 0.0 for n in weights])
    wanted = np.zeros((contexts.n_items, contexts.n_items))
    for target in range(contexts.n_items):
        candidates = candidates_of(target)
        if len(candidates):
            wanted[candidates, target] = reference.ridge_weights(rows, candidates, target, penalties)
    return wanted


@settings(max_examples=60, deadline=None)
@given(
    made=contexts_as_lists,
    regularization=st.sampled_from([0.05, 1.0]),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_weights_are_the_least_squares_of_the_contexts(made, regularization, exponent):
    contexts = contexts_from(made)
    rules = RegressionSettings(
        candidates=N_ITEMS, neighbours=N_ITEMS, regularization=regularization, regularization_exponent=exponent
    )
    together = reference.cooccurrence(listed(contexts), N_ITEMS) > 0
    wanted = by_definition(contexts, rules, lambda target: np.flatnonzero(together[target]))
    np.testing.assert_allclose(full(regressed(contexts, rules)), wanted, atol=1e-5)


@pytest.mark.parametrize("room", [1, 700, 1 << 28])
def test_few_candidates_are_those_of_the_largest_cosine_in_however_many_groups(room, monkeypatch):
    monkeypatch.setattr(regression_systems, "_ROOM_FLOATS", room)
    monkeypatch.setattr(regression_systems, "_SOLVE_TARGETS", 7)
    contexts = random_contexts(250, 40, seed=4)
    rules = RegressionSettings(candidates=6, shrinkage=2.0, neighbours=40, regularization=0.2)
    with Threads(1) as pool:
        nearest = item_neighbours(contexts, NeighbourSettings(neighbours=6, shrinkage=2.0), pool)
    found = full(regressed(contexts, rules, threads=2))
    np.testing.assert_allclose(found, by_definition(contexts, rules, lambda target: nearest.row(target)[0]), atol=1e-5)
    assert (found < 0).any()
    assert (found > 0).any()


def test_with_all_items_as_candidates_it_is_ease():
    contexts = random_contexts(600, 25, seed=5, most=12)
    rows = reference.design(listed(contexts), 25)
    assert (rows.T @ rows > 0).all()
    rules = RegressionSettings(candidates=24, neighbours=24, regularization=0.3)
    penalty = 0.3 * np.trace(rows.T @ rows) / 25
    np.testing.assert_allclose(full(regressed(contexts, rules)), reference.ease(rows, penalty), atol=1e-4)


def test_one_pair_has_the_weight_that_one_finds_by_hand():
    made = [((0, 1), (0, 1), 1.0)] * 3 + [((0,), (0,), 1.0), ((2,), (0,), 4.0)]
    contexts = contexts_from(made, n_items=4)  # weights 4, 3, 4; item 3 in no context
    found = full(regressed(contexts, RegressionSettings(regularization=1.0, regularization_exponent=1.0)))
    expected = np.zeros((4, 4))
    expected[0, 1], expected[1, 0] = 3 / (4 + 4), 3 / (3 + 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_row_keeps_its_strongest_weights_of_either_sign(monkeypatch):
    monkeypatch.setattr(item_regression, "_CUT_ROWS", 7)
    contexts = random_contexts(250, 40, seed=6)
    rules = {"candidates": 12, "regularization": 0.1}
    whole = full(regressed(contexts, RegressionSettings(neighbours=40, **rules)))
    cut = regressed(contexts, RegressionSettings(neighbours=5, **rules), threads=2)
    np.testing.assert_array_equal(full(cut), reference.only_strongest(whole, 5))
    assert (cut.values < 0).any()


def test_the_bits_are_the_same_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(cooccurrence, "_BLOCK_PAIRS", 60)
    monkeypatch.setattr(regression_systems, "_SOLVE_TARGETS", 3)
    contexts = random_contexts(300, 40, seed=7)
    rules = RegressionSettings(candidates=9, neighbours=6)
    one = regressed(contexts, rules)
    for threads in (2, 3):
        for mine, theirs in zip(vars(one).values(), vars(regressed(contexts, rules, threads)).values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_no_contexts_and_no_items_have_empty_rows():
    assert regressed(contexts_from([], n_items=3), RegressionSettings()).indptr.tolist() == [0, 0, 0, 0]
    assert regressed(contexts_from([], n_items=0), RegressionSettings()).n_rows == 0


def test_progress_rises_to_the_whole_over_all_groups(monkeypatch):
    monkeypatch.setattr(regression_systems, "_ROOM_FLOATS", 300)
    told = []
    regressed(random_contexts(300, 40, seed=8), RegressionSettings(candidates=9), 2, told.append)
    assert told == sorted(told)
    assert len(told) > 10
    assert told[-1] == pytest.approx(1.0)


def test_a_target_without_a_solution_is_an_error_that_names_it():
    made = [((3, 4), (0, 0), 1e6), ((0, 1, 2), (0, 0, 0), 1.0)]  # items 0 to 2 are the same, and hardly held back
    rules = RegressionSettings(regularization=1e-6, regularization_exponent=2.0)
    with pytest.raises(TrainingDiverged, match=r"item row 0 has no solution.*raise the regularization, which is 1e-06"):
        regressed(contexts_from(made), rules)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"candidates": 0}, "candidates is 0; expected from 1"),
        ({"shrinkage": -1.0}, "shrinkage is -1.0; expected from 0"),
        ({"neighbours": 0}, "neighbours is 0; expected 1 or more"),
        ({"regularization": 0.0}, "regularization is 0.0; expected from 0.000001"),
        ({"regularization_exponent": 3.0}, "regularization_exponent is 3.0; expected from 0 to 2"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        RegressionSettings(**wrong)
