"""The exact row solve against its definition. Runs once more with the JIT off (`make test`), so sizes are small."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config

from engine import row_solver
from engine.row_solver import EXACT, solve_rows


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


NO_SCALES = np.empty(0, dtype=np.float32)


def solve(rows, vectors, spectrum, a0=0.1, regularization=0.01, nu=1.0, *, row_scales=NO_SCALES, tolerance=EXACT):
    indptr, indices, values = rows
    out = np.full((len(indptr) - 1, vectors.shape[1]), np.nan, dtype=np.float32)
    sums = np.zeros(4)
    code = solve_rows(
        indptr, indices, values, vectors, row_scales, spectrum, a0, regularization, nu,
        len(vectors), tolerance, 0, len(out), out, sums,
    )  # fmt: skip
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
    # Shorter than, as long as and longer than the vectors.
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


def test_the_reported_sums_are_the_parts_of_the_objective():
    generator = np.random.default_rng(3)
    vectors, spectrum = eigenbasis(generator.normal(size=(40, 6)).astype(np.float32))
    rows = rows_of([2, 9, 25], 40, generator, negative=0.2)
    _, out, sums = solve(rows, vectors, spectrum, nu=0.5)
    weights, targets = reference.dense(*rows, 40)
    predictions = out.astype(np.float64) @ vectors.astype(np.float64).T
    assert sums[0] == pytest.approx((weights * (targets - predictions) ** 2).sum(), rel=1e-4)
    penalties = [reference.row_penalty(n, 0.1, 0.01, 0.5, 40) for n in (2, 9, 25)]
    assert sums[1] == pytest.approx(0.1 * (predictions**2).sum(), rel=1e-4)
    assert sums[2] == pytest.approx((penalties * (out.astype(np.float64) ** 2).sum(axis=1)).sum(), rel=1e-5)


def loss_of(x, weights, targets, vectors, a0, penalty):
    scores = vectors.astype(np.float64) @ x
    return (weights * (targets - scores) ** 2).sum() + a0 * (scores**2).sum() + penalty * (x @ x)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5, EXACT])
def test_the_loss_of_every_row_is_within_the_tolerance_of_its_minimum(tolerance):
    generator = np.random.default_rng(4)
    vectors, spectrum = eigenbasis(generator.normal(size=(200, 12)).astype(np.float32))
    lengths = [1, 2, 5, 12, 13, 40, 150]
    rows = rows_of(lengths, len(vectors), generator, negative=0.1)
    _, out, sums = solve(rows, vectors, spectrum, tolerance=tolerance)
    best = expected_rows(rows, vectors, 0.1, 0.01, 1.0)
    weights, targets = reference.dense(*rows, len(vectors))
    for r, n in enumerate(lengths):
        about = (weights[r], targets[r], vectors, 0.1, reference.row_penalty(n, 0.1, 0.01, 1.0, len(vectors)))
        minimum, found = loss_of(best[r], *about), loss_of(out[r].astype(np.float64), *about)
        assert minimum - 1e-9 <= found <= minimum * (1 + tolerance / (1 - tolerance)) + 1e-6 * minimum
    exact = solve(rows, vectors, spectrum)[2][3]
    assert sums[3] == exact if tolerance == EXACT else sums[3] < exact


@pytest.mark.parametrize(("regularization", "weight"), [(1e-6, 1.0), (1e-6, 1e3), (1e-3, 1e4), (10.0, 1e-3)])
def test_hard_rows_come_as_near_to_the_minimum_as_float32_can(regularization, weight):
    generator = np.random.default_rng(11)
    vectors, spectrum = eigenbasis(generator.normal(size=(120, 16)).astype(np.float32))
    indptr, indices, values = rows_of([3, 16, 17, 60, 110], len(vectors), generator)
    rows = (indptr, indices, values * np.float32(weight))
    code, out, _ = solve(rows, vectors, spectrum, a0=1e-3, regularization=regularization)
    best = expected_rows(rows, vectors, 1e-3, regularization, 1.0)
    weights, targets = reference.dense(*rows, len(vectors))
    assert code == -1
    for r, n in enumerate(np.diff(indptr)):
        penalty = reference.row_penalty(n, 1e-3, regularization, 1.0, len(vectors))
        about = (weights[r], targets[r], vectors, 1e-3, penalty)
        at_zero, minimum = loss_of(np.zeros(16), *about), loss_of(best[r], *about)
        assert loss_of(out[r].astype(np.float64), *about) <= minimum + 1e-5 * at_zero


def test_vectors_of_sixteen_bits_with_a_scale_a_row_are_what_they_stand_for():
    generator = np.random.default_rng(12)
    vectors, spectrum = eigenbasis(generator.normal(size=(80, 9)).astype(np.float32))
    row_scales = (np.abs(vectors).max(axis=1) / 32767).astype(np.float32)
    whole = np.rint(vectors / row_scales[:, np.newaxis]).astype(np.int16)
    rows = rows_of([1, 4, 9, 30], len(vectors), generator, negative=0.2)
    _, packed, _ = solve(rows, whole, spectrum, row_scales=row_scales)
    _, plain, _ = solve(rows, whole * row_scales[:, np.newaxis], spectrum)
    np.testing.assert_allclose(packed, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


def test_a_row_too_long_to_keep_is_gathered_anew_and_gives_the_same(monkeypatch):
    factors = 512
    if config.DISABLE_JIT:  # plain Python sees another limit; compiled code has it built in
        factors = 8
        monkeypatch.setattr(row_solver, "RESIDENT_FLOATS", 40 * factors)
        monkeypatch.setattr(row_solver, "_BLOCK_FLOATS", 16 * factors)
    resident = row_solver.RESIDENT_FLOATS // factors
    generator = np.random.default_rng(13)
    vectors, spectrum = eigenbasis(generator.normal(size=(resident + 700, factors)).astype(np.float32))
    rows = rows_of([resident - 1, resident, resident + 1, resident + 600], len(vectors), generator, negative=0.1)
    code, out, _ = solve(rows, vectors, spectrum)
    assert code == -1
    gram = vectors.T.astype(np.float64) @ vectors
    for r, n in enumerate(np.diff(rows[0])):
        entries = slice(rows[0][r], rows[0][r + 1])
        own, values = vectors[rows[1][entries]].astype(np.float64), rows[2][entries].astype(np.float64)
        penalty = reference.row_penalty(n, 0.1, 0.01, 1.0, len(vectors))
        matrix = 0.1 * gram + (own.T * np.abs(values)) @ own + penalty * np.eye(factors)
        expected = np.linalg.solve(matrix, own.T @ np.maximum(values, 0))
        np.testing.assert_allclose(out[r], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_a_square_row_nearly_without_a_penalty_still_comes_to_its_minimum():
    generator = np.random.default_rng(0)
    vectors, _ = eigenbasis(generator.normal(size=(64, 64)).astype(np.float32))
    spectrum = np.zeros(64, dtype=np.float32)
    rows = (np.array([0, 64]), np.arange(64, dtype=np.int32), np.ones(64, dtype=np.float32))
    _, out, _ = solve(rows, vectors, spectrum, a0=0.0, regularization=1e-7, nu=0.0)
    best = expected_rows(rows, vectors, 0.0, 1e-7, 0.0)
    about = (np.ones(64), np.ones(64), vectors, 0.0, 1e-7)
    assert loss_of(out[0].astype(np.float64), *about) <= loss_of(best[0], *about) + 1e-5 * 64


def test_a_row_that_fits_perfectly_is_no_failure():
    generator = np.random.default_rng(0)
    for _ in range(300):
        vectors, spectrum = eigenbasis(generator.normal(size=(20, 1)).astype(np.float32))
        rows = (np.array([0, 1]), np.array([3], dtype=np.int32), np.ones(1, dtype=np.float32))
        code, out, _ = solve(rows, vectors, spectrum, a0=0.0, regularization=1e-8)
        assert code == -1
        assert out[0, 0] * vectors[3, 0] == pytest.approx(1, rel=1e-3)


def test_a_range_of_rows_equals_the_same_rows_of_a_whole_run():
    generator = np.random.default_rng(5)
    vectors, spectrum = eigenbasis(generator.normal(size=(60, 5)).astype(np.float32))
    rows = rows_of([4, 0, 30, 7, 2], 60, generator)
    _, whole, _ = solve(rows, vectors, spectrum)
    part = np.empty((2, 5), dtype=np.float32)
    solve_rows(*rows, vectors, NO_SCALES, spectrum, 0.1, 0.01, 1.0, 60, EXACT, 2, 4, part, np.zeros(4))
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

    about = (weights[0], targets[0], vectors, a0, penalty)
    x = out[0].astype(np.float64)
    for _ in range(5):
        step = generator.normal(size=factors)
        assert loss_of(x, *about) <= loss_of(x + 1e-2 * step / np.linalg.norm(step), *about) + 1e-9
