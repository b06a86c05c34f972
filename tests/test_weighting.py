from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_events import entry_values

from trainer.cleaning import Cleaning
from trainer.weighting import AMONG_ALL, Weighting, weigh_alone, weigh_among_all

sums = st.integers(-5_000_000, 50_000_000).filter(bool)
matrices = st.dictionaries(
    st.tuples(st.integers(0, 5), st.integers(0, 6)), st.one_of(st.sampled_from([1, -1]), sums), min_size=1
)


def weights_of(matrix: dict[tuple[int, int], float], cleaning: Cleaning) -> dict[tuple[int, int], float]:
    """The weights by user row and item row; users that no key names have no entry."""
    pairs = sorted(matrix)
    n_users = max(user for user, _ in pairs) + 1
    indptr = np.searchsorted([user for user, _ in pairs], np.arange(n_users + 1)).astype(np.int64)
    totals = np.array([matrix[pair] for pair in pairs], dtype=np.float64)
    alone = weigh_alone(totals, totals, cleaning.weighting)
    rules = (cleaning.weighting, cleaning.saturation, cleaning.length_normalization)
    weights = weigh_among_all(alone, indptr, np.array([item for _, item in pairs], dtype=np.int32), *rules)
    return dict(zip(pairs, weights.tolist(), strict=True))


@given(
    matrix=matrices,
    weighting=st.sampled_from(AMONG_ALL),
    saturation=st.sampled_from([0.1, 1.2, 100.0]),
    length_normalization=st.sampled_from([0.0, 0.75, 1.0]),
)
def test_weights_agree_with_the_definition_and_their_mean_size_is_one(
    matrix: dict[tuple[int, int], int], weighting: Weighting, saturation: float, length_normalization: float
) -> None:
    rules = Cleaning(weighting=weighting, saturation=saturation, length_normalization=length_normalization)
    expected = entry_values({pair: [Fraction(total, 1_000_000)] for pair, total in matrix.items()}, rules)  # type: ignore[misc]
    found = weights_of({pair: total / 1_000_000 for pair, total in matrix.items()}, rules)
    assert found == pytest.approx(expected, rel=1e-9, abs=0)
    assert np.mean(np.abs(list(found.values()))) == pytest.approx(1)
    assert all(math.copysign(1, found[pair]) == math.copysign(1, matrix[pair]) for pair in matrix)


@pytest.mark.parametrize("weighting", AMONG_ALL)
def test_what_few_users_have_weighs_more_than_what_all_have(weighting: Weighting) -> None:
    everybody = {(user, 0): 1.0 for user in range(4)}
    found = weights_of(everybody | {(0, 1): 1.0, (1, 2): 1.0}, Cleaning(weighting=weighting))
    assert found[0, 1] > found[0, 0] > 0


def test_bm25_saturates_and_an_entry_of_a_long_history_weighs_less() -> None:
    matrix = {(0, item): 1.0 for item in range(1, 6)} | {(1, 1): 1.0, (1, 2): 3.0, (1, 3): 1000.0}
    found = weights_of(matrix, Cleaning(weighting="bm25", length_normalization=0.0))
    assert found[1, 1] < found[1, 2] < found[1, 3] < 2.2 * found[1, 1]
    short = {(0, item): 1.0 for item in range(1, 6)} | {(1, 1): 1.0}
    found = weights_of(short, Cleaning(weighting="bm25"))
    assert found[1, 1] > found[0, 1]
    assert weights_of(short, Cleaning(weighting="bm25", length_normalization=0.0))[1, 1] == pytest.approx(
        weights_of(short, Cleaning(weighting="bm25", length_normalization=0.0))[0, 1]
    )


def test_the_textbook_numbers_of_two_users() -> None:
    # N = 2 users; item 0 has n = 2, item 1 n = 1; lengths 1 and 3, their mean 2
    found = weights_of({(0, 0): 1.0, (1, 0): 1.0, (1, 1): 2.0}, Cleaning(weighting="bm25"))
    common, rare = math.log(1 + 0.5 / 2.5), math.log(1 + 1.5 / 1.5)
    short, long = 1.2 * (0.25 + 0.75 * 0.5), 1.2 * (0.25 + 0.75 * 1.5)
    raw = np.array([common * 2.2 / (1 + short), common * 2.2 / (1 + long), rare * 4.4 / (2 + long)])
    assert list(found.values()) == pytest.approx(raw / raw.mean())
    found = weights_of({(0, 0): 1.0, (1, 0): 1.0, (1, 1): 2.0}, Cleaning(weighting="tfidf"))
    raw = np.array([1.0, 1.0, (1 + math.log(2)) * (1 + math.log(3 / 2))])
    assert list(found.values()) == pytest.approx(raw / raw.mean())
    found = weights_of({(0, 0): 1.0, (1, 0): 1.0, (1, 1): 2.0}, Cleaning(weighting="propensity"))
    raw = np.array([2**-0.25, 2**-0.25, 1 + math.log(2)])
    assert list(found.values()) == pytest.approx(raw / raw.mean())


def test_the_logarithm_passes_one_without_a_step_and_never_changes_the_sign() -> None:
    totals = np.array([1e-6, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, math.e, -1e-6, -math.e])
    expected = [1e-6, 0.5, 1, 1, 1, 2, -1e-6, -2]
    assert weigh_alone(totals, totals, "log") == pytest.approx(expected, rel=1e-8)


def test_no_entries_have_no_weights() -> None:
    for weighting in AMONG_ALL:
        assert len(weigh_among_all(np.empty(0), np.zeros(3, np.int64), np.empty(0, np.int32), weighting)) == 0
