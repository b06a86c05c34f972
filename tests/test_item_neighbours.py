"""Item neighbours and pair rules against their definitions, with full matrices and one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_contexts import N_ITEMS, contexts_as_lists, contexts_from, full, listed, random_contexts

from engine.errors import UsageError
from trainer import cooccurrence
from trainer import item_neighbours as item_neighbours_module
from trainer.contexts import of_baskets
from trainer.cooccurrence import Order
from trainer.interactions import read_interactions
from trainer.item_neighbours import NeighbourSettings, item_neighbours, pair_rules
from trainer.shop import bundled_shop
from trainer.threads import Threads

settings_of_neighbours = st.builds(
    NeighbourSettings,
    neighbours=st.sampled_from([2, 100]),
    source_exponent=st.sampled_from([0.0, 0.5, 1.0]),
    target_exponent=st.sampled_from([0.0, 0.3, 1.0]),
    shrinkage=st.sampled_from([0.0, 2.0]),
    sharpness=st.sampled_from([1.0, 0.5, 3.0]),
    order=st.builds(Order, backward_weight=st.sampled_from([1.0, 0.2])),
)


def neighbours(contexts, rules, threads=1, on_progress=None):
    with Threads(threads) as pool:
        return item_neighbours(contexts, rules, pool, on_progress)


def rules_of(contexts, min_count, threads=1):
    with Threads(threads) as pool:
        return pair_rules(contexts, min_count, pool)


def weights_by_hand(contexts):
    weights = np.zeros(contexts.n_items)
    for items, _, weight in listed(contexts):
        weights[list(items)] += weight
    return weights


@settings(max_examples=100, deadline=None)
@given(made=contexts_as_lists, rules=settings_of_neighbours)
def test_rows_are_the_strongest_similarities_of_the_definition(made, rules):
    contexts = contexts_from(made)
    counts = reference.cooccurrence(listed(contexts), N_ITEMS, **vars(rules.order))
    exponents = rules.source_exponent, rules.target_exponent
    wanted = reference.similarities(counts, weights_by_hand(contexts), *exponents, rules.shrinkage, rules.sharpness)
    assert_strongest(full(neighbours(contexts, rules)), wanted, rules.neighbours)


def assert_strongest(found, wanted, most):
    """Near ties may fall either way: what is left out is no stronger than what stays."""
    kept = found != 0
    np.testing.assert_allclose(found[kept], wanted[kept], rtol=1e-6)
    assert (kept.sum(axis=1) == np.minimum((wanted > 0).sum(axis=1), most)).all()
    for row in range(len(found)):
        assert wanted[row][~kept[row]].max(initial=0) <= wanted[row][kept[row]].min(initial=np.inf) * (1 + 1e-6)


@settings(max_examples=100, deadline=None)
@given(made=contexts_as_lists, rules=settings_of_neighbours, two_steps=st.sampled_from([0.01, 0.35, 20.0]))
def test_two_steps_are_the_rows_and_what_their_neighbours_give(made, rules, two_steps):
    contexts = contexts_from(made)
    one_step = full(neighbours(contexts, replace(rules, neighbours=100)))  # however few are kept in the end
    found = full(neighbours(contexts, replace(rules, two_steps=two_steps)))
    assert_strongest(found, reference.walked(one_step, two_steps), rules.neighbours)


def test_two_steps_reach_what_was_never_together():
    made = [((0, 1), (0, 0), 1.0), ((1, 2), (0, 0), 1.0), ((3, 4), (0, 0), 1.0)]
    rules = NeighbourSettings(source_exponent=0.0, target_exponent=0.0, shrinkage=0.0, two_steps=0.5)
    found = full(neighbours(contexts_from(made, n_items=5), rules))
    assert found[0, 2] == pytest.approx(0.5 / 2**0.9)  # 1 * 1 / (1 + 1)^0.9
    assert found[0, 1] == 1
    assert found[3].tolist() == [0, 0, 0, 0, 1]
    assert (np.diag(found) == 0).all()


def test_sharper_similarities_are_their_powers():
    made = [((0, 1), (0, 0), 3.0), ((0, 2), (0, 0), 2.0)]
    rules = NeighbourSettings(source_exponent=0.0, target_exponent=0.0, shrinkage=0.0, sharpness=2.0)
    assert full(neighbours(contexts_from(made, n_items=3), rules))[0].tolist() == [0, 9, 4]


@settings(max_examples=50, deadline=None)
@given(made=contexts_as_lists, exponent=st.sampled_from([0.0, 0.5, 1.0]))
def test_equal_exponents_without_an_order_are_symmetric(made, exponent):
    rules = NeighbourSettings(neighbours=N_ITEMS, source_exponent=exponent, target_exponent=exponent, shrinkage=1.0)
    found = full(neighbours(contexts_from(made), rules))
    np.testing.assert_allclose(found, found.T, rtol=1e-6)


def test_the_named_similarities_are_what_their_names_say():
    # Item 0 in four contexts, item 1 in two, both together in two; item 2 once with 0, item 3 alone.
    made = [((0, 1), (0, 0), 1.0)] * 2 + [((0, 2), (0, 0), 1.0), ((0,), (0,), 1.0), ((3,), (0,), 1.0)]
    contexts = contexts_from(made, n_items=4)
    by_name = {
        name: full(neighbours(contexts, NeighbourSettings.named(name, shrinkage=0.0)))[:2, :2].tolist()
        for name in ("cosine", "confidence", "lift")
    }
    assert by_name["cosine"] == [[0, pytest.approx(2 / np.sqrt(8))], [pytest.approx(2 / np.sqrt(8)), 0]]
    assert by_name["confidence"] == [[0, 0.5], [1.0, 0]]
    assert by_name["lift"] == [[0, 0.25], [0.25, 0]]
    shrunk = neighbours(contexts, NeighbourSettings.named("confidence", shrinkage=2.0))
    assert full(shrunk)[1, 0] == 0.5
    only_one = neighbours(contexts, NeighbourSettings.named("confidence", neighbours=1, shrinkage=0.0))
    assert only_one.row(0)[0].tolist() == [1]
    assert np.diff(only_one.indptr).tolist() == [1, 1, 1, 0]


@settings(max_examples=50, deadline=None)
@given(made=contexts_as_lists, min_count=st.sampled_from([0.1, 1.0, 2.0]))
def test_rules_are_shares_of_contexts_counted_one_by_one(made, min_count):
    contexts = contexts_from(made)
    rules = rules_of(contexts, min_count)
    in_contexts = [(set(items), np.float64(np.float32(weight))) for items, _, weight in made]
    share = {}

    def weight_with(*items):
        return sum(weight for held, weight in in_contexts if held.issuperset(items))

    for s in range(N_ITEMS):
        for j in range(N_ITEMS):
            together = weight_with(s, j)
            if s != j and together >= min_count - 1e-9:
                total = weight_with()
                confidence = together / weight_with(s)
                share[s, j] = (together, together / total, confidence, confidence / (weight_with(j) / total))
    pairs = list(zip(rules.sources.tolist(), rules.targets.tolist(), strict=True))
    certain = {pair: each for pair, each in share.items() if abs(each[0] - min_count) > 1e-9 or pair in pairs}
    assert pairs == sorted(certain)
    columns = rules.counts, rules.supports, rules.confidences, rules.lifts
    for pair, *found in zip(pairs, *columns, strict=True):
        assert found == pytest.approx(share[pair], rel=1e-9)


def test_the_bits_are_the_same_for_any_number_of_threads(monkeypatch):
    contexts = random_contexts(300, 40, seed=1)
    rules = NeighbourSettings(neighbours=7, shrinkage=0.5, order=Order(window=3, distance_damping=0.7))
    walking = replace(rules, sharpness=1.7, two_steps=0.4)
    walked = neighbours(contexts, walking)
    monkeypatch.setattr(cooccurrence, "_BLOCK_PAIRS", 60)
    monkeypatch.setattr(item_neighbours_module, "_WALKED_ROWS", 7)
    one, one_rules = neighbours(contexts, rules), rules_of(contexts, 0.5)
    assert (walked.indices != one.indices).any()
    assert len(one_rules) > 100
    for threads in (1, 2, 3):
        for mine, theirs in zip(vars(one).values(), vars(neighbours(contexts, rules, threads)).values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        again = neighbours(contexts, walking, threads)
        for mine, theirs in zip(vars(walked).values(), vars(again).values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for mine, theirs in zip(vars(one_rules).values(), vars(rules_of(contexts, 0.5, threads)).values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_neighbours_in_the_bundled_shop_are_of_a_kind():
    bundled = bundled_shop()
    shop = read_interactions([str(bundled.events)], bundled.columns, cleaning=bundled.cleaning)
    contexts = of_baskets(shop.baskets, shop.n_items)
    told = []
    found = neighbours(contexts, NeighbourSettings(neighbours=5), threads=2, on_progress=told.append)
    green, pink, roses = shop.item_ids.rows(["22697", "22698", "22699"]).tolist()
    for cup in (green, pink, roses):  # the Regency teacups and saucers
        assert {green, pink, roses} - {cup} <= set(found.row(cup)[0].tolist())
    assert told[-1] == 1.0
    rules = rules_of(contexts, 300)
    place = np.flatnonzero((rules.sources == pink) & (rules.targets == green))
    holding = [set(each.tolist()) for each in np.split(contexts.indices, contexts.indptr[1:-1])]
    both = sum({pink, green} <= each for each in holding)
    assert rules.counts[place].tolist() == [both]
    assert rules.confidences[place].tolist() == [pytest.approx(both / sum(pink in each for each in holding))]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"neighbours": 0}, "neighbours is 0; expected 1 or more"),
        ({"source_exponent": 2.5}, "source_exponent is 2.5; expected from 0 to 2"),
        ({"target_exponent": -0.5}, "target_exponent is -0.5; expected from 0 to 2"),
        ({"shrinkage": float("inf")}, "shrinkage is inf; expected from 0"),
        ({"sharpness": 0.05}, "sharpness is 0.05; expected from 0.1 to 10"),
        ({"sharpness": float("nan")}, "sharpness is nan; expected from 0.1 to 10"),
        ({"two_steps": -0.1}, "two_steps is -0.1; expected from 0 to 100"),
        ({"two_steps": 101}, "two_steps is 101; expected from 0 to 100"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        NeighbourSettings(**wrong)


def test_a_similarity_of_no_known_name_and_rules_of_no_count_are_refused():
    with pytest.raises(UsageError, match="the similarity is 'jaccard'; expected one of cosine, confidence, lift"):
        NeighbourSettings.named("jaccard")
    with pytest.raises(UsageError, match="min_count is 0; expected more than 0"):
        rules_of(contexts_from([]), 0)
