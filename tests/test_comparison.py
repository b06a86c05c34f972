"""The bootstrap and the randomization test against every resample and every assignment of signs, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.comparison import compare, intervals
from trainer.errors import EvaluationError

users = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=40).map(np.array)


def generator():
    return np.random.default_rng(11)


def interval(values, **options):
    return intervals({"m": np.asarray(values, dtype=np.float64)}, generator(), **options)["m"]


def difference(first, second, **options):
    first, second = (np.asarray(values, dtype=np.float64) for values in (first, second))
    return compare({"m": first}, {"m": second}, generator(), **options)["m"]


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_all_resamples(seed):
    values = np.random.default_rng(seed).random(6)
    means = reference.all_resamples(values)
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(interval(values, resamples=40_000), expected, atol=0.01)
    np.testing.assert_allclose(
        interval(values, resamples=40_000, level=0.5), np.quantile(means, [0.25, 0.75]), atol=0.01
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_is_that_of_all_assignments_of_signs(seed):
    differences = np.round(np.random.default_rng(seed).normal(0.3, 1, 10), 2)
    expected = reference.all_sign_flips_p(differences)
    assert difference(differences, np.zeros(10), flips=40_000).p == pytest.approx(expected, abs=0.01)


def test_the_interval_of_many_users_is_that_of_the_normal_distribution():
    values = np.random.default_rng(2).random(4000)
    margin = 1.96 * values.std() / np.sqrt(4000)
    np.testing.assert_allclose(interval(values), [values.mean() - margin, values.mean() + margin], rtol=2e-3)


@settings(max_examples=60, deadline=None)
@given(values=users)
def test_the_interval_holds_the_mean_and_lies_within_the_values(values):
    low, high = interval(values, resamples=500)
    assert values.min() - 1e-12 <= low <= values.mean() + 1e-12
    assert values.mean() - 1e-12 <= high <= values.max() + 1e-12


@settings(max_examples=30, deadline=None)
@given(values=users)
def test_a_model_does_not_differ_from_itself(values):
    found = difference(values, values, resamples=50, flips=50)
    assert (found.mean, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)


@settings(max_examples=30, deadline=None)
@given(first=users, seed=st.integers(0, 100))
def test_swapping_the_models_flips_the_sign(first, seed):
    second = np.random.default_rng(seed).random(len(first))
    there, back = (difference(*pair, resamples=200, flips=200) for pair in ((first, second), (second, first)))
    assert back.mean == pytest.approx(-there.mean, abs=1e-12)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=1e-12)
    assert back.p == there.p


def test_a_difference_that_every_user_agrees_on_is_told_from_chance():
    found = difference(np.full(50, 0.6), np.full(50, 0.5))
    assert found.mean == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.1, 0.1))
    assert found.p == 1 / 10_001


def test_a_difference_that_users_disagree_on_evenly_is_chance():
    found = difference(np.tile([1.0, 0.0], 30), np.tile([0.0, 1.0], 30))
    assert found.mean == 0
    assert found.interval[0] < 0 < found.interval[1]
    assert found.p == 1.0


def test_users_without_a_value_count_in_nothing():
    first, second = np.array([0.5, np.nan, 0.1, 0.7]), np.array([0.25, 0.9, np.nan, 0.45])
    found = difference(first, second)
    assert found.mean == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))
    assert found.p == pytest.approx(0.5, abs=0.02)
    assert interval([np.nan, 0.4, np.nan]) == pytest.approx((0.4, 0.4))


def test_every_metric_keeps_its_own_numbers_and_its_name():
    first = {"recall@5": np.full(9, 0.5), "mrr@5": np.arange(9) / 9}
    second = {"recall@5": np.full(9, 0.25), "mrr@5": np.zeros(9)}
    found = compare(first, second, generator())
    assert list(found) == ["recall@5", "mrr@5"]
    assert found["recall@5"].interval == (0.25, 0.25)
    assert found["mrr@5"].mean == pytest.approx(np.mean(np.arange(9) / 9))
    assert intervals({}, generator()) == compare({}, {}, generator()) == {}


def test_the_same_seed_gives_the_same_bits_and_blocks_do_not_matter(monkeypatch):
    first, second = np.random.default_rng(3).random((2, 100))
    whole = difference(first, second)
    assert difference(first, second) == whole
    monkeypatch.setattr("trainer.comparison._BLOCK_DRAWS", 1000)
    assert difference(first, second).interval == pytest.approx(whole.interval, rel=1e-9)


def test_models_that_share_no_user_with_a_value_are_refused():
    with pytest.raises(EvaluationError, match="m: none of the 2 users has a value from both"):
        difference([np.nan, 0.5], [0.5, np.nan])
