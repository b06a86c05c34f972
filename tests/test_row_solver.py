"""The exact row solve against its definition. Runs once more with the JIT off (`make test`), so sizes are small."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.row_solver import add_gram, solve_rows


def eigenbasis(vectors):
    """Vectors rotated to the eigenbasis of their Gram matrix, and its diagonal, as a training half epoch does."""
    values, rotation = np.linalg.eigh(vectors.astype(np.float64).T @ vectors)
    return (vectors @ rotation).astype(np.float32), np.maximum(values, 0).astype(np.float32)


def rows_of(lengths, n_others, generator, *, negative=0.0, weighted=True):
    """CSR rows of the given lengths with random entries."""
    indptr = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    indices = np.concatenate([np.sort(generator.choice(n_others, n, replace=False)) for n in lengths]).astype(np.int32)
    values = generator.uniform(0.2, 3.0, len(indices)) if weighted else np.ones(len(indices))
    values = np.where(generator.random(len(indices)) < negative, -values, values)
    return indptr, indices, values.astype(np.float32)


def solve(rows, vectors, spectrum, a0=0.1, regularization=0.01, nu=1.0):
    indptr, indices, values = rows
    out = np.full((len(indptr) - 1, vectors.shape[1]), np.nan, dtype=np.float32)
    sums = np.zeros(2)
    code = solve_rows(
        indptr, indices, values, vectors, spectrum, a0, regularization, nu, len(vectors), 0, len(out), out, sums
    )
    return code, out, sums


def expected_rows(rows, vectors, a0, regularization, nu):
    weights, targets = reference.dense(*rows, len(vectors))
    counts = np.diff(rows[0])
    return np.stack(
        [
            reference.solve_row(
                weights[r], targets[r], vectors, a0, reference.row_penalty(n, a0, regularization, nu, len(vectors))
            )
            for r, n in enumerate(counts)
        ]
    )


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("negative", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factors", [1, 3, 8, 13])
def test_rows_of_every_length_solve_the_normal_equations(factors, nu, negative, weighted):
    generator = np.random.default_rng(factors)
    vectors, spectrum = eigenbasis(generator.normal(size=(90, factors)).astype(np.float32))
    # Shorter than, as long as and longer than the vectors, and longer than one gathered block.
    lengths = [0, 1, 2, 3, 4, 5, factors, factors + 1, 31, 70]
    rows = rows_of(lengths, len(vectors), generator, negative=negative, weighted=weighted)
    code, out, _ = solve(rows, vectors, spectrum, nu=nu)
    expected = expected_rows(rows, vectors, 0.1, 0.01, nu)
    assert code == -1
    np.testing.assert_allclose(out, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())


def test_an_empty_row_is_exactly_zero():
    vectors, spectrum = eigenbasis(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    code, out, sums = solve(rows_of([0, 3, 0], 20, np.random.default_rng(1)), vectors, spectrum)
    assert code == -1
    assert not out[0].any()
    assert not out[2].any()
    assert out[1].any()
    assert sums[0] > 0


def test_the_reported_sums_are_the_observed_loss_and_the_penalty():
    generator = np.random.default_rng(3)
    vectors, spectrum = eigenbasis(generator.normal(size=(40, 6)).astype(np.float32))
    rows = rows_of([2, 9, 25], 40, generator, negative=0.2)
    _, out, sums = solve(rows, vectors, spectrum, nu=0.5)
    weights, targets = reference.dense(*rows, 40)
    predictions = out.astype(np.float64) @ vectors.astype(np.float64).T
    assert sums[0] == pytest.approx((weights * (targets - predictions) ** 2).sum(), rel=1e-4)
    penalties = [reference.row_penalty(n, 0.1, 0.01, 0.5, 40) for n in (2, 9, 25)]
    assert sums[1] == pytest.approx((penalties * (out.astype(np.float64) ** 2).sum(axis=1)).sum(), rel=1e-5)


def test_the_dual_and_the_primal_system_give_the_same_row():
    # A row of d + 1 entries goes through the d x d system; with one entry of vanishing weight less, through the n x n.
    generator = np.random.default_rng(4)
    vectors, spectrum = eigenbasis(generator.normal(size=(50, 8)).astype(np.float32))
    indices = np.sort(generator.choice(50, 9, replace=False)).astype(np.int32)
    values = np.ones(9, dtype=np.float32)
    values[-1] = 1e-12
    long = (np.array([0, 9]), indices, values)
    short = (np.array([0, 8]), indices[:8], values[:8])
    _, primal, _ = solve(long, vectors, spectrum, nu=0.0)
    _, dual, _ = solve(short, vectors, spectrum, nu=0.0)
    np.testing.assert_allclose(primal, dual, rtol=1e-4, atol=1e-6)


def test_a_range_of_rows_equals_the_same_rows_of_a_whole_run():
    generator = np.random.default_rng(5)
    vectors, spectrum = eigenbasis(generator.normal(size=(60, 5)).astype(np.float32))
    rows = rows_of([4, 0, 30, 7, 2], 60, generator)
    _, whole, _ = solve(rows, vectors, spectrum)
    part = np.empty((2, 5), dtype=np.float32)
    solve_rows(*rows, vectors, spectrum, 0.1, 0.01, 1.0, 60, 2, 4, part, np.zeros(2))
    np.testing.assert_array_equal(part, whole[2:4])


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(damage):
    generator = np.random.default_rng(6)
    vectors, spectrum = eigenbasis(generator.normal(size=(30, 4)).astype(np.float32))
    rows = (np.array([0, 2, 4, 6]), np.array([0, 1, 2, 3, 4, 5], dtype=np.int32), np.ones(6, dtype=np.float32))
    vectors = vectors.copy()
    vectors[2] = damage
    with np.errstate(invalid="ignore"):
        code, _, _ = solve(rows, vectors, spectrum)
    assert code == 1


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    factors=st.integers(1, 12),
    a0=st.floats(1e-3, 1.0),
    regularization=st.floats(1e-3, 1.0),
    seed=st.integers(0, 2**16),
)
def test_no_nearby_vector_has_a_smaller_loss(n, factors, a0, regularization, seed):
    generator = np.random.default_rng(seed)
    vectors, spectrum = eigenbasis(generator.normal(size=(40, factors)).astype(np.float32))
    rows = rows_of([n], 40, generator, negative=0.1)
    _, out, _ = solve(rows, vectors, spectrum, a0=a0, regularization=regularization)
    weights, targets = reference.dense(*rows, 40)
    penalty = reference.row_penalty(n, a0, regularization, 1.0, 40)

    def loss(x):
        scores = vectors.astype(np.float64) @ x
        return (weights[0] * (targets[0] - scores) ** 2).sum() + a0 * (scores**2).sum() + penalty * (x @ x)

    x = out[0].astype(np.float64)
    for _ in range(5):
        step = generator.normal(size=factors)
        assert loss(x) <= loss(x + 1e-2 * step / np.linalg.norm(step)) + 1e-9


@pytest.mark.parametrize(("n", "factors"), [(0, 3), (1, 1), (7, 5), (300, 4), (257, 9)])
def test_the_gram_matrix_is_the_sum_of_outer_products(n, factors):
    vectors = np.random.default_rng(n).normal(size=(n, factors)).astype(np.float32)
    out = np.ones((factors, factors))
    add_gram(vectors, out)
    expected = np.ones((factors, factors)) + sum(
        (np.outer(v, v) for v in vectors.astype(np.float64)), start=np.zeros((factors, factors))
    )
    lower = np.tril_indices(factors)
    np.testing.assert_allclose(out[lower], expected[lower], rtol=1e-5, atol=1e-4)
