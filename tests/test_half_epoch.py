"""Half an epoch: chunks cover every row once, the same bits for any number of threads, and rows that fail are named."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from made_interactions import interactions_of, random_matrix
from threadpoolctl import threadpool_limits

from engine.row_solver import EXACT
from trainer import half_epoch
from trainer.eigenbasis import gram, packed, rotated
from trainer.half_epoch import Penalty, RowNotFinite, equal_cost_bounds, giant_rows, solve_side
from trainer.interactions import Csr
from trainer.threads import Threads

PENALTY = Penalty(unobserved_weight=0.1, regularization=0.02, regularization_exponent=0.7)
D = 6


def others(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def solved(rows, vectors, *, threads=1, table_of=rotated, tolerance=EXACT, on_progress=None):
    """The rows' vectors in the basis of the other side's table, the sums, and the table."""
    out = np.full((rows.n_rows, D), np.nan, dtype=np.float32)
    with threadpool_limits(1, "blas"), Threads(threads) as pool:
        table = table_of(vectors.copy(), gram(vectors, pool), pool)
        sums = solve_side(rows, table, PENALTY, tolerance, out, pool, on_progress)
    return out, sums, table


@pytest.fixture
def small_chunks(monkeypatch):
    """Many chunks of little data, as large shops have them."""
    monkeypatch.setattr(half_epoch, "_LEAST_CHUNK", 40)


@pytest.fixture
def small_giants(monkeypatch):
    """Rows from 30 entries on are giants, whose pieces are short."""
    monkeypatch.setattr(half_epoch, "_GIANT_ENTRIES", 30)
    monkeypatch.setattr(half_epoch, "_GIANT_SHARE", 0.0)
    monkeypatch.setattr("trainer.giant_rows._PIECE_ENTRIES", 7)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 3, 50, 9_000, 1_000_000]), max_size=400))
def test_chunks_cover_all_rows_once_and_in_order(lengths):
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    bounds = equal_cost_bounds(indptr)
    assert bounds[0] == 0
    assert bounds[-1] == len(lengths)
    assert (np.diff(bounds) > 0).all()
    assert len(bounds) <= half_epoch._MOST_CHUNKS + 1


def test_chunks_of_equal_rows_cost_about_the_same():
    indptr = np.arange(300_001, dtype=np.int64) * 30
    sizes = np.diff(equal_cost_bounds(indptr))
    assert len(sizes) == half_epoch._MOST_CHUNKS
    assert sizes.max() <= sizes.min() + 2


@pytest.mark.parametrize("table_of", [rotated, packed])
def test_every_row_solves_its_normal_equations(table_of, small_chunks):
    interactions = interactions_of(random_matrix(60, 40, seed=1, negative=0.2))
    rows = interactions.by_user
    out, sums, table = solved(rows, others(40), table_of=table_of)
    vectors = table.vectors.astype(np.float64)
    if len(table.row_scales):
        vectors *= table.row_scales[:, np.newaxis]
    weights, targets = reference.dense(rows.indptr, rows.indices, rows.values, 40)
    observed = penalty = 0.0
    for row, n in enumerate(np.diff(rows.indptr)):
        of_row = reference.row_penalty(n, *vars(PENALTY).values(), 40)
        assert PENALTY.of_row(int(n), 40) == pytest.approx(of_row)
        # In a packed table the spectrum is that of the vectors before they were rounded.
        expected = reference.solve_row(weights[row], targets[row], vectors, PENALTY.unobserved_weight, of_row)
        np.testing.assert_allclose(out[row], expected, atol=2e-4)
        observed += (weights[row] * (targets[row] - vectors @ out[row]) ** 2).sum()
        penalty += of_row * np.square(out[row].astype(np.float64)).sum()
    assert sums.observed == pytest.approx(observed, rel=1e-3)
    assert sums.penalty == pytest.approx(penalty, rel=1e-5)
    assert sums.multiply_adds > rows.n_entries * D


@pytest.mark.parametrize("threads", [2, 5])
def test_the_bits_are_the_same_for_any_number_of_threads(threads, small_chunks, small_giants):
    rows = interactions_of(random_matrix(300, 80, seed=2, negative=0.1, density=0.4)).by_user
    assert 0 < len(giant_rows(rows.indptr)) < 300
    one, more = solved(rows, others(80)), solved(rows, others(80), threads=threads)
    np.testing.assert_array_equal(one[0], more[0])
    assert one[1] == more[1]


def test_giant_rows_are_solved_as_other_rows_are(monkeypatch):
    rows = interactions_of(random_matrix(50, 80, seed=3, negative=0.1, density=0.6)).by_user
    plain, plain_sums, _ = solved(rows, others(80))
    monkeypatch.setattr(half_epoch, "_GIANT_ENTRIES", 45)
    monkeypatch.setattr(half_epoch, "_GIANT_SHARE", 0.0)
    monkeypatch.setattr("trainer.giant_rows._PIECE_ENTRIES", 7)
    giants = giant_rows(rows.indptr)
    assert 5 < len(giants) < 45
    found, sums, _ = solved(rows, others(80), threads=2)
    np.testing.assert_allclose(found, plain, atol=2e-5)
    assert sums.observed == pytest.approx(plain_sums.observed, rel=1e-5)
    assert sums.penalty == pytest.approx(plain_sums.penalty, rel=1e-5)


def test_sides_without_rows_and_rows_without_entries_are_nothing_and_zeros():
    nothing = Csr(np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32), 5)
    out, sums, _ = solved(nothing, others(5))
    assert out.shape == (0, D)
    assert (sums.observed, sums.penalty, sums.multiply_adds) == (0, 0, 0)
    empty = Csr(np.zeros(8, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32), 5)
    out, sums, _ = solved(empty, others(5))
    np.testing.assert_array_equal(out, np.zeros((7, D)))
    assert (sums.observed, sums.penalty) == (0, 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_row_that_is_not_finite_is_named(threads, small_chunks):
    matrix = random_matrix(60, 40, seed=4)
    matrix[[51, 17, 58], 3] = np.nan
    with pytest.raises(RowNotFinite) as caught:
        solved(interactions_of(matrix).by_user, others(40), threads=threads)
    assert caught.value.row == 17


def test_a_giant_row_that_is_not_finite_is_named(small_chunks, small_giants):
    matrix = random_matrix(60, 80, seed=4)
    matrix[23, :] = 1
    matrix[23, 9] = np.nan
    with pytest.raises(RowNotFinite) as caught:
        solved(interactions_of(matrix).by_user, others(80), threads=2)
    assert caught.value.row == 23


def test_progress_rises_to_the_whole(small_chunks):
    told = []
    solved(interactions_of(random_matrix(60, 40, seed=5)).by_user, others(40), threads=2, on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_loose_tolerance_costs_less_and_leaves_the_loss_within_it():
    rows = interactions_of(random_matrix(60, 40, seed=6)).by_user
    losses, costs = [], []
    for tolerance in (EXACT, 1e-2):
        out, sums, table = solved(rows, others(40), tolerance=tolerance)
        background = np.square(out.astype(np.float64)) @ table.spectrum.astype(np.float64)
        losses.append(sums.observed + sums.penalty + PENALTY.unobserved_weight * background.sum())
        costs.append(sums.multiply_adds)
    assert costs[1] < costs[0]
    assert losses[0] < losses[1] <= losses[0] * 1.01
